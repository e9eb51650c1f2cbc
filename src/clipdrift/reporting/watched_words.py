"""A watched training in sentences: where it stands, what its rules said, which state was kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from clipdrift import texts
from clipdrift.listing import MEASURES
from clipdrift.monitoring.course import GOOD, Course, column_of, value_of
from clipdrift.monitoring.log import LOG
from clipdrift.outcomes.columns import outcome
from clipdrift.pages.cells import PageCell

NO_NUMBER = "no number"
Parts = tuple[str | PageCell, ...]


def cell(course: Course, row: int, key: str) -> PageCell | None:
    """A number of the log as the page prints it; None where it was not measured.

    Args:
        row: of the log, from 1; -1 is the last.
    """
    place = len(course.rows) if row == -1 else row
    found = course.rows[place - 1]
    if key not in found:
        return None
    value = value_of(found, key)
    return PageCell(printed(key, value), f"{LOG}:{place}/{quote(key, safe='')}", value)


def printed(key: str, value: float) -> str:
    """A number of a row with its unit."""
    if not math.isfinite(value):
        return NO_NUMBER
    whole = key.partition("/block_")[0]
    column = column_of(whole) or key
    known = outcome(column)
    if known.kind in ("retention", "zero-shot"):
        return f"{texts.one_decimal(value)} %"
    if column == "modality_gap_change":
        return texts.change(value, True)
    if whole.startswith("drift/") and column.endswith("_drift") and column not in MEASURES:
        return texts.change(value, False)
    return texts.number(value)


@dataclass(frozen=True)
class Sentence:
    """One sentence of the page: words and cells."""

    parts: Parts

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def sentences(course: Course) -> list[Sentence]:
    """Where a training stands, most important first."""
    found = [
        *_kept(course),
        *_drift(course),
        *_blocks(course),
        *_texts(course),
        *_rules(course),
        *_good(course),
    ]
    return [Sentence(parts) for parts in found]


def _kept(course: Course) -> Iterator[Parts]:
    start = f"After step {course.last['step']:,} "
    tested = [name for name in course.sets if f"zero_shot/{name}" in course.last]
    if not tested:
        yield (f"{start}nothing is known of zero-shot ability, as no transfer set is tested.",)
        return
    several: list[str | PageCell] = []
    for name in tested:
        kept, now = cell(course, -1, f"retention/{name}"), cell(course, -1, f"zero_shot/{name}")
        before = value_of(course.sets[name], "before")
        assert now is not None
        if kept is None or not math.isfinite(kept.value):
            continue
        of = " on " if several else " of the backbone's zero-shot accuracy on "
        several += [", " if several else f"{start}the model keeps ", kept, of, name]
        several += [f" ({before:.1f} → " if math.isfinite(before) else " (now ", now, ")"]
    if several:
        yield (*several, ".")
    for name in tested:
        kept, now = cell(course, -1, f"retention/{name}"), cell(course, -1, f"zero_shot/{name}")
        if kept is None and now is not None:
            why = "the backbone itself is not above chance there"
            yield (f"{'' if several else start}What is kept of {name} cannot be said: {why} (now ", now, ").")
        elif kept is not None and not math.isfinite(kept.value):
            yield (f"{'' if several else start}accuracy on {name} is {NO_NUMBER}.",)


def _drift(course: Course) -> Iterator[Parts]:
    told = (
        ("drift/cka", "CKA with the backbone is ", " (1: same)"),
        ("drift/embedding_drift", "embedding drift ", " (0: same)"),
        ("drift/entropy", "entropy of attention changed by ", ""),
        ("drift/zero_shot_agreement", "share of images with the backbone's zero-shot prediction ", ""),
    )
    parts: list[str | PageCell] = []
    for key, before, after in told:
        if (found := cell(course, -1, key)) is not None:
            parts += [", " if parts else "", before, found, after]
    if parts:
        yield (*_capital(parts), ".")


def _capital(parts: Sequence[str | PageCell]) -> Parts:
    """Parts whose first word begins a sentence."""
    at = next(i for i, part in enumerate(parts) if part)
    first = parts[at]
    return (*parts[:at], first[:1].upper() + first[1:] if isinstance(first, str) else first, *parts[at + 1 :])


def _blocks(course: Course) -> Iterator[Parts]:
    count = len(course.by_block("drift/cka"))
    found = [(b, cell(course, -1, f"drift/cka/block_{b}")) for b in range(1, count + 1)]
    known = [(b, one) for b, one in found if one is not None and math.isfinite(one.value)]
    if len(known) < 2:
        return
    most, least = min(known, key=lambda pair: pair[1].value), max(known, key=lambda pair: pair[1].value)
    yield (f"Block {most[0]} moved most (CKA ", most[1], f"), block {least[0]} least (", least[1], ").")


def _texts(course: Course) -> Iterator[Parts]:
    cka, moved = cell(course, -1, "drift/text_cka"), cell(course, -1, "drift/text_embedding_drift")
    if cka is not None and moved is not None:
        yield ("The text tower is trained too: CKA ", cka, ", embedding drift ", moved, ".")


def _rules(course: Course) -> Iterator[Parts]:
    stops = [one for one in course.said if one.kind == "stop"]
    if stops:
        yield (f"At step {stops[0].step:,} the training was asked to stop: {stops[0].text}.",)
    spoken = [one for one in course.said if one.kind == "warning"]
    if spoken:
        often = "once" if len(spoken) == 1 else f"{len(spoken)} times, the first time"
        yield (f"Rules warned {often} at step {spoken[0].step:,}: {spoken[0].text}.",)
    elif any(one.kind == "warn_when" for one in course.conditions):
        yield ("No rule has warned.",)
    elif not stops:
        yield ("No rule warns of anything.",)


_KEPT_AS = {
    "adapter": "an adapter, which peft loads onto the backbone",
    "model": "a whole model, which transformers loads",
    "weights": "weights alone",
}


def _good(course: Course) -> Iterator[Parts]:
    if course.good is not None:
        step, kind = value_of(course.good, "step"), str(course.good.get("kind", ""))
        what = f" ({_KEPT_AS[kind]})" if kind in _KEPT_AS else ""
        later = sum(row["step"] > step for row in course.rows)
        end = {0: "", 1: "; the measurement since then was not good"}.get(
            later, f"; none of the {later:,} measurements since then was good"
        )
        when = f"of step {step:,.0f}" if math.isfinite(step) else "of an unknown step"
        yield (f"The last good state is {when} and lies in {course.out / GOOD}{what}{end}.",)
    elif any(one.kind == "keep_best_when" for one in course.conditions):
        yield ("No state was kept, as none was good by the rules.",)
    else:
        yield ("No state is kept, as no rule says what a good one is.",)
