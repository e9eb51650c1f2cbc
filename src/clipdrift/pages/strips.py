"""A measure over the blocks as a strip of bars, small enough to stand in a table."""

from __future__ import annotations

from dataclasses import dataclass

from clipdrift.comparison import AT_ONE, Compared
from clipdrift.pages.cells import CellLookup, PageCell

HEIGHT = 32.0
_STEP = 10.0


@dataclass(frozen=True)
class Bar:
    """One block: its place in the strip, and the number that it stands for."""

    block: int
    left: float
    top: float
    width: float
    height: float
    rises: bool
    cell: PageCell


@dataclass(frozen=True)
class Strip:
    """Bars from block 1 on, the line where nothing changed, the bar that is farthest from it."""

    width: float
    rest: float
    bars: tuple[Bar, ...]
    column: str

    @property
    def largest(self) -> Bar:
        return max(self.bars, key=lambda bar: bar.height)


def strip(name: str, found: Compared, cells: CellLookup) -> Strip | None:
    """The strip of a measure: its drift, or its value where it is a comparison already.

    Bars start where nothing changed (0; 1 for CKA) and share one scale, that of their own largest.

    Returns:
        None where the measure has no blocks.
    """
    column = "drift" if found.drift_blocks else "value"
    values = found.drift_blocks or found.value_blocks
    if not values:
        return None
    rest = 1.0 if name in AT_ONE else 0.0
    sizes = [value - rest for value in values]
    up, down = max(0.0, *sizes), max(0.0, *(-size for size in sizes))
    scale = (HEIGHT - 2) / ((up + down) or 1.0)
    line = 1 + up * scale if up or down else HEIGHT / 2
    bars = tuple(
        Bar(
            block=block,
            left=_STEP * (block - 1) + 1,
            top=line - size * scale if size > 0 else line,
            width=_STEP - 2,
            height=abs(size) * scale,
            rises=size > 0,
            cell=cells.table(name, column, block=block),
        )
        for block, size in enumerate(sizes, start=1)
    )
    return Strip(width=_STEP * len(values), rest=line, bars=bars, column=column)
