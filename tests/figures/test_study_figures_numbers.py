"""What figures of studies draw is what their tables say: artists' data against pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from study_tables import grid, options, pets

from clipdrift.figures.look import LOOKS, Canvas, levels, shade, style
from clipdrift.figures.registry import draw
from clipdrift.figures.study_attention import side_by_side
from clipdrift.figures.words import label, numbers, short
from clipdrift.study.tables import Tables
from clipdrift.texts import rate as rate_text


def panel(figure: Figure, title: str, row: int = 0) -> Axes:
    """The n-th panel of this title."""
    found = [axis for axis in figure.axes if axis.get_title(loc="left").startswith(title)]
    return found[row]


def lines(axis: Axes, colour: str) -> list[np.ndarray]:
    """(n, 2) of each line of a colour."""
    found = [line for line in axis.lines if to_hex(line.get_color()) == colour.lower()]  # type: ignore[arg-type]
    return [np.column_stack(line.get_data()) for line in found]


def points(axis: Axes) -> np.ndarray:
    """(n, 2) of all points, sorted by y."""
    found = np.vstack(
        [np.asarray(c.get_offsets()) for c in axis.collections if isinstance(c, PathCollection)]
    )
    return found[np.argsort(found[:, 1])]


def test_means_seeds_and_spread_are_those_of_the_table() -> None:
    """A line through the means, a point for each seed, bars of one standard deviation (n - 1)."""
    runs = grid().runs
    here = runs[(runs["place"] == "eurosat") & (runs["status"] == "done")]
    axis = draw("matched_rates", grid()).axes[2]
    assert axis.get_ylabel() == "retention cifar100, %"
    for method, part in here.groupby("method"):
        cells = part.groupby("learning_rate")["retention_cifar100"]
        (drawn,) = [x for x in lines(axis, LOOKS[str(method)].colour) if len(x) == len(cells)][:1]
        np.testing.assert_allclose(drawn[:, 1], cells.mean())
        np.testing.assert_allclose(np.log10(drawn[:, 0]), np.log10(cells.mean().index), atol=0.2)
        bars = [c for c in axis.collections if isinstance(c, LineCollection)]
        spans = np.sort([s[1, 1] - s[0, 1] for bar in bars for s in bar.get_segments()])
        for sd in cells.std():
            assert np.min(np.abs(spans - 2 * sd)) < 1e-9
    np.testing.assert_allclose(points(axis)[:, 1], np.sort(here["retention_cifar100"]))


def test_bars_have_the_height_of_the_mean() -> None:
    """And the dashed line is at the backbone's accuracy."""
    axis = panel(draw("zero_shot", grid()), "pets")
    runs = grid().runs
    here = runs[(runs["place"] == "pets") & (runs["status"] == "done")]
    heights = sorted(bar.get_height() for bar in axis.patches)  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        heights, np.sort(here.groupby(["method", "learning_rate"])["zero_shot_cifar100"].mean())
    )
    dashed = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]  # type: ignore[index]
    assert dashed == [here["backbone_zero_shot_cifar100"].iloc[0]]


def test_courses_are_means_over_seeds() -> None:
    """Epochs along x, also where looks lie within an epoch."""
    tables = grid()
    axis = panel(draw("head_diversity", tables), "eurosat, full_ft")
    history = tables.history.merge(tables.runs[["run", "target", "method", "learning_rate"]], on="run")
    here = history[(history["target"] == "eurosat") & (history["method"] == "full_ft")]
    for rate, level in zip((1e-6, 5e-5), levels(2), strict=True):
        mean = here[here["learning_rate"] == rate].groupby("epoch")["head_diversity_drift"].mean()
        (drawn,) = lines(axis, to_hex(shade(LOOKS["full_ft"].colour, level)))
        np.testing.assert_allclose(drawn[:, 0], [1, 2, 3])
        np.testing.assert_allclose(drawn[:, 1], mean)


