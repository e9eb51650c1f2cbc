"""Class names that a text encoder cannot use: codes, and names that its tokenizer reads alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_inputs import opened, put, said

from clipdrift.config.named import DataSet, ModelConfig
from clipdrift.data.codes import are_codes, without_codes
from clipdrift.data.errors import DataError
from clipdrift.data.pixels import load_pixels, normalise
from clipdrift.data.sources import Source, open_source
from clipdrift.model.clip import load
from clipdrift.model.zero_shot import class_features


@pytest.mark.parametrize(("names", "left"), [
    (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ("Black_footed_Albatross", "Laysan_Albatross")),
    (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ("Chihuahua", "Japanese_spaniel")),
    (("0_apple", "1_pear"), ("apple", "pear")),
    (("1 apple", "2 - pear"), ("apple", "pear")),
    (("001.cat", "dog"), None),  # not all of them
    (("2_door_car", "4_door_car"), None),  # nothing would tell them apart
    (("737-200", "747-300"), None),  # nothing readable would be left
    (("n01440764", "n01443537"), None),
    (("001.ak47", "002.bat", "003.boat"), ("ak47", "bat", "boat")),  # one of them is like a code
    (("1_c0", "2_c1", "3_c2"), None),
    (("0_3-4", "1_5-6"), None),
])  # fmt: skip
def test_numbers_before_all_names_are_left_out(names: tuple[str, ...], left: tuple[str, ...] | None) -> None:
    assert without_codes(names) == left


@pytest.mark.parametrize(("names", "codes"), [
    (("0", "1", "2"), True),
    (("n01440764", "n01443537"), True),
    (("c0", "c1", "c2"), True),
    (("class_a", "class_b"), True),
    (("label 1", "label 2", "Label 3"), True),
    (("/m/0abc", "/m/01xyz"), True),
    (("0", "1", "2", "3", "background"), True),
    (("cat", "dog", "f16"), False),
    (("Boeing 737", "A318", "MD-11", "Cessna"), False),
    (("a", "b"), False),
])  # fmt: skip
def test_codes_are_known(names: tuple[str, ...], codes: bool) -> None:
    assert are_codes(names) == codes


def test_codes_are_stripped_and_said(tmp_path: Path) -> None:
    source = opened(put(tmp_path, "001.sea_lake/{}.png*2", "002.forest/{}.png*2"))
    assert source.classes == ("sea lake", "forest")
    assert source.own_names == ("001.sea_lake", "002.forest")
    assert said(source.notes, "001.sea_lake = sea lake, 002.forest = forest")


@pytest.mark.parametrize(("folders", "options"), [
    (("n01440764", "n01443537"), {}),
    (("a", "b"), {"classes": ("class_0", "class_1")}),
])  # fmt: skip
def test_codes_alone_are_warned_of(tmp_path: Path, folders: tuple[str, ...], options: dict[str, Any]) -> None:
    source = opened(put(tmp_path, *(f"{name}/{{}}.png*2" for name in folders)), **options)
    assert said(source.notes, "class names look like codes", "near chance; set `classes`")


@pytest.mark.parametrize(("names", "message"), [
    (("Cat", "cat"), "a tokenizer reads two classes alike, 'Cat' and 'cat'"),
    (("sea lake", "Sea  Lake"), "reads two classes alike"),
    (("ﬁsh", "fish"), "reads two classes alike"),  # a ligature
    (("x", "x"), "two classes are both called 'x'"),
])  # fmt: skip
def test_names_that_a_tokenizer_reads_alike_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(put(tmp_path, "a/{}.png*2", "b/{}.png*2"), classes=names)


def _correct(source: Source, tmp_path: Path) -> float:
    """Zero-shot accuracy of the shipped mini model on the test images, in percent."""
    clip = load(ModelConfig(name="clipdrift/mini"))
    assert source.test is not None
    pixels = load_pixels(source.test, clip.preprocess, tmp_path / "pixels")
    with torch.no_grad():
        batch = normalise(torch.from_numpy(np.array(pixels.data)), clip.preprocess)
        images = clip.model.get_image_features(pixel_values=batch)
        images = getattr(images, "pooler_output", images)
        texts = class_features(clip, source.classes, source.prompts[:1])
    predicted = (torch.nn.functional.normalize(images, dim=-1) @ texts.T).argmax(-1)
    return 100 * (predicted.numpy() == pixels.labels).mean()


def test_numbered_folders_with_names_are_as_good_as_named_ones(tmp_path: Path) -> None:
    """Twelve classes, so that text order (0, 1, 10, 11, 2) would give all but two a wrong name."""
    from PIL import Image

    world = open_source(DataSet(name="objects-100"), image_size=56, parts=("test",))
    assert world.test is not None
    names = world.classes[:12]
    for label, name in enumerate(names):
        for i in np.flatnonzero(world.test.labels == label)[:8]:
            for folder in (f"numbers/{label}", f"names/{name}"):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                pixels = world.test.read(int(i))
                assert isinstance(pixels, np.ndarray)
                Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    prompts = world.prompts
    named = _correct(opened(tmp_path / "names", prompts=prompts), tmp_path)
    assert named > 50
    assert _correct(opened(tmp_path / "numbers", prompts=prompts, classes=names), tmp_path) == pytest.approx(
        named, abs=12
    )
    assert _correct(opened(tmp_path / "numbers", prompts=prompts), tmp_path) < named - 25
