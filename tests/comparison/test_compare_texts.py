"""The text towers of a comparison: on which texts they are read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from outside import load_plain
from printed import shown
from transformers import CLIPVisionModelWithProjection, SiglipModel

from clipdrift.comparison import Comparison, read_comparison
from clipdrift.comparison.tables import compared
from clipdrift.comparison.texts import LIMIT, _chosen
from clipdrift.comparison.verdict import verdict
from clipdrift.listing import MEASURES
from clipdrift.measures import read_texts, text_readings
from clipdrift.model.clip import Clip
from clipdrift.model.towers import UnsupportedModelError
from clipdrift.model.weights import text_weights
from small_runs import picture

TEXT = [name for name, entry in MEASURES.items() if entry.family == "text"]
CLASSES = ("big circles", "blue", "green squares", "red hexagons", "small")


@pytest.fixture(scope="module")
def both_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changed in both towers."""
    return outside.tuned_copy(tiny_clip_dir, tmp_path_factory.mktemp("both") / "both", texts=True)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five classes of two pictures each."""
    folder = tmp_path_factory.mktemp("five") / "five"
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            picture(label % 3, i).save(folder / name / f"im{i}.png")
    return folder


def text_measures(found: Comparison) -> list[str]:
    return [name for name, values in found.measures.items() if values.family == "text"]


def test_on_captions(
    tiny_clip_dir: Path,
    both_dir: Path,
    five: Path,
    beside: Callable[..., Comparison],
    clip_of: Callable[[Path], Clip],
    tmp_path: Path,
) -> None:
    """The captions of the images, each once; the numbers are those of measuring the two by themselves."""
    album = tmp_path / "album"
    album.mkdir()
    captions = ["two small red circles", "a blue hexagon", "circles", "green squares on a ground", "circles"]
    for i, caption in enumerate(captions):
        picture(i % 3, i).save(album / f"im{i}.png")
        (album / f"im{i}.txt").write_text(caption)
    found = beside(both_dir, images=album, transfer=five)
    towers = found.text_tower
    assert towers is not None
    assert (towers.same, towers.source, towers.count) == (False, "captions of the images", 4)
    clips = clip_of(tiny_clip_dir), clip_of(both_dir)
    before, after = (read_texts(clip, captions[:4]) for clip in clips)
    old, new = (text_weights(clip.model) for clip in clips)
    expected = compared(text_readings(before, after, old, new))
    assert {name: found.measures[name] for name in text_measures(found)} == expected
    assert list(expected) == TEXT
    assert towers.short == before.short
    assert "Only 4 texts were read: take the text tower's CKA for coarse." in found.notes
    said = next(line for line in found.summary().split("\n") if line.startswith("The text tower moved"))
    last = expected["text_cka"].value_blocks[-1]
    assert said.startswith(
        f"The text tower moved, on 4 captions of the images: CKA of the last block {last:.3f}, "
        f"embedding drift {expected['text_embedding_drift'].value:.3f}, weights changed by "
    )
    assert verdict(found) == found.summary().split("\n")
    frame, heads = found.to_frame(), found.heads_frame()
    assert set(frame["measure"]) >= set(TEXT)
    assert (heads["measure"] == "text_entropy").sum() == 2 * 2
    found.save(tmp_path / "saved")
    assert read_comparison(tmp_path / "saved").model_dump() == found.model_dump()
    table = shown(found, width=80)
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert "  start_share" in table


def test_on_class_prompts(
    both_dir: Path, five: Path, pictures: Path, beside: Callable[..., Comparison]
) -> None:
    """Of transfer sets where they have four classes, else of the images."""
    tested = beside(both_dir, transfer=f"fives={five}").text_tower
    assert tested is not None
    assert (tested.source, tested.count) == ("class prompts of fives", 5)
    found = beside(both_dir, images=five, transfer=f"colours={pictures}")
    assert found.text_tower is not None  # three classes are too few
    assert (found.text_tower.source, found.text_tower.count) == (f"class prompts of {five}", 5)
    assert 0 < found.measures["text_embedding_drift"].value < 2


def test_siglips_text_tower(
    siglip_dir: Path, five: Path, beside: Callable[..., Comparison], tmp_path: Path
) -> None:
    """Through the same door; every weight of its head counts as its projection's."""
    other = outside.tuned_copy(siglip_dir, tmp_path / "other", texts=True, kind=SiglipModel)
    found = beside(other, base=siglip_dir, transfer=five)
    assert text_measures(found) == TEXT
    assert found.measures["text_weight_drift_projection"].value > 0
    assert found.measures["text_cka"].value < 0.9999


