"""What a comparison gives: tables, files, pictures, and the verdict in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import look
from outside import load_plain
from PIL import Image
from transformers import CLIPImageProcessorPil

from clipdrift.comparison import Comparison, ComparisonError, CrossedTowers, TransferRow, read_comparison
from clipdrift.listing import MEASURES
from clipdrift.runs.maps import read_maps

COLUMNS = ["family", "measure", "set", "block", "unit", "before", "after", "drift", "absolute", "value"]


# --- the table


def test_the_table_is_tidy(changed: Comparison) -> None:
    """One row per measure and block, one for the mean; units; every number of the comparison in its place."""
    frame = changed.to_frame()
    assert list(frame.columns) == COLUMNS
    assert str(frame["block"].dtype) == "Int64"
    assert not frame.duplicated(["measure", "set", "block"]).any()
    assert (frame["unit"] == [MEASURES[name].unit for name in frame["measure"]]).all()
    assert (frame["family"] == [MEASURES[name].family for name in frame["measure"]]).all()
    spectra, sets = len(changed.spectra), len(changed.transfer)
    blocks = sum(1 + len(v.before_blocks) + len(v.value_blocks) for v in changed.measures.values())
    assert len(frame) == blocks + 2 * spectra + 3 * sets + sum(
        row.measurable for row in changed.transfer.values()
    )
    by_place = frame.set_index(["measure", "set", "block"])
    for name, values in changed.measures.items():
        rows = frame[(frame["measure"] == name) & (frame["set"] == "")]
        mean, each = rows[rows["block"].isna()].iloc[0], rows[rows["block"].notna()]
        assert each["block"].tolist() == list(range(1, len(each) + 1))
        if values.value is None:
            assert (mean["before"], mean["after"], mean["drift"]) == (
                values.before,
                values.after,
                values.drift,
            )
            assert each["before"].tolist() == list(values.before_blocks)
            assert each["after"].tolist() == list(values.after_blocks)
            assert each["drift"].tolist() == list(values.drift_blocks)
            assert (rows["absolute"] == values.absolute).all()
            assert rows["value"].isna().all()
        else:
            assert mean["value"] == values.value
            assert each["value"].tolist() == list(values.value_blocks)
            assert rows[["before", "after", "drift"]].isna().all(None)
    for row in changed.spectra:
        assert by_place.loc[("effective_rank", row.kind, row.block), "value"] == row.effective_rank
        assert by_place.loc[("intruder_dimensions", row.kind, row.block), "value"] == row.intruders
    (transfer,) = changed.transfer.values()
    of_set = frame[frame["set"] == "colours"].set_index("measure")
    assert of_set.loc["zero_shot_accuracy", "before"] == transfer.before
    assert of_set.loc["zero_shot_accuracy", "after"] == transfer.after
    assert not transfer.measurable
    assert "retention" not in of_set.index
    assert of_set.loc["zero_shot_kl", "value"] == transfer.kl
    assert of_set.loc["zero_shot_agreement", "value"] == transfer.agreement


def test_nothing_to_retain_leaves_no_row(changed: Comparison) -> None:
    """A retention of zero accuracy is no number."""
    row = next(iter(changed.transfer.values())).model_copy(update={"retention": None, "before": 0.0})
    frame = changed.model_copy(update={"transfer": {"colours": row}}).to_frame()
    assert "retention" not in set(frame["measure"])


def test_heads_are_ranked_by_their_change(changed: Comparison) -> None:
    """Within each measure, by the change relative to the measure's mean over all heads before."""
    frame = changed.heads_frame()
    assert len(frame) == len(changed.heads)
    assert list(frame.columns) == ["measure", "block", "head", "before", "after", "change", "relative_change"]
    for measure, rows in frame.groupby("measure"):
        own = [row for row in changed.heads if row.measure == measure]
        scale = np.mean([abs(row.before) for row in own])
        expected = sorted((100 * abs(row.after - row.before) / scale for row in own), reverse=True)
        assert rows["relative_change"].abs().tolist() == pytest.approx(expected)
        assert rows["change"].tolist() == pytest.approx((rows["after"] - rows["before"]).tolist())
        assert {(row.block, row.head) for row in own} == set(zip(rows["block"], rows["head"], strict=True))
    assert frame["measure"].is_monotonic_increasing
    assert (frame["relative_change"] < 0).any()


