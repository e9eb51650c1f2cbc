"""Every figure of a study: it is drawn, can be read, and leaves the reader in no doubt what it shows."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import matplotlib.colors
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from study_tables import alone, grid, least, options, pets, source_of

from clipdrift.figures.look import LOOKS, Canvas, look
from clipdrift.figures.registry import DPI, FIGURES, FORMATS, canvas_of, draw, write
from clipdrift.figures.source import NotDrawnError
from clipdrift.study.tables import Tables

UNITS = re.compile(
    r"%|nats|bits|patches|points|\(.* to .*\)|\(1: same\)|1 − cos|share|1 − CKA|chance|Cohen's d|coefficient"
)
PURE = {"learning rate", "epoch", "step", "block", "alpha (0 backbone, 1 adapted)"}
"""Names of axes that count or have no unit."""
ROWS = {"penalty, weight", "frozen blocks", "matrices", "rank", "weight decay", "learning rate"}
"""Names of axes of categories."""


def shown(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.axison and axis.has_data()]


def texts(figure: Figure) -> str:
    found = [figure.get_supxlabel()]
    for axis in figure.axes:
        found += [axis.get_title(loc=side) for side in ("left", "center")]
        found += [axis.get_xlabel(), axis.get_ylabel()]
    for part in figure.subfigs:
        found.append(part.get_suptitle())
    return "\n".join(found)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_shows(name: str) -> None:
    """On the whole study it has data, units on its axes, and the number of runs."""
    figure = draw(name, source_of(name))
    axes = shown(figure)
    assert axes
    said = {axis.get_xlabel() for axis in axes} | {axis.get_ylabel() for axis in axes}
    assert not [text for text in said - {""} if text not in PURE | ROWS and not UNITS.search(text)]
    if name not in ("attention", "choosing", "baseline", "statistics", "onset"):
        assert re.search(r"n = \d|\(n: ", texts(figure)), texts(figure)


LAID_OUT = (
    "matched_rates", "rate_sweep", "zero_shot", "frontier", "predictors", "head_diversity", "trajectories",
    "baseline", "attention", "penalties", "statistics",
)  # fmt: skip
"""Figures of every kind of layout; to place the parts of one costs half a second."""


@pytest.mark.parametrize("name", LAID_OUT)
def test_one_target_alone_can_be_read(name: str) -> None:
    """Nothing of another target is left; labels of ticks keep apart, legends stay on the paper."""
    figure = draw(name, pets() if source_of(name) is grid() else options())
    figure.draw_without_rendering()
    assert "eurosat" not in texts(figure)
    assert shown(figure)
    for axis in shown(figure):
        for part in (axis.xaxis, axis.yaxis):
            ticks = [tick.label1 for tick in part.get_major_ticks() if tick.label1.get_visible()]
            boxes = [t.get_window_extent() for t in ticks if t.get_text() and not t.get_rotation() % 90]
            drawn = [box.padded(-1) for box in boxes if box.width and _beside(box, axis)]
            assert not [one for one, two in itertools.pairwise(drawn) if one.overlaps(two)], axis.get_title()
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert figure.bbox.x0 - 1 <= box.x0
        assert box.x1 <= figure.bbox.x1 + 1


def _beside(box: Bbox, axis: Axes) -> bool:
    """Whether a tick's label is within the range that the axis shows."""
    centre = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    frame = axis.bbox
    return frame.x0 - 1 <= centre[0] <= frame.x1 + 1 or frame.y0 - 1 <= centre[1] <= frame.y1 + 1


@pytest.mark.parametrize("name", [name for name in LAID_OUT if name != "statistics"])
def test_one_seed_is_enough(name: str) -> None:
    """Without a spread there are no bars and bands, and what stands there says so."""
    figure = draw(name, alone())
    assert shown(figure)
    assert "± 1 sd over seeds" not in texts(figure)
    if "per cell" in texts(figure) or "per line" in texts(figure):
        assert "one seed" in texts(figure).lower()


MISSING = {
    "penalties": "no run has a penalty",
    "zero_shot": "no run was tested on a transfer set",
    "drift_zero_shot": "no run was tested on a transfer set",
    "frontier": "no run was tested on a transfer set",
    "choosing": "no two runs",
    "predictors": "no signal varies",
    "convergence": None,
    "attention": r"no run kept attention maps \(maps.npz\)",
    "frozen_blocks": "no runs differ in frozen blocks alone",
    "lora_targets": "no runs differ in the matrices",
    "lora_ranks": "no runs differ in the rank",
    "weight_decay": "no runs differ in weight decay alone",
    "statistics": "the runs determine no test",
    "measures": "fewer than two measures",
    "interpolation": "no interpolation",
}


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_missing_is_said(name: str) -> None:
    """On a single run without transfer sets: a figure, or one line that says why there is none."""
    reason = MISSING.get(name)
    if reason is None:
        assert shown(draw(name, least()))
    else:
        with pytest.raises(NotDrawnError, match=reason):
            draw(name, least())


