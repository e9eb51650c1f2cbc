"""What an index remembers, in sentences. Loads no torch; computes nothing but shares into counts."""

from __future__ import annotations

from clipdrift.comparison.index_facts import MAPS, Estimate, IndexMemory, Queries, Search

_NAMES = {"ridge": "a linear map", "rotation": "a rotation"}


def index_lines(found: IndexMemory) -> list[str]:
    """Lines for a reader, the most important first."""
    return [*_of(found, found.by_image), *([] if found.by_text is None else _of(found, found.by_text))]


def furthest(search: Search) -> int:
    """The largest number of images that was looked at."""
    return max(search.overlap)


def _of(found: IndexMemory, queries: Queries) -> list[str]:
    lines = [_neighbours(found, queries)]
    if queries.truth is not None:
        lines.append(_truth(found, queries))
    return lines


def _neighbours(found: IndexMemory, queries: Queries) -> str:
    """How much of what BASE's queries find TUNED's queries find, in BASE's index."""
    k = furthest(queries.searches["today"])
    asked = f"{queries.count:,} {'images' if queries.kind == 'images' else 'captions'}"
    start = f"An index of {queries.gallery:,} images built with BASE, searched by {asked}: "
    if found.direct:
        finds = _count(_at(queries, "kept_index", k), k)
        said = f"{start}TUNED finds {finds} of the {k} that BASE finds, without re-embedding"
    else:
        old, new = found.widths
        said = (
            f"{start}TUNED's embeddings are {new} wide and BASE's {old}, so TUNED cannot search it as it is"
        )
    return f"{said}; {'; '.join(_map(found, queries, name, k) for name in _told(found))}."


def _told(found: IndexMemory) -> list[str]:
    """The maps to speak of: one reason is enough where there is none."""
    refused = {found.maps[name].refused for name in MAPS}
    return ["ridge"] if len(refused) == 1 and refused != {""} else list(MAPS)


def _map(found: IndexMemory, queries: Queries, name: str, k: int) -> str:
    fitted = found.maps[name]
    if fitted.refused:
        return f"no {_NAMES[name].removeprefix('a ')} was fitted: {fitted.refused}"
    on = (
        f" fitted on {fitted.images:,} images of the index"
        if name == "ridge" and queries.kind == "images"
        else ""
    )
    finds = f"{_count(_at(queries, name, k), k, interval=False)} of {k}"
    if not found.direct:
        return f"through {_NAMES[name]}{on} it finds {finds}"
    won = queries.won_back[name][f"overlap@{k}"]
    if won is None:
        return f"through {_NAMES[name]}{on} it finds {finds}"
    if won.value < 0:
        return f"{_NAMES[name]}{on} wins nothing back ({finds})"
    return f"{_NAMES[name]}{on} wins back {won.value:.0f} % of what was lost ({finds})"


def _truth(found: IndexMemory, queries: Queries) -> str:
    """How often the nearest image is a right one, in every way of searching."""
    k = 1 if queries.kind == "images" else furthest(queries.searches["today"])
    what = (
        "the nearest image is of the right class"
        if queries.kind == "images"
        else (f"the caption's own image is among {k}")
    )
    shares = {name: f"{100 * search.recall[k].value:.1f} %" for name, search in queries.searches.items()}
    parts = [f"for {shares['today']} today (BASE on BASE's index)"]
    if "kept_index" in shares:
        parts.append(f"{shares['kept_index']} with TUNED on it")
    parts += [f"{shares[name]} through {_NAMES[name]}" for name in MAPS if name in shares]
    parts.append(f"{shares['new_index']} re-embedded with TUNED")
    return f"Against the {queries.truth}, {what} {', '.join(parts)}."


def _at(queries: Queries, search: str, k: int) -> Estimate:
    return queries.searches[search].overlap[k]


def _count(estimate: Estimate, k: int, interval: bool = True) -> str:
    """A share as so many of k, with its interval: ``4.2 (4.0 to 4.4)``."""
    text = f"{k * estimate.value:.1f}"
    if not interval or estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({k * estimate.low:.1f} to {k * estimate.high:.1f})"