def test_without_texts_or_tokenizer_weights_alone(
    tiny_clip_dir: Path, both_dir: Path, five: Path, beside: Callable[..., Comparison]
) -> None:
    """And it is said why."""
    bare = beside(load_plain(both_dir), base=load_plain(tiny_clip_dir))
    for found, lacks in ((beside(both_dir), "4 different texts"), (bare, "a tokenizer")):
        assert found.text_tower is not None
        assert (found.text_tower.same, found.text_tower.source, found.text_tower.count) == (False, "", 0)
        assert text_measures(found) == ["text_weight_drift", "text_weight_drift_projection"]
        assert f"The text towers differ; without {lacks} only their weights could be compared." in found.notes
        assert any(line.startswith("The text tower moved: weights") for line in verdict(found))


def test_the_same_text_tower_is_not_measured(
    tuned_dir: Path, five: Path, beside: Callable[..., Comparison]
) -> None:
    """One word says so, and no line of the verdict."""
    found = beside(tuned_dir, transfer=five)
    assert found.text_tower is not None
    assert found.text_tower.same
    assert text_measures(found) == []
    assert not any("text tower" in line for line in (*verdict(found), *found.notes))
    assert "; the text towers are the same" in shown(found)


def test_a_text_tower_that_is_not_there_or_not_read(
    tuned_dir: Path,
    both_dir: Path,
    five: Path,
    beside: Callable[..., Comparison],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image half alone; and towers of a kind that is not read, with the reason if they differ."""
    half = beside(load_plain(tuned_dir, CLIPVisionModelWithProjection), transfer=five)
    assert half.text_tower is None
    assert text_measures(half) == []

    def refused(model: Any) -> Any:
        raise UnsupportedModelError("the text tower of open_clip.CLIP cannot be read")

    monkeypatch.setattr("clipdrift.comparison.texts.text_tower_of", refused)
    for folder, told in ((both_dir, True), (tuned_dir, False)):
        found = beside(folder)
        said = [note for note in found.notes if "text tower of open_clip.CLIP cannot be read" in note]
        assert (found.text_tower, bool(said)) == (None, told)


def test_text_towers_of_different_sizes(
    tiny_clip_dir: Path, tuned_dir: Path, beside: Callable[..., Comparison]
) -> None:
    other = load_plain(tuned_dir)
    other.text_model.encoder.layers = other.text_model.encoder.layers[:1]
    found = beside(other, base=load_plain(tiny_clip_dir))
    assert found.text_tower is None
    assert "The text towers are of different architectures; they were not compared." in found.notes


def test_texts_are_read_once_and_not_without_end() -> None:
    """No caption twice; of very many as many as there is room for, from first to last."""
    assert _chosen([("few", ["a", "b", "a", "c"]), ("more", ["a", "b", "a", "c", "d"])]) == (
        "more",
        list("abcd"),
    )
    assert _chosen([("few", ["a"])]) == ("", [])
    name, texts = _chosen([("many", [str(i) for i in range(2 * LIMIT + 7)])])
    places = torch.tensor([int(text) for text in texts])
    assert (name, len(set(texts)), int(places[0])) == ("many", LIMIT, 0)
    assert set(places.diff().tolist()) == {2, 3}
