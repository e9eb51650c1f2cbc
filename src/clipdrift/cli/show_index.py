"""Terminal output of what an index remembers: its sentences, a table of every way to search."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.comparison.index_facts import IndexMemory, Queries
from clipdrift.comparison.index_words import furthest, index_lines

_NAMES = {
    "today": "BASE today",
    "kept_index": "TUNED on BASE's index",
    "ridge": "TUNED, linear map",
    "rotation": "TUNED, rotation",
    "new_index": "TUNED, re-embedded",
}


def index_report(found: IndexMemory) -> RenderableType:
    """The sentences first, then notes, then the table; for an index that was measured alone."""
    lines: list[RenderableType] = [Text(f"{found.base}  against  {found.tuned}", style="bold")]
    lines += [Text(f"\n{line}" if i == 0 else line) for i, line in enumerate(index_lines(found))]
    lines += [Text(f"note: {note}", style="yellow") for note in found.notes]
    return Group(*lines, Text(), index_table(found))


def index_table(found: IndexMemory) -> RenderableType:
    """A table for each kind of queries, and what the maps were fitted on."""
    parts: list[RenderableType] = [_table(found.by_image)]
    if found.by_text is not None:
        parts += [Text(), _table(found.by_text)]
    parts += [Text(line, style="dim") for line in _small(found)]
    return Group(*parts)


def _table(queries: Queries) -> Table:
    steps = list(queries.searches["today"].overlap)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"index, {queries.count:,} {queries.kind}, percent", no_wrap=True)
    titles = [f"same {steps[0]}", *map(str, steps[1:])]
    if queries.truth is not None:
        titles += [f"right {steps[0]}", *map(str, steps[1:])]
    for title in (*titles, "order"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, search in queries.searches.items():
        found = [*search.overlap.values(), *(search.recall.values() if queries.truth is not None else ())]
        cells = [f"{100 * one.value:.1f}" for one in found]
        table.add_row(_NAMES[name], *cells, f"{search.rank_agreement.value:.2f}")
    return table


def _small(found: IndexMemory) -> list[str]:
    """How to read the columns, and how near the two embeddings of a query are."""
    k = furthest(found.by_image.searches["today"])
    chance = 100 * k / found.by_image.gallery
    told = (
        f"same: of the k that BASE finds today, by chance {chance:.1f} % of {k}; order: Kendall's tau with "
        "BASE's order of the whole index"
    )
    if found.by_image.truth or (found.by_text and found.by_text.truth):
        told += "; right: queries with an image of their class, or a caption's own, among k"
    lines = [told]
    if found.cosine is not None:
        told = f"cosine of the two embeddings of a query {found.cosine.value:.3f}"
        for name, fitted in found.maps.items():
            if fitted.cosine is not None:
                told += f", after the {'linear map' if name == 'ridge' else name} {fitted.cosine.value:.3f}"
        lines.append(told)
    return lines
