"""Figures of a comparison show its numbers: heights, colours, scales, labels. All comparisons are made up."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from clipdrift.comparison import FAMILIES, Comparison
from clipdrift.figures import comparing
from clipdrift.figures.panels import block_places, plain
from clipdrift.texts import short, signed
from made_comparisons import ODD, alone, compared, made_comparison, made_maps

NAMES = (
    "block_drift",
    "cka_matrix",
    "weight_drift",
    "head_drift",
    "attention",
    "spectrum",
    "transfer",
    "towers",
)


@pytest.fixture(scope="module")
def usual() -> Comparison:
    return made_comparison()


def with_measures(comparison: Comparison, *names: str, **others: object) -> Comparison:
    """The comparison with these measures alone, which draws faster."""
    kept = {name: comparison.measures[name] for name in names}
    return comparison.model_copy(update={"measures": kept, **others})


def panel(figure: Figure, title: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == title)


def heights(axis: Axes) -> list[float]:
    return [bar.get_height() for bar in axis.patches]  # type: ignore[attr-defined]


def cells(axis: Axes) -> np.ndarray:
    return np.ma.filled(axis.images[0].get_array(), np.nan)


def heading(figure: Figure) -> str:
    return figure.get_suptitle()


def cut_off(figure: Figure) -> list[str]:
    """Texts of headings, titles, labels and legends that reach beyond the figure."""
    figure.draw_without_rendering()
    texts = [*figure.texts, figure._suptitle]  # type: ignore[attr-defined]  # matplotlib has no public way to it
    for axis in figure.axes:
        texts += [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label]  # type: ignore[attr-defined]
        low, high = sorted(axis.get_ylim())  # ticks beyond the limits are kept but not drawn
        texts += [tick.label1 for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts += axis.texts
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    box = figure.bbox
    extents = [(text.get_text(), text.get_window_extent()) for text in texts if text and text.get_text()]
    return [
        said
        for said, at in extents
        if at.x0 < box.x0 - 1 or at.x1 > box.x1 + 1 or at.y0 < box.y0 - 1 or at.y1 > box.y1 + 1
    ]


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    small = made_comparison(3, 2)
    maps = made_maps(small, 1)
    small = with_measures(small, "entropy", "rollout_gini", "cka", "weight_drift", "weight_drift_q")
    return comparing.write_figures(small, maps, tmp_path_factory.mktemp("figures"))


def test_every_figure_is_written_under_its_name(written: list[Path]) -> None:
    assert [path.name for path in written] == [f"{name}.png" for name in NAMES]


def test_no_figure_is_blank_or_small(written: list[Path]) -> None:
    for path in written:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 20, path.name
        assert pixels.shape[1] >= 600, path.name
        assert (pixels[[0, -1]] == 255).all(), f"{path.name}: something touches its edge"
        assert (pixels[:, [0, -1]] == 255).all(), f"{path.name}: something touches its edge"


def test_only_figures_with_something_to_show_are_written(usual: Comparison, tmp_path: Path) -> None:
    bare = made_comparison(transfer=False, spectra=False)
    bare = with_measures(bare, "cka_embedding", cka_matrix=(), heads=())
    assert comparing.write_figures(bare, None, tmp_path) == []
    only = with_measures(usual, "embedding_drift", cka_matrix=(), heads=(), spectra=())
    assert [path.name for path in comparing.write_figures(only, None, tmp_path)] == [
        "transfer.png",
        "towers.png",
    ]
    alone = {name: row.model_copy(update={"crossed": None}) for name, row in only.transfer.items()}
    only = only.model_copy(update={"transfer": alone})
    assert [path.name for path in comparing.write_figures(only, None, tmp_path)] == ["transfer.png"]


def test_svg_and_pdf_on_request_and_the_same_each_time(usual: Comparison, tmp_path: Path) -> None:
    only = with_measures(usual, "embedding_drift", cka_matrix=(), heads=(), spectra=())
    rows = {name: row for name, row in only.transfer.items() if name == "nothing/to keep"}
    only = only.model_copy(update={"transfer": rows})
    paths = comparing.write_figures(only, None, tmp_path / "a", formats=("svg", "pdf"))
    assert [path.name for path in paths] == ["transfer.svg", "transfer.pdf"]
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("svg")
    assert paths[1].read_bytes().startswith(b"%PDF")
    again = comparing.write_figures(only, None, tmp_path / "b", formats=("svg", "pdf"))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_another_format_is_refused_before_anything_is_written(usual: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no figures as 'gif': choose from png, svg, pdf"):
        comparing.write_figures(usual, None, tmp_path / "out", formats=("png", "gif"))
    assert not (tmp_path / "out").exists()


def test_what_is_imported_stays_light() -> None:
    code = (
        "import sys, clipdrift.comparison; assert 'matplotlib' not in sys.modules, 'matplotlib'\n"
        "import clipdrift.figures.comparing, clipdrift.pages.compare\n"
        "found = {'torch', 'matplotlib.pyplot'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- drift by block


@pytest.mark.parametrize("blocks", [12, 32])
def test_bars_are_the_drifts_of_every_measure_with_blocks(blocks: int) -> None:
    kinds = ("q", "k", "v", "out", "fc1", "fc2") if blocks == 12 else ()
    comparison = made_comparison(blocks, spectra=False, weight_kinds=kinds)
    figure = comparing.block_drift(comparison)
    expected = [
        (name.replace("_", " "), found)
        for family in FAMILIES
        for name, found in comparison.measures.items()
        if found.family == family and (found.drift_blocks or found.value_blocks)
    ]
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert titles == [title for title, _ in expected] + ["one value each"]
    assert len(expected) == 8 + 1 + 1 + 3 + 1 + len(kinds)
    for title, found in expected:
        axis = panel(figure, title)
        values = found.drift_blocks or found.value_blocks
        if title.startswith("cka"):
            assert np.array_equal(axis.lines[0].get_ydata(), values), title
        else:
            assert heights(axis) == list(values), title
        whole = found.drift if found.drift_blocks else found.value
        dashed = [line for line in axis.lines if line.is_dashed()]
        assert [line.get_ydata()[0] for line in dashed] == [whole], title  # type: ignore[index]
        assert axis.get_xlabel() == "block"
        assert [int(tick) for tick in axis.get_xticks()] == block_places(blocks)
        low, high = axis.get_ylim()
        assert low <= min(values) < max(values) <= high, title


def test_units_and_the_line_of_no_change(usual: Comparison) -> None:
    names = (
        "entropy",
        "sink_patches",
        "patch_entropy",
        "cka",
        "cka_biased",
        "weight_drift",
        "weight_drift_q",
    )
    figure = comparing.block_drift(with_measures(usual, *names))
    said = {axis.get_title(loc="left"): axis.get_ylabel() for axis in figure.axes}
    assert said["entropy"] == said["patch entropy"] == "change, %"
    assert said["sink patches"] == "change, patches"  # zero before, so absolute
    assert said["cka"] == "CKA"
    assert said["weight drift q"] == "relative change"
    for title, rest in (("entropy", 0), ("cka biased", 1), ("weight drift", 0)):
        solid = [line for line in panel(figure, title).lines if list(line.get_xdata()) == [0, 1]]  # type: ignore[arg-type]
        assert rest in [line.get_ydata()[0] for line in solid if not line.is_dashed()], title  # type: ignore[index]
    assert "200 images of photos/of pets" in heading(figure)
    assert usual.base.name in heading(figure)
    assert usual.tuned.name in heading(figure)


def test_an_absolute_change_without_unit_says_absolute(usual: Comparison) -> None:
    found = compared("gini", [-0.1, 0.2], [0.1, 0.1])
    assert found.absolute
    figure = comparing.block_drift(usual.model_copy(update={"measures": {"gini": found}}))
    assert panel(figure, "gini").get_ylabel() == "change, absolute"
    assert heights(panel(figure, "gini")) == pytest.approx([0.2, -0.1])


def test_a_pooling_head_has_its_values_in_one_panel() -> None:
    comparison = made_comparison(12, pooling_head=True)
    figure = comparing.block_drift(comparison)
    axis = panel(figure, "pooling head, one value each")
    names = [label.get_text().replace(" ", "_") for label in axis.get_yticklabels()]
    assert names[:3] == ["entropy", "normalised_entropy", "erf95"]
    drifts = [comparison.measures[name].drift for name in names]
    assert [bar.get_width() for bar in axis.patches] == drifts  # type: ignore[attr-defined]
    assert axis.get_xlabel() == "change, %"


def test_one_block_is_named_and_is_a_bar_with_room(usual: Comparison) -> None:
    found = compared("entropy", [2.0], [1.5], single=False)
    shape = usual.shape.model_copy(update={"reader": "pooling head"})
    figure = comparing.block_drift(usual.model_copy(update={"measures": {"entropy": found}, "shape": shape}))
    axis = panel(figure, "entropy")
    assert heights(axis) == [-25.0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["pooling head"]
    assert axis.get_xlim() == (0, 2)


def test_nothing_moved_is_a_flat_line(usual: Comparison) -> None:
    still = {
        "entropy": compared("entropy", [2.0, 2.0], [2.0, 2.0]),
        "cka": alone("cka", np.ones(2)),
        "weight_drift": alone("weight_drift", np.zeros(2)),
    }
    figure = comparing.block_drift(usual.model_copy(update={"measures": still}))
    assert panel(figure, "entropy").get_ylim() == (-1, 1)
    assert panel(figure, "cka").get_ylim() == pytest.approx((0, 1.1))
    assert panel(figure, "weight drift").get_ylim() == (-1, 1)


# ---------------------------------------------------------------- heat maps


def test_cka_matrix_has_base_in_rows_and_prints_its_values(usual: Comparison) -> None:
    values = np.array(usual.cka_matrix) * np.linspace(1, 0.9, 6)  # not symmetric
    figure = comparing.cka_matrix(usual.model_copy(update={"cka_matrix": tuple(map(tuple, values))}))
    axis, bar = figure.axes
    assert np.array_equal(cells(axis), values)
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("block of BASE", "block of TUNED")
    assert axis.images[0].get_clim() == (0, 1)
    assert bar.get_ylabel() == "debiased linear CKA"
    printed = {text.get_position(): text.get_text() for text in axis.texts}
    assert printed[(2, 1)] == f"{values[0, 1]:.2f}"  # x is TUNED, the second block
    assert len(printed) == 36
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # block 1 is on top


def test_cka_below_zero_widens_the_scale_and_large_matrices_print_nothing(usual: Comparison) -> None:
    matrix = tuple(tuple(row) for row in np.linspace(-0.1, 1, 16 * 16).reshape(16, 16))
    axis = comparing.cka_matrix(usual.model_copy(update={"cka_matrix": matrix})).axes[0]
    assert axis.images[0].get_clim() == (-0.1, 1)
    assert not axis.texts


def test_weight_drift_has_kinds_in_order_and_leaves_gaps() -> None:
    comparison = made_comparison(weight_kinds=("v", "q"))
    measures = dict(comparison.measures)
    measures["weight_drift_v"] = alone("weight_drift_v", np.array([0.02]), single=True)
    comparison = comparison.model_copy(update={"measures": measures})
    figure = comparing.weight_drift(comparison)
    left, right, _ = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["all", "q", "v", "projection"]
    shown = cells(left)
    assert np.array_equal(shown[0], measures["weight_drift"].value_blocks)
    assert np.array_equal(shown[1], measures["weight_drift_q"].value_blocks)
    assert np.isnan(shown[2:]).all()
    order = ("weight_drift", "weight_drift_q", "weight_drift_v", "weight_drift_projection")
    assert [bar.get_width() for bar in right.patches] == [measures[name].value for name in order]  # type: ignore[attr-defined]
    assert left.images[0].get_clim() == (0, np.nanmax(shown))


def test_heads_are_after_minus_before_around_zero() -> None:
    comparison = made_comparison(12, 12)
    figure = comparing.head_drift(comparison, "entropy")
    axis, bar = figure.axes
    shown = cells(axis)
    for row in comparison.heads:
        if row.measure == "entropy":
            assert shown[row.head - 1, row.block - 1] == row.after - row.before
    low, high = axis.images[0].get_clim()
    assert low == -high == -np.abs(shown).max()
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("block", "head")
    assert bar.get_ylabel() == "change of entropy, nats"
    assert {text.get_text() for text in axis.texts} == {signed(value) for value in shown.ravel()}


def test_many_heads_show_signs_that_grey_keeps() -> None:
    axis = comparing.head_drift(made_comparison(13, 4), "erf95").axes[0]
    shown = cells(axis)
    limit = np.abs(shown).max() / 10
    for text in axis.texts:
        x, y = text.get_position()
        value = shown[y - 1, x - 1]  # type: ignore[index]
        assert text.get_text() == ("" if abs(value) < limit else "+" if value > 0 else "−")


def test_spectrum_shows_rank_and_intruders_and_leaves_the_unchanged_empty(usual: Comparison) -> None:
    kept = usual.spectra[1:]  # block 1 of q did not change
    figure = comparing.spectrum(usual.model_copy(update={"spectra": kept}))
    upper, lower = figure.axes[:2]
    assert [label.get_text() for label in upper.get_yticklabels()] == ["q", "v", "fc1"]
    for row in kept:
        place = (("q", "v", "fc1").index(row.kind), row.block - 1)
        assert cells(upper)[place] == row.effective_rank
        assert cells(lower)[place] == row.intruders
    assert np.isnan(cells(upper)[0, 0])
    assert np.isnan(cells(lower)[0, 0])
    assert lower.get_title(loc="left") == "intruder dimensions, of 10"


def test_what_is_absent_is_an_error_that_says_so() -> None:
    bare = made_comparison(transfer=False, spectra=False).model_copy(
        update={"cka_matrix": (), "heads": (), "measures": {}}
    )
    for make, said in (
        (comparing.transfer, "no transfer set was measured"),
        (comparing.spectrum, "no spectra were measured"),
        (comparing.cka_matrix, "no CKA matrix was measured"),
        (comparing.weight_drift, "no drift of weights was measured"),
        (comparing.head_drift, "no heads were measured by entropy"),
    ):
        with pytest.raises(ValueError, match=said):
            make(bare)


# ---------------------------------------------------------------- transfer


def test_transfer_bars_chance_and_counts(usual: Comparison) -> None:
    figure = comparing.transfer(usual)
    axis = figure.axes[0]
    rows = list(usual.transfer.values())
    widths = [bar.get_width() for bar in axis.patches]  # type: ignore[attr-defined]
    assert widths == [row.before for row in rows] + [row.after for row in rows]
    marks = axis.collections[-1].get_segments()  # type: ignore[attr-defined]
    assert [segment[0][0] for segment in marks] == [1.0, 100 / 47, 25.0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "cifar100\n10000 images, 100 classes"
    assert axis.get_xlabel() == "zero-shot accuracy, %"
    assert {bar.get_hatch() for bar in axis.patches} == {None, "///"}  # told apart in grey
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


# ---------------------------------------------------------------- attention


def test_attention_shows_both_sides_on_one_scale_and_their_difference() -> None:
    comparison = made_comparison(grid=(6, 8))
    maps = made_maps(comparison, 3)
    figure = comparing.attention(maps, 2, 5, 3)
    image, before, after, change = [axis.images[0] for axis in figure.axes if axis.images][:4]
    old, new = maps.of("before", 1, 5, 3), maps.of("after", 1, 5, 3)
    assert np.array_equal(image.get_array(), maps.images[1])
    assert np.array_equal(before.get_array(), old)
    assert np.array_equal(after.get_array(), new)
    assert np.array_equal(change.get_array(), new - old)
    most, widest = max(old.max(), new.max()), np.abs(new - old).max()
    assert before.get_clim() == after.get_clim() == (0, pytest.approx(most))
    assert change.get_clim() == (pytest.approx(-widest), pytest.approx(widest))
    assert {shown.get_interpolation() for shown in (image, before, after, change)} == {"nearest"}
    said = [text.get_text() for text in figure.texts]
    assert "Attention of the class token over 6 x 8 patches, head 3; 1 of 3 images" in said
    assert {"block 5", "image", "backbone", "adapted", "difference"} <= set(said)
    assert {"share of attention", "difference"} <= {axis.get_xlabel() for axis in figure.axes}


def test_a_sheet_has_first_middle_and_last_block() -> None:
    figure = comparing.attention_sheet(made_maps(made_comparison(12), 3), images=[3])
    said = [text.get_text() for text in figure.texts]
    assert [text for text in said if text.startswith("block")] == ["block 1", "block 6", "block 12"]
    assert sum(bool(axis.images) for axis in figure.axes) == 1 + 3 * 3


def test_a_sheet_has_six_images_on_one_scale() -> None:
    maps = made_maps(made_comparison(12), 8)
    figure = comparing.attention_sheet(maps, blocks=[11])
    said = [text.get_text() for text in figure.texts]
    assert "Attention of the class token over 7 x 7 patches, mean over heads; 6 of 8 images" in said
    shown = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(shown) == 6 + 3 * 6
    before, after = shown[6:12], shown[12:18]
    assert np.array_equal(before[2].get_array(), maps.before[2, 10].mean(0).reshape(7, 7))
    largest = max(maps.of(side, i, 11, None).max() for side in ("before", "after") for i in range(6))
    assert {one.get_clim() for one in (*before, *after)} == {(0, float(largest))}
    assert [axis.get_ylabel() for axis in figure.axes[:6]] == [f"cat {i}" for i in range(1, 7)]


def test_a_sheet_of_a_pooling_head() -> None:
    comparison = made_comparison(12, pooling_head=True)
    figure = comparing.attention_sheet(made_maps(comparison, 2), reader="pooling head", images=[2])
    said = [text.get_text() for text in figure.texts]
    assert "pooling head" in said
    assert "Attention of the pooling head over 7 x 7 patches, mean over heads; 1 of 2 images" in said


@pytest.mark.parametrize(
    ("image", "block", "head", "said"),
    [
        (0, 1, None, "no image 0: there are 2"),
        (1, 7, None, "no block 7: there are 6"),
        (1, 1, 5, "no head 5: there are 4"),
    ],
)
def test_no_such_image_block_or_head(
    usual: Comparison, image: int, block: int, head: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=f"{said}, counted from 1"):
        comparing.attention(made_maps(usual, 2), image, block, head)


# ---------------------------------------------------------------- names and numbers


@pytest.mark.filterwarnings("ignore:Glyph")  # 模型 come out as boxes
@pytest.mark.parametrize("name", [ODD, "模型 " + "a" * 300, "$\\frac{$\n\tx"])
def test_any_name_is_drawn_whole_and_never_as_a_formula(name: str) -> None:
    comparison = with_measures(made_comparison(2, 2, name=name), "entropy")
    for make in (comparing.transfer, comparing.head_drift):
        assert cut_off(make(comparison)) == [], make.__name__


def test_long_names_keep_both_ends() -> None:
    assert plain("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"
    assert plain("one\ntwo\x07 three") == "one two three"
    assert plain("$5") == r"\$5"


def test_numbers_in_cells_are_short() -> None:
    values = (0, 0.01234, 0.05, 0.9, 4.96, 12.34, 99.6, 768)
    expected = ["0", "0.012", "0.050", "0.90", "5.0", "12", "100", "768"]
    assert [short(v) for v in values] == expected
    assert [signed(v) for v in (-0.5, 0, 2)] == ["−0.50", "0", "+2.0"]


def test_each_image_tower_with_each_text_tower(usual: Comparison) -> None:
    """Four bars for each set on which both towers have changed; no figure where none has."""
    (axis,) = comparing.towers(usual).axes
    widths = [bar.get_width() for bar in axis.patches]  # type: ignore[attr-defined]
    assert widths == [62.31, 45.17, 58.93, 41.02]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["cifar100"]
    alone = {name: row.model_copy(update={"crossed": None}) for name, row in usual.transfer.items()}
    with pytest.raises(ValueError, match="on no transfer set have both towers changed"):
        comparing.towers(usual.model_copy(update={"transfer": alone}))


def test_the_text_tower_has_a_figure_of_its_own(usual: Comparison) -> None:
    """Both sides of attention, CKA from 1, weights from 0; the image tower's figure shows none of it."""
    comparison = made_comparison(8, texts=True)
    figure = comparing.text_tower(comparison)
    assert "On 100 class prompts of cifar100." in heading(figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    attention = ["entropy", "normalised entropy", "erf95", "gini", "head diversity", "start share"]
    assert titles == [*attention, "cka", "weight drift"]
    measures = comparison.measures
    for title in attention:
        found = measures[f"text_{title.replace(' ', '_')}"]
        before, after = panel(figure, title).lines
        assert (list(before.get_ydata()), list(after.get_ydata())) == (  # type: ignore[arg-type]
            list(found.before_blocks),
            list(found.after_blocks),
        )
    cka, weights = measures["text_cka"], measures["text_weight_drift"]
    assert list(panel(figure, "cka").lines[0].get_ydata()) == list(cka.value_blocks)  # type: ignore[arg-type]
    assert heights(panel(figure, "weight drift")) == list(weights.value_blocks)
    dashed = [line.get_ydata()[0] for line in panel(figure, "cka").lines if line.is_dashed()]  # type: ignore[index]
    assert dashed == [cka.value]
    assert not any(
        axis.get_title(loc="left").startswith("text") for axis in comparing.block_drift(comparison).axes
    )
    assert "text_tower" in dict(comparing._figures(comparison, None))
    assert "text_tower" not in dict(comparing._figures(usual, None))
    with pytest.raises(ValueError, match="the text tower was not measured by block"):
        comparing.text_tower(usual)