def test_heat_maps_hold_means_by_block() -> None:
    """Blocks down, from 1; epochs or blocks across; every panel of one scale."""
    tables = grid()
    figure = draw("entropy_heat", tables)
    image = panel(figure, "pets, full_ft, 5e-5").images[0]
    about = tables.runs[["run", "target", "method", "learning_rate", "status"]]
    found = tables.history_blocks("entropy").merge(about, on="run").query("status == 'done'")
    here = found.query("target == 'pets' and method == 'full_ft' and learning_rate == 5e-5")
    wanted = here.pivot_table(index="block", columns="epoch", values="drift")
    np.testing.assert_allclose(np.asarray(image.get_array()), wanted)
    scales = {image.get_clim() for axis in figure.axes for image in axis.images}
    assert len(scales) == 1
    image = panel(draw("rate_blocks", tables), "eurosat, lora").images[0]
    blocks = tables.blocks.query("measure == 'entropy'").merge(about, on="run")
    here = blocks.query("target == 'eurosat' and method == 'lora'")
    wanted = here.pivot_table(index="learning_rate", columns="block", values="drift")
    np.testing.assert_allclose(np.asarray(image.get_array()), wanted)


def test_options_stand_in_order_with_their_own_runs() -> None:
    """No penalty first, weights ascending; each row's mean is that of its runs, all of one colour."""
    axis = draw("penalties", options()).axes[0]
    names = [tick.get_text() for tick in axis.get_yticklabels()]
    assert names == ["none", "apr 0.01", "apr 0.1", "apr 1", "entropy_floor 0.01", "entropy_floor 0.1"]
    runs = options().runs
    means = {round(float(p[1]) + 0.12): p[0] for x in lines(axis, LOOKS["full_ft"].colour) for p in x}
    plain = runs[runs["plain"] & (runs["method"] == "full_ft")]["accuracy"].mean()
    assert means[0] == pytest.approx(plain)
    apr = runs[(runs["penalty"] == "apr") & (runs["penalty_weight"] == 1.0)]["accuracy"].mean()
    assert means[3] == pytest.approx(apr)
    matrices = [tick.get_text() for tick in draw("lora_targets", options()).axes[0].get_yticklabels()]
    assert matrices == ["q", "q+v", "q+k+v+out"]
    ranks = [tick.get_text() for tick in draw("lora_ranks", options()).axes[0].get_yticklabels()]
    assert ranks == ["4", "8", "16"]


def test_runs_that_differ_in_another_option_too_are_left_out() -> None:
    """lora with its projection frozen has a rank of 8 as well, and is no run of that row."""
    runs = options().runs
    usual = runs[(runs["method"] == "lora") & runs["plain"]]
    other = usual.assign(
        run=usual["run"] + "-frozen", train_projection=False, plain=False, accuracy=usual["accuracy"] - 40
    )
    more = Tables(pd.concat([runs, other], ignore_index=True))
    for name in ("lora_ranks", "lora_targets"):
        assert draw(name, more).axes[0].get_xlim() == draw(name, options()).axes[0].get_xlim()
        np.testing.assert_array_equal(points(draw(name, more).axes[0]), points(draw(name, options()).axes[0]))


def test_rings_are_the_runs_that_nothing_beats() -> None:
    """Found again by two loops over the runs."""
    runs = grid().runs.query("place == 'pets' and status == 'done'")
    pairs = runs[["retention_cifar100", "accuracy"]].to_numpy()
    best = [p for p in pairs if not any((q >= p).all() and (q > p).any() for q in pairs)]
    axis = panel(draw("frontier", grid()), "pets")
    rings = [c for c in axis.collections if isinstance(c, PathCollection) and not len(c.get_facecolor())]
    drawn = np.asarray(rings[-1].get_offsets())
    np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], np.array(sorted(map(tuple, best))))


def test_numbers_of_tests_are_those_of_their_table() -> None:
    """Regrets, effect sizes, correlations: value and interval as analysis gave them."""
    rows = grid().rows("choosing")
    regrets = rows[rows["statistic"].str.startswith("regret in ")].dropna(subset=["value"])
    drawn = [bar.get_width() for axis in draw("choosing", grid()).axes for bar in axis.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.sort(drawn), np.sort(regrets["value"]))
    tests = grid().rows("methods").query("test == 'Welch t'").dropna(subset=["effect"])
    pooled = tests[tests["group"].str.endswith("all common rates")]
    effects = {round(float(v), 9) for v in pooled["effect"]}
    figure = draw("statistics", grid())
    (axis,) = [a for a in figure.axes if a.get_xlabel() == "Cohen's d"]
    marks = {round(float(x.get_xdata()[0]), 9) for x in axis.lines if x.get_marker() == "o"}  # type: ignore[arg-type, index]
    assert marks
    assert marks <= effects
    measures = grid().rows("measures").set_index("statistic")["value"]
    matrix = np.asarray(draw("measures", grid()).axes[0].images[0].get_array())
    assert matrix[1, 0] == pytest.approx(measures["Pearson of entropy_drift with normalised_entropy_drift"])
    assert matrix[0, 1] == pytest.approx(measures["Spearman of entropy_drift with normalised_entropy_drift"])


