"""Checks behind a finding's verdict: rows that speak for it, against it, or leave it open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from clipdrift.outcomes.keys import Estimand, Group

CheckSide = Literal["for", "against", "open"]
Verdict = Literal["holds", "holds in part", "does not hold", "cannot be told"]
LEVEL = 0.05
"""Of p-values after Holm's correction."""


@dataclass(frozen=True)
class EvidenceRow:
    """A row of the analysis by its name.

    Attributes:
        part: ``sweep`` (arms with two learning rates or more) or ``study`` (all runs).
        question, group, statistic, test: fields of :class:`clipdrift.analysis.rows.Row`; any test if empty.
        row: the row; None where the analysis has none of this name.
    """

    part: str
    question: str
    group: Group
    statistic: Estimand
    test: str
    row: Mapping[str, Any] | None = None

    def number(self, column: str) -> float:
        """A column's value; nan where there is no row or no number."""
        value = None if self.row is None else self.row[column]
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Check:
    """One thing that a claim says of the runs, and whether they bear it out.

    Attributes:
        of: what it is about, in words.
        source: the row with number, interval, n and unit.
        side: what the row says of the claim; ``open`` where its interval leaves both possible.
        tested: the row whose corrected p-value is asked for as well, where that is another one.
        unit: of the number, for people.
    """

    of: str
    source: EvidenceRow
    side: CheckSide
    tested: EvidenceRow | None = None
    unit: str = ""


@dataclass(frozen=True)
class Finding:
    """A published finding and what a study says of it.

    Attributes:
        number: its place in the list.
        claim: in words.
        rule: what counts for it, in words.
        published: the published numbers, in words.
        checks: what the verdict rests on.
        shown: rows that are stated beside them and decide nothing.
    """

    number: int
    claim: str
    rule: str
    published: str
    checks: tuple[Check, ...]
    shown: tuple[Check, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return verdict(check.side for check in self.checks)


def verdict(sides: Iterable[CheckSide]) -> Verdict:
    """Combine sides: all for it holds; some, in part; none for and some against, does not hold; all open,
    cannot be told. Some: in part. None for, some against: does not hold. All open: cannot be told."""
    found = list(sides)
    if found and all(side == "for" for side in found):
        return "holds"
    if "for" in found:
        return "holds in part"
    return "does not hold" if "against" in found else "cannot be told"


def above(
    source: EvidenceRow, of: str, unit: str = "", tested: EvidenceRow | None = None, than: float = 0
) -> Check:
    """Judge for the claim where the whole interval lies above ``than``, against it where it lies below.

    Args:
        tested: its p-value after Holm's correction must be below :data:`LEVEL` as well, or the check is open.
    """
    low, high = source.number("low"), source.number("high")
    return _judged(Check(of, source, "open", tested, unit), low > than, high < than)


def below(
    source: EvidenceRow, of: str, unit: str = "", tested: EvidenceRow | None = None, than: float = 0
) -> Check:
    """Judge for the claim where the whole interval lies below ``than``, against it where it lies above."""
    low, high = source.number("low"), source.number("high")
    return _judged(Check(of, source, "open", tested, unit), high < than, low > than)


def within(source: EvidenceRow, margin: float, of: str, unit: str = "") -> Check:
    """Judge for the claim where the interval lies within the margin around 0, against it where it lies
    outside."""
    low, high = source.number("low"), source.number("high")
    inside, outside = -margin < low and high < margin, low >= margin or high <= -margin
    return _judged(Check(of, source, "open", None, unit), inside, outside)


def _judged(check: Check, speaks_for: bool, speaks_against: bool) -> Check:
    """The check with its side; open where the p-value that it asks for is not small enough."""
    if check.tested is not None and not check.tested.number("p_corrected") < LEVEL:
        return check
    return replace(check, side="for" if speaks_for else "against" if speaks_against else "open")


def unresolved(tested: EvidenceRow, of: str) -> Check:
    """Judge a claim that nothing is found: for it where the corrected p-value is not below :data:`LEVEL`."""
    p = tested.number("p_corrected")
    side: CheckSide = "open" if math.isnan(p) else "against" if p < LEVEL else "for"
    return Check(of, tested, side, tested)


def stated(source: EvidenceRow, of: str, unit: str = "") -> Check:
    """A row that is shown and decides nothing."""
    return Check(of, source, "open", None, unit)


def rises(sources: Sequence[EvidenceRow]) -> bool:
    """Whether one row lies above the one before it, their intervals apart."""
    return any(after.number("low") > before.number("high") for before, after in itertools.pairwise(sources))
