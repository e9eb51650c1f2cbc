"""The head of an image classifier on its target: as transformers' own classifier answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from outside import load_plain
from PIL import Image
from transformers import (
    CLIPForImageClassification,
    CLIPImageProcessorPil,
    SiglipForImageClassification,
    SiglipImageProcessorPil,
    SiglipModel,
)

import half_models as half
from clipdrift.cli import main
from clipdrift.comparison import Comparison, read_comparison
from clipdrift.comparison.compare import compare
from clipdrift.comparison.head import plain_name
from clipdrift.comparison.verdict import verdict
from clipdrift.errors import ClipdriftError
from small_runs import CLASSES

NAMES = ("RED", "Blue", "green")
"""The classes of the pictures in another order and case."""


@torch.no_grad()
def by_hand(model: Any, processor: Any, pictures: Path, names: tuple[str, ...]) -> float:
    """Percent of the test images that transformers' classifier takes for what they are."""
    right = []
    for name in CLASSES:
        for file in sorted((pictures / "test" / name).iterdir()):
            pixels = processor(Image.open(file), return_tensors="pt")["pixel_values"]
            found = names[int(model(pixels).logits.argmax())]
            right.append(found.lower() == name)
    return 100 * sum(right) / len(right)


@pytest.fixture
def tested(tiny_clip_dir: Path, tmp_path: Path) -> Callable[..., Comparison]:
    """``tested(folder, pictures)``: a classifier against the tiny CLIP, with a target."""

    def make(folder: Any, target: Any, base: Any = tiny_clip_dir) -> Comparison:
        images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return compare(
            base, folder, images, target=target, cache=tmp_path / "cache", flow=False, spectrum=False
        )

    return make


@pytest.mark.parametrize("own", [False, True])
def test_accuracy_is_that_of_transformers(
    tiny_clip_dir: Path, pictures: Path, tmp_path: Path, tested: Callable[..., Comparison], own: bool
) -> None:
    """By BASE's preprocessing, or the classifier's own where its folder has one."""
    torch.manual_seed(3)
    folder = half.saved(half.classifier(load_plain(tiny_clip_dir), NAMES), tmp_path / "half")
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)
    if own:
        processor.image_mean, processor.image_std = [0.9, 0.1, 0.9], [0.1, 0.9, 0.5]
        processor.save_pretrained(folder)
    found = tested(folder, f"colours={pictures}").head
    assert found is not None
    expected = by_hand(CLIPForImageClassification.from_pretrained(folder), processor, pictures, NAMES)
    assert found.accuracy == pytest.approx(expected)
    assert 0 < expected < 100
    assert (found.images, found.classes, found.target) == (27, 3, "colours")


def test_siglips_mean_takes_every_patch(
    siglip_dir: Path, pictures: Path, tmp_path: Path, tested: Callable[..., Comparison]
) -> None:
    torch.manual_seed(1)
    model = half.classifier(load_plain(siglip_dir, SiglipModel), NAMES)
    folder = half.saved(model, tmp_path / "half")
    found = tested(folder, f"colours={pictures}", siglip_dir).head
    assert found is not None
    processor = SiglipImageProcessorPil.from_pretrained(siglip_dir)
    loaded = SiglipForImageClassification.from_pretrained(folder)
    assert found.accuracy == pytest.approx(by_hand(loaded, processor, pictures, NAMES))


def test_a_head_that_knows_its_classes(
    tiny_clip_dir: Path, pictures: Path, tmp_path: Path, tested: Callable[..., Comparison]
) -> None:
    """Fitted by least squares on what transformers gives, it is right far more often than by chance; with
    its names in the wrong order it is not."""
    model = half.classifier(load_plain(tiny_clip_dir), CLASSES)
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)
    files = [file for name in CLASSES for file in sorted((pictures / "test" / name).iterdir())]
    pixels = torch.cat([processor(Image.open(f), return_tensors="pt")["pixel_values"] for f in files])
    with torch.no_grad():
        states = model.vision_model(pixels).last_hidden_state[:, 1:].mean(1)
        wanted = torch.eye(3).repeat_interleave(9, 0)
        model.classifier.weight.copy_(torch.linalg.lstsq(states, wanted).solution.T)
        model.classifier.bias.zero_()
    found = tested(model, f"colours={pictures}")
    assert found.head is not None
    assert found.head.accuracy > 90
    assert any(line.startswith("TUNED's own head on colours: ") for line in verdict(found))
    model.config.id2label = dict(enumerate(("green", "red", "blue")))
    turned = tested(model, f"colours={pictures}").head
    assert turned is not None
    assert turned.accuracy < 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Forest_Land", "forest land"),
        (unicodedata.normalize("NFD", "Café"), "café"),
        ("  two   words ", "Two_words"),
        ("STRASSE", "straße"),
    ],
)
def test_names_are_alike_but_for_form(one: str, other: str) -> None:
    assert plain_name(one) == plain_name(other)


def test_names_that_differ_are_kept_apart() -> None:
    assert len({plain_name(name) for name in ("cafe", "café", "a-b", "a b", "ab")}) == 5


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("blue", "green", "yellow"), "1 only in the head (yellow), 1 only in colours (red)"),
        (("blue", "green"), "2 classes against 3, 1 only in colours (red)"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "its 3 classes have no names; set id2label"),
        (("blue", "BLUE", "green", "red"), "4 classes against 3, of which some share a name"),
        (tuple("abcdef"), "6 only in the head (a, b, c, ...), 3 only in colours (blue, green, red)"),
    ],
)
def test_classes_that_differ(
    tiny_clip_dir: Path,
    pictures: Path,
    tmp_path: Path,
    tested: Callable[..., Comparison],
    names: tuple[str, ...],
    said: str,
) -> None:
    folder = half.saved(half.classifier(load_plain(tiny_clip_dir), names), tmp_path / "half")
    with pytest.raises(ClipdriftError) as caught:
        tested(folder, f"colours={pictures}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_without_a_head(tuned_dir: Path, pictures: Path, tested: Callable[..., Comparison]) -> None:
    with pytest.raises(
        ClipdriftError, match="--target tests the head of an image classifier, and this has none"
    ):
        tested(tuned_dir, f"colours={pictures}")


def test_the_command(
    tiny_clip_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed, on the page with the command that makes it again, in the record and in the table."""
    folder = half.saved(half.classifier(load_plain(tiny_clip_dir), NAMES), tmp_path / "half")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("compare", str(tiny_clip_dir), str(folder), "--images", str(pictures)),
                *("--target", str(pictures), "--out", str(out), "--no-flow", "--no-spectra"),
                *("--cache", str(tmp_path / "cache")),
            ]
        )
    assert ended.value.code == 0
    head = read_comparison(out).head
    assert head is not None
    line = f"{head.accuracy:.1f} % of 27 images"
    said = capsys.readouterr().out
    assert f"TUNED's own head on colours: {line} (chance 33.3 %)." in said
    page = (out / "index.html").read_text()
    assert line in page
    assert "--target" in page
    table = read_comparison(out).to_frame()
    row = table[(table["measure"] == "accuracy") & (table["set"] == "colours")]
    assert row["after"].tolist() == [head.accuracy]