def test_heads_without_a_value_before_do_not_disturb(changed: Comparison) -> None:
    """Relative to nothing is no number, and comes last."""
    heads = tuple(row.model_copy(update={"before": 0.0}) for row in changed.heads if row.measure == "gini")
    frame = changed.model_copy(update={"heads": heads}).heads_frame()
    assert frame["relative_change"].isna().all()
    assert changed.model_copy(update={"heads": ()}).heads_frame().empty


# --- files


def test_what_is_saved_comes_back(changed: Comparison, tmp_path: Path) -> None:
    """JSON is the comparison, from its folder or its file; the CSV files are the tables."""
    place = tmp_path / "deep" / "compared"
    files = changed.save(place)
    assert sorted(file.name for file in files) == sorted(file.name for file in place.iterdir())
    assert {file.name for file in files} == {"comparison.json", "comparison.csv", "heads.csv", "maps.npz"}
    for path in (place, str(place), place / "comparison.json"):
        found = read_comparison(path)
        assert found.model_dump() == changed.model_dump()
        assert found.summary() == changed.summary()
    table = pd.read_csv(place / "comparison.csv", keep_default_na=False, na_values=[""])
    expected = changed.to_frame()
    assert list(table.columns) == COLUMNS
    for column in ("before", "after", "drift", "value"):
        assert np.allclose(
            table[column].astype(float), expected[column].astype(float), rtol=1e-12, equal_nan=True
        )
    assert table["measure"].tolist() == expected["measure"].tolist()
    heads = pd.read_csv(place / "heads.csv")
    assert heads["relative_change"].tolist() == pytest.approx(
        changed.heads_frame()["relative_change"].tolist()
    )
    maps = read_maps(place / "maps.npz")
    assert changed.maps is not None
    assert maps.titles == changed.maps.titles
    assert np.array_equal(maps.images, changed.maps.images)
    assert np.abs(maps.after - changed.maps.after).max() < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_off_file_is_named(changed: Comparison, tmp_path: Path, share: float) -> None:
    """Wherever a copy broke off."""
    changed.save(tmp_path)
    file = tmp_path / "comparison.json"
    whole = file.read_bytes().rstrip()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ComparisonError, match=r"comparison\.json: damaged \(.*compare again") as caught:
        read_comparison(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a comparison of schema 1"),
        ("{}", "not a comparison of schema 1"),
        ('{"schema_version": 2}', "not a comparison of schema 1"),
        ('{"schema_version": 1}', "damaged at base: Field required"),
        ("\x00\x01", "damaged"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    """Of a later version, of something else, or of nothing."""
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ComparisonError, match=said) as caught:
        read_comparison(tmp_path)
    assert str(tmp_path / "comparison.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_altered_or_missing_file(changed: Comparison, tmp_path: Path) -> None:
    """An unknown key, a missing one, a text for a number: the place in the file is said."""
    with pytest.raises(ComparisonError, match=r"no comparison here; `clipdrift compare \.\.\. --out` makes"):
        read_comparison(tmp_path)
    changed.save(tmp_path)
    file = tmp_path / "comparison.json"
    text = file.read_text()
    for change, said in (
        (lambda d: d["measures"]["cka"].update(value="far"), "damaged at measures.cka.value: "),
        (lambda d: d["shape"].pop("heads"), "damaged at shape.heads: "),
        (lambda d: d["images"].update(kind="x"), "damaged at images.kind: "),
        (lambda d: d["measures"]["gini"].update(before=float("nan")), "damaged at measures.gini.before: "),
    ):
        data = json.loads(text)
        change(data)
        file.write_text(json.dumps(data))
        with pytest.raises(ComparisonError, match=said):
            read_comparison(tmp_path)


# --- pictures


def test_maps_are_the_attention_of_the_pictures_shown(
    changed: Comparison, tiny_clip_dir: Path, tuned_dir: Path, photos: list[Image.Image]
) -> None:
    """Six pictures as the models see them, with transformers' own rows over the patches."""
    maps = changed.maps
    assert maps is not None
    assert np.array_equal(maps.images, np.stack([np.asarray(photo) for photo in photos[:6]]))
    assert maps.titles == tuple(f"image {i}" for i in range(1, 7))
    assert maps.grid == (4, 4)
    inputs = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)(photos[:6], return_tensors="pt")
    for folder, rows in ((tiny_clip_dir, maps.before), (tuned_dir, maps.after)):
        eager = look(load_plain(folder), inputs["pixel_values"])[0][:, :, :, 0, 1:].transpose(1, 0, 2, 3)
        assert rows.shape == (6, 2, 2, 16)
        assert np.abs(rows - eager / eager.sum(-1, keepdims=True)).max() < 1e-5
    assert np.array_equal(maps.of("before", 2, 1, 2).ravel(), maps.before[2, 0, 1])
    assert maps.of("after", 0, 2, None).ravel() == pytest.approx(maps.after[0, 1].mean(0))


def test_each_class_is_shown_before_a_second_of_any(
    tuned_dir: Path, pictures: Path, beside: Callable[..., Comparison]
) -> None:
    """Three classes, five pictures; tensors have no pictures, and none is asked for with 0."""
    found = beside(tuned_dir, images=pictures, limit=20, shown=5)
    assert found.maps is not None
    assert sorted(found.maps.titles[:3]) == ["blue", "green", "red"]
    assert len(found.maps.titles) == len(found.maps.images) == len(found.maps.before) == 5
    assert beside(tuned_dir).maps is None
    none = beside(tuned_dir, images=pictures, limit=4, shown=0)
    assert none.maps is None


# --- the verdict


def lines(found: Comparison) -> list[str]:
    return found.summary().splitlines()


def zero_shot(before: float, after: float, classes: int = 10) -> TransferRow:
    return TransferRow(
        images=100, classes=classes, prompts=("a {}",), before=before, after=after,
        retention=100 * after / before if before else None, agreement=0.5, kl=0.1,
    )  # fmt: skip


def test_the_verdict_without_transfer(changed: Comparison) -> None:
    """How far, where, that transfer was not tested, and attention without a judgement."""
    said = lines(changed.model_copy(update={"transfer": {}}))
    cka, moved, weight = (changed.measures[n].value for n in ("cka", "embedding_drift", "weight_drift"))
    assert cka is not None
    assert weight is not None
    assert 0.8 < cka < 0.95
    assert said[0] == (
        f"The image tower moved clearly: CKA with BASE {cka:.3f} (1 = unchanged), embedding drift "
        f"{moved:.3f} (0 = unchanged), weights changed by {100 * weight:.1f} %."
    )
    blocks = changed.measures["cka"].value_blocks
    assert said[1].startswith(
        f"CKA falls from {blocks[0]:.3f} after block 1 to {blocks[1]:.3f} after block 2"
    )
    kinds = {k: v.value for k, v in changed.measures.items() if k.startswith("weight_drift_")}
    most = max(kinds, key=lambda k: kinds[k] or 0)
    names = {"q": "query", "k": "key", "v": "value", "out": "output", "fc1": "first", "fc2": "second"}
    word = {**names, "projection": "visual projection"}[most.removeprefix("weight_drift_")]
    assert said[2].startswith("Relative to their size, most changed: ")
    assert word in said[2]
    assert f"({100 * (kinds[most] or 0):.1f} %)" in said[2]
    assert said[3].startswith("What is left of its zero-shot ability was not tested: name a set with --trans")
    entropy = changed.measures["entropy"]
    assert said[4].startswith(
        f"Attention of the class token: entropy {entropy.before:.3f} to {entropy.after:.3f} nats "
        f"({entropy.drift:+.1f} %), most in block "
    )
    assert said[4].endswith("Its sign alone does not tell what transfer was lost.")
    assert len(said) == 5


def test_the_verdict_with_transfer(changed: Comparison) -> None:
    """A line per set: before, after, share kept, chance."""
    sets = {"pets": zero_shot(80, 60), "cars": zero_shot(44.44, 0)}
    said = lines(changed.model_copy(update={"transfer": sets}))
    assert said[3] == "Zero-shot on pets: 80.0 % before, 60.0 % after, 75.0 % of it kept (chance 10.0 %)."
    assert said[4] == "Zero-shot on cars: 44.4 % before, 0.0 % after, 0.0 % of it kept (chance 10.0 %)."
    assert not any("not tested" in line for line in said)


@pytest.mark.parametrize(("image", "text", "more"), [
    (70, 78, " The image tower's change costs more."),
    (79, 60, " The text tower's change costs more."),
    (70, 70.5, ""),
])  # fmt: skip
def test_the_verdict_says_whose_change_costs_more(
    changed: Comparison, image: float, text: float, more: str
) -> None:
    row = zero_shot(80, 60).model_copy(update={"crossed": CrossedTowers(tuned_image=image, tuned_text=text)})
    said = lines(changed.model_copy(update={"transfer": {"pets": row}}))
    assert said[4] == (
        f"TUNED's image tower with BASE's text tower: {image:.1f} %; BASE's image tower with TUNED's text "
        f"tower: {text:.1f} %.{more}"
    )


@pytest.mark.parametrize(("before", "hopeless"), [(0, True), (10, True), (15, True), (17, False)])
def test_the_verdict_on_a_base_at_chance(changed: Comparison, before: float, hopeless: bool) -> None:
    """What was never there cannot be kept. Of 100 images and 10 classes 17 right are above chance, 15 not."""
    said = lines(changed.model_copy(update={"transfer": {"pets": zero_shot(before, 9)}}))[3]
    assert said.endswith("; BASE is not above chance here, so what was kept is not measurable.") == hopeless
    assert ("% of it kept" in said) == (not hopeless)


def test_the_verdict_on_the_real_hopeless_case(changed: Comparison) -> None:
    """A random CLIP on three colours."""
    (row,) = changed.transfer.values()
    assert row.before < 1.5 * row.chance
    assert "so what was kept is not measurable" in changed.summary()


def test_the_verdict_on_the_same_model(against: Callable[..., Comparison], tiny_clip_dir: Path) -> None:
    """Unchanged is said outright, and nothing is called most changed."""
    said = lines(against(tiny_clip_dir))
    assert said[0] == "The image tower of TUNED is that of BASE: none of its weights differs."
    assert not any("most changed" in line or "CKA falls" in line for line in said)
    assert "(+0.0 %)" in said[-1]


@pytest.mark.parametrize(
    ("cka", "word"),
    [(0.999, "hardly moved"), (0.97, "moved a little"), (0.85, "moved clearly"), (0.2, "moved far"),
     (-0.05, "moved far")],
)  # fmt: skip
def test_the_word_follows_cka(changed: Comparison, cka: float, word: str) -> None:
    """Debiased CKA may be slightly negative."""
    values = changed.measures["cka"].model_copy(update={"value": cka})
    found = changed.model_copy(update={"measures": {**changed.measures, "cka": values}})
    assert lines(found)[0].startswith(f"The image tower {word}: CKA with BASE {cka:.3f}")


def test_the_summary_is_short_and_plain(
    changed: Comparison, against: Callable[..., Comparison], adapters: Any
) -> None:
    """Lines that fit into a log; tiny numbers are not rounded to nothing."""
    for found in (changed, against(adapters("whole").folder)):
        assert all(0 < len(line) < 320 for line in lines(found))
        assert "nan" not in found.summary()
        assert "weights changed by 0 %" not in found.summary()


def test_the_figure_of_a_comparison(changed: Comparison) -> None:
    """`plot()` gives a figure of matplotlib's."""
    figure = changed.plot()
    assert type(figure).__name__ == "Figure"
    assert figure.axes