@pytest.mark.parametrize("name", FIGURES)
def test_a_bare_table_draws_or_says_why(name: str, tmp_path: Path) -> None:
    """The least that anyone's CSV may hold never ends in a traceback."""
    file = tmp_path / "runs.csv"
    rows = {"target": "mine", "method": ["a", "b"], "learning_rate": 1e-5, "accuracy": [90.0, 91.0]}
    pd.DataFrame(rows).to_csv(file, index=False)
    tables = Tables.open(file)
    if name in ("dashboard", "matched_rates"):
        assert shown(draw(name, tables))
    else:
        with pytest.raises(NotDrawnError, match=r"\A[^\n]+\Z"):
            draw(name, tables)


def test_every_run_diverged_is_said(tmp_path: Path) -> None:
    """Nothing to draw is no empty figure."""
    frame = grid().runs.assign(status="diverged", accuracy=float("nan"))
    with pytest.raises(NotDrawnError, match="every run diverged"):
        draw("frontier", Tables(frame.drop(columns=["place", "variant", "plain"])))


def _follows(part: Collection, axis: Axes) -> tuple[bool, bool]:
    found = part.get_offset_transform().contains_branch_seperately(axis.transData)
    return (bool(found[0]), bool(found[1]))


def test_unfinished_runs_are_named_and_diverged_ones_marked() -> None:
    """A reader must not take a study with holes for a whole one."""
    figure = draw("matched_rates", grid())
    assert "Crosses: 1 diverged. Not shown: 1 failed, 1 planned." in texts(figure)
    over = [(axis, part) for axis in figure.axes for part in axis.collections]
    by_height = [p for a, p in over if _follows(p, a) == (True, False)]  # x of the data, y of the panel
    assert len(by_height) == 3  # a panel for each column of the run's target
    assert "Not shown: 1 diverged, 1 failed, 1 planned." in texts(draw("head_diversity", grid()))


def test_a_method_has_its_colour_in_every_figure() -> None:
    """By name, not by the order of runs: also where another method comes first or is absent."""
    swapped = Tables(grid().runs.iloc[::-1].drop(columns=["place", "variant", "plain"]))
    for tables in (grid(), swapped):
        for name in ("matched_rates", "zero_shot"):
            legend = draw(name, tables).legends[0]
            keys = zip(legend.texts, legend.legend_handles, strict=True)
            found = {text.get_text(): handle for text, handle in keys}
            for method in ("full_ft", "lora"):
                handle = found[method]
                colour = handle.get_facecolor() if name == "zero_shot" else handle.get_color()  # type: ignore[attr-defined, union-attr]
                assert matplotlib.colors.to_hex(colour) == LOOKS[method].colour.lower()


def test_methods_differ_without_colour() -> None:
    """Markers tell all methods apart; a method that is not known keeps its look."""
    assert len({how.marker for how in LOOKS.values()}) == len(LOOKS)
    assert len({how.colour for how in LOOKS.values()}) == len(LOOKS)
    assert len({str(how.line) for how in LOOKS.values()}) == len(LOOKS)
    assert look("mine") == look("mine")
    assert look("mine").colour not in {how.colour for how in LOOKS.values()}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_runs_give_the_same_file(format: str, tmp_path: Path) -> None:
    """Byte for byte, so that a figure under version control changes when its data do."""
    twice = (write(draw("frontier", pets(), "2x2"), tmp_path / n / "f", format, dpi=50) for n in "ab")
    one, two = (path.read_bytes() for path in twice)
    assert one == two
    start = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[format]
    assert one.startswith(start)


def test_sizes(tmp_path: Path) -> None:
    """Inches as asked for; a slide is 16:9; a nonsense size is refused."""
    assert tuple(draw("frontier", pets(), "5x2.5").get_size_inches()) == (5, 2.5)
    width, height = draw("baseline", grid(), "slide").get_size_inches()
    assert width / height == pytest.approx(16 / 9)
    assert canvas_of("3.4x2") == Canvas((3.4, 2.0))
    for size in ("3", "0x2", "letter", "1x2x3"):
        with pytest.raises(NotDrawnError, match="size"):
            canvas_of(size)
    assert DPI >= 300


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """Methods and targets of anyone's table are printed as they are."""
    file = tmp_path / "runs.csv"
    rows = {"target": "$x^2_$", "method": ["a_$b", "c^"], "learning_rate": 1e-5, "accuracy": [90.0, 91.0]}
    pd.DataFrame(rows).to_csv(file, index=False)
    found = write(draw("matched_rates", Tables.open(file)), tmp_path / "f.png", "png")
    assert found.stat().st_size > 1000
