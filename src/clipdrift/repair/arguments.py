"""Parse and check what is asked of a repair: alphas, blocks, factors, which alpha to save."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from clipdrift.errors import ClipdriftError

MOST = 201
"""Alphas of one path; each one is a reading of all images."""
FARTHEST = 2.0
"""The largest alpha: 1 is the tuned model, 2 goes as far again beyond it."""


class RepairError(ClipdriftError):
    """A repair that cannot be done as it was asked for; says why and what to do."""


def parse_alphas(given: str | float | Iterable[float], also: float | None = None) -> tuple[float, ...]:
    """Alphas in rising order, each once.

    Args:
        given: ``0:1:0.1`` (first, last, step; both ends are in it), ``0,0.5,1``, one number, or numbers.
        also: one more, such as the alpha to be saved.

    Raises:
        RepairError: no grid, or an alpha outside 0 to 2.
    """
    if isinstance(given, str):
        found = _grid(given) if ":" in given else [_number(part, given) for part in given.split(",")]
    else:
        found = [float(alpha) for alpha in ([given] if isinstance(given, int | float) else given)]
    found += [] if also is None else [float(also)]
    for alpha in found:
        if not 0 <= alpha <= FARTHEST:
            raise RepairError(
                f"alpha {alpha:g}: legal are 0 (the backbone) to 1 (the tuned model), and up to {FARTHEST:g} "
                "for what lies beyond it"
            )
    if not found:
        raise RepairError("no alphas were given; write --alphas 0:1:0.1 or 0,0.5,1")
    if len(found) > MOST:
        raise RepairError(f"--alphas {given}: {len(found)} alphas, {MOST} at most; take a larger step")
    return tuple(sorted({round(alpha, 10) for alpha in found}))


def _grid(text: str) -> list[float]:
    parts = text.split(":")
    if len(parts) != 3:
        raise RepairError(f"--alphas {text}: write first:last:step, as in 0:1:0.1, or a list, as in 0,0.5,1")
    first, last, step = (_number(part, text) for part in parts)
    if step <= 0 or last < first:
        raise RepairError(f"--alphas {text}: the step must be above 0 and the last alpha not below the first")
    count = (last - first) / step
    if count > MOST:
        raise RepairError(f"--alphas {text}: {int(count) + 1} alphas, {MOST} at most; take a larger step")
    found = [first + i * step for i in range(math.floor(count + 1e-9) + 1)]
    return found if math.isclose(found[-1], last, abs_tol=1e-9) else [*found, last]


def _number(text: str, whole: str, option: str = "--alphas") -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise RepairError(f"{option} {whole}: {text.strip() or 'nothing'} is not a number")
    return found


_RANGE = re.compile(r"(\d*)\.\.(\d*)")


def parse_blocks(given: str | int | Iterable[int], count: int) -> tuple[int, ...]:
    """Blocks in order, each once, counted from 1.

    Args:
        given: ``9..12``, ``9..`` (to the last), ``..3``, ``9``, a list of these (``1,5..7``), or numbers.
        count: how many the model has.

    Raises:
        RepairError: no blocks, or blocks that the model has not.
    """
    if not isinstance(given, str):
        numbers = [given] if isinstance(given, int) else list(given)
        given = ",".join(map(str, numbers))
    found: set[int] = set()
    for part in given.split(","):
        part = part.strip()
        if part.isdecimal():
            first = last = int(part)
        elif (span := _RANGE.fullmatch(part)) and part != "..":
            first, last = int(span[1] or 1), int(span[2] or count)
        else:
            raise RepairError(f"--blocks {given}: write blocks as 9..12, 9.. (to the last), 9, or 1,5..7")
        if first < 1 or last > count or last < first:
            raise RepairError(f"--blocks {given}: the model has blocks 1 to {count}, and ranges go upwards")
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


def blocks_text(blocks: Iterable[int]) -> str:
    """``1,5..7``: the shortest text that :func:`parse_blocks` reads back."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def parse_factors(given: str | float | Iterable[float]) -> tuple[float, ...]:
    """Parse the factors left of intruders, in falling order, each once: from 0 (taken out) to below 1.

    Raises:
        RepairError: anything else.
    """
    if isinstance(given, str):
        found = [_number(part, given, "--scale") for part in given.split(",")]
    else:
        found = [float(factor) for factor in ([given] if isinstance(given, int | float) else given)]
    for factor in found:
        if not 0 <= factor < 1:
            raise RepairError(f"--scale {factor:g}: legal are 0 (intruders are taken out) to below 1 (kept)")
    if not found:
        raise RepairError("no scale was given; write --scale 0 or 0,0.5")
    return tuple(sorted(set(found), reverse=True))


@dataclass(frozen=True)
class AlphaRule:
    """Rule that picks an alpha: one by its value, or the largest that keeps ``least`` of something.

    Attributes:
        at: the alpha itself.
        keep: ``cka`` or ``retention``.
        least: CKA (mean over blocks) or retention in percent.
        of: the transfer set whose retention counts; none: the mean over all.
    """

    at: float | None = None
    keep: str | None = None
    least: float = 0.0
    of: str | None = None

    @property
    def text(self) -> str:
        if self.keep is None:
            return f"alpha {self.at:g}, as asked for"
        if self.keep == "cka":
            return f"a CKA of at least {self.least:g}"
        return f"a retention of at least {self.least:g} %{f' on {self.of}' if self.of else ''}"


def parse_alpha_rule(
    save_at: float | None = None, keep_cka: float | None = None, keep_retention: str | float | None = None
) -> AlphaRule | None:
    """Parse the rule; at most one of the three may be given.

    Args:
        keep_retention: percent, or ``set=percent``.

    Raises:
        RepairError: several, or values outside of what they can be.
    """
    given = {"--save-at": save_at, "--keep-cka": keep_cka, "--keep-retention": keep_retention}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise RepairError(f"{' and '.join(named)} contradict each other: each chooses an alpha; give one")
    if save_at is not None:
        return AlphaRule(at=parse_alphas(save_at)[0])
    if keep_cka is not None:
        if not 0 < keep_cka <= 1:
            raise RepairError(f"--keep-cka {keep_cka:g}: legal are values above 0, up to 1")
        return AlphaRule(keep="cka", least=keep_cka)
    if keep_retention is None:
        return None
    name, equals, text = str(keep_retention).rpartition("=")
    least = _number(text, str(keep_retention), "--keep-retention")
    if not least > 0 or (equals and not name):
        raise RepairError(f"--keep-retention {keep_retention}: write a percentage, 90, or cifar100=90")
    return AlphaRule(keep="retention", least=least, of=name or None)
