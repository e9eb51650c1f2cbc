"""Labelled images as a corpus: what is drawn, what is never drawn, what is said of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdrift.config import PretrainConfig, parse_config
from clipdrift.data.catalog import CATALOG
from clipdrift.data.errors import DataError
from clipdrift.data.labelled import LabelledCorpus, open_labelled
from clipdrift.data.preprocess import Preprocess

SMALL = Preprocess(size=8, crop=(8, 8))
EACH = {"oak_tree": 9, "bus": 7, "red_fox": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes; each picture has a grey level of its own."""
    level = 0
    for name, count in EACH.items():
        for k in range(count):
            path = tmp_path / "photos" / "train" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (level, level, level)).save(path)
            level += 5
    return tmp_path / "photos"


def opened(folder: Path, **changes: object) -> LabelledCorpus:
    given = {"held_out_per_class": 2, "batch_size": 4, "parts": 2, "crop": 1.0, "flip": False, "colour": 0.0}
    config = parse_config({"data": str(folder), **given, **changes}, PretrainConfig)
    return open_labelled(config, SMALL, folder.parent / "cache")


def levels(pixels: np.ndarray) -> list[int]:
    return [int(x) for x in pixels[:, 0, 0, 0]]


def test_each_image_is_shown_once_before_any_is_shown_again(folder: Path) -> None:
    """And those held out never: 24 images, 6 held out, 18 shown in 4.5 steps of 4."""
    corpus = opened(folder)
    held = levels(corpus.held_out().pixels)
    assert len(held) == 6
    shown = [v for step in range(9) for part in (0, 1) for v in levels(corpus.batch(step, part, 2).pixels)]
    everything = sorted(5 * k for k in range(24) if 5 * k not in held)
    assert sorted(shown[:18]) == sorted(shown[18:36]) == everything
    assert shown[:18] != shown[18:36]


def test_a_caption_holds_for_the_images_of_its_class(folder: Path) -> None:
    """One caption for each class in the batch; the picture's grey level tells its class."""
    corpus = opened(folder)
    starts = {"bus": range(9 * 5, 16 * 5), "oak tree": range(9 * 5), "red fox": range(16 * 5, 24 * 5)}
    for step in range(12):
        batch = corpus.batch(step, 0, 3)
        assert batch.positives.shape == (3, len(batch.texts))
        assert batch.positives.any(0).all()
        assert (batch.positives.sum(1) == 1).all()
        for level, row in zip(levels(batch.pixels), batch.positives, strict=True):
            said = batch.texts[int(row.argmax())]
            assert [name for name in starts if name in said] == [n for n, r in starts.items() if level in r]


def test_captions_are_many_and_all_known_to_the_tokenizer(folder: Path) -> None:
    corpus = opened(folder)
    said = {text for step in range(60) for text in corpus.batch(step, 0, 4).texts}
    assert said == set(corpus.texts())
    assert len(said) >= 24


def test_broader_terms_are_said_where_the_catalog_has_them(folder: Path) -> None:
    """The folder of the test is given CIFAR-100's row, as a local copy of it would be."""
    corpus = opened(folder)
    object.__setattr__(corpus, "broader", CATALOG["cifar100"].broader)
    said = corpus.texts()
    assert "a photo of a oak tree, a kind of tree" in said
    assert "a photo of a bus, a kind of vehicle" in said
    assert not [text for text in said if "red fox" in text and "kind of" in text]


def test_every_class_of_cifar100_has_its_broader_term() -> None:
    """Krizhevsky's twenty groups of five, of which the two of vehicles have one name here."""
    row = CATALOG["cifar100"]
    assert row.classes is not None
    assert set(row.broader) == set(row.classes)
    counts = sorted(list(row.broader.values()).count(term) for term in set(row.broader.values()))
    assert counts == [5] * 18 + [10]


def test_a_batch_is_the_same_in_another_process(folder: Path) -> None:
    """The corpus is pickled by the place of its pixels, and draws the same there."""
    corpus = opened(folder, crop=0.5, flip=True, colour=0.3)
    sent = pickle.dumps(corpus)
    assert len(sent) < 5000
    other = pickle.loads(sent)
    one, two = corpus.batch(7, 1, 2), other.batch(7, 1, 2)
    assert np.array_equal(one.pixels, two.pixels)
    assert one.texts == two.texts


def test_too_few_images_or_classes_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="'bus' of photos has 7 training images"):
        opened(folder, held_out_per_class=7)
    for name in ("oak_tree", "red_fox"):
        for path in (folder / "train" / name).iterdir():
            path.unlink()
        (folder / "train" / name).rmdir()
    with pytest.raises(DataError, match="at least two"):
        opened(folder)