def test_marks_of_onset_are_where_analysis_puts_them() -> None:
    """One triangle for each run that has one, on its own line."""
    rows = grid().rows("onset").dropna(subset=["value"])
    steps = rows[rows["statistic"].str.startswith("step at which")]["value"]
    figure = draw("onset", grid())
    marks = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "v"]
    assert sorted(float(line.get_xdata()[0]) for line in marks) == sorted(steps)  # type: ignore[arg-type, index]
    assert all(float(line.get_ydata()[0]) <= -1 for line in marks)  # type: ignore[arg-type, index]


def test_attention_is_shown_as_it_was_kept() -> None:
    """Percent on each patch; a row of images has one scale, and the images are the run's own."""
    images = np.zeros((2, 8, 8, 3), np.uint8)
    maps = {
        "backbone": np.full((2, 2, 2), 0.25, np.float32),
        "lora": np.eye(2, dtype=np.float32)[None].repeat(2, 0) / 2,
    }
    with style():
        figure = side_by_side(images, maps, Canvas())  # type: ignore[arg-type]
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "backbone", "lora"]
    np.testing.assert_allclose(np.asarray(figure.axes[2].images[0].get_array()), [[50, 0], [0, 50]])
    assert figure.axes[1].images[0].get_clim() == figure.axes[2].images[0].get_clim() == (0, 50)
    shown = draw("attention", pets())
    run = pets().runs.query("learning_rate == 5e-5 and seed == 7").iloc[0]
    kept = pets().maps(run["run"])
    assert kept is not None
    before = 100 * kept.of("before", 0, kept.before.shape[1], None)
    np.testing.assert_allclose(np.asarray(shown.axes[1].images[0].get_array()), before)


def test_paths_are_drawn_from_the_backbone_on() -> None:
    """At alpha 0 everything is kept."""
    axis = panel(draw("interpolation", grid()), "pets, full_ft", row=1)
    assert axis.get_ylabel() == "retention cifar100, %"
    starts = [np.asarray(line.get_data())[:, 0] for line in axis.lines if len(line.get_xdata()) == 6]  # type: ignore[arg-type]
    assert starts
    np.testing.assert_allclose(starts, [[0, 100]] * len(starts))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("accuracy", "test accuracy, %"),
        ("entropy_drift", "entropy drift, %"),
        ("weight_drift", "weight drift, share"),
        ("retention_cifar100", "retention cifar100, %"),
        ("zero_shot_my_set", "zero-shot my_set, %"),
        ("my_measure_drift", "my measure drift, %"),
    ],
)
def test_axes_are_named_with_units(column: str, said: str) -> None:
    """Also for a measure that nobody knows."""
    assert label(column) == said


def test_words() -> None:
    """Values have units of their own; rates and counts are short."""
    assert label("entropy", blocks=True) == "entropy, nats"
    assert label("erf95", blocks=True) == "ERF 95, share of patches"
    assert short("epoch1_gini_drift") == "Gini, epoch 1"
    assert [rate_text(r) for r in (1e-6, 5e-05, 3.2e-4, 0.001, 0.0125, 0.5)] == [
        "1e-6", "5e-5", "3.2e-4", "1e-3", "1.25e-2", "0.5",
    ]  # fmt: skip
    assert (numbers([5, 5]), numbers([3, 5, 4]), numbers([])) == ("n = 5", "n = 3 to 5", "n = 0")


def test_published_table_as_csv(tmp_path: Path) -> None:
    """Cell means of another study, one row per cell and nothing else, are drawn too."""
    file = tmp_path / "cells.csv"
    rows = {"target": "eurosat", "method": ["full_ft"] * 3 + ["lora"] * 3}
    rows |= {"learning_rate": [1e-6, 5e-6, 1e-5] * 2}  # type: ignore[list-item]
    rows |= {"accuracy": [98.0, 99, 99, 90, 91, 92], "retention_cifar100": [26.0, 29, 17, 93, 74, 69]}  # type: ignore[list-item]
    pd.DataFrame(rows).to_csv(file, index=False)
    figure = draw("matched_rates", Tables.open(file))
    assert [axis.get_ylabel() for axis in figure.axes] == ["test accuracy, %", "retention cifar100, %"]
    assert lines(figure.axes[0], LOOKS["lora"].colour)[0][:, 1].tolist() == [90, 91, 92]
