"""What the images may be, how a limit chooses, and what is said of those that will not do."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from by_hand import worst
from outside import load_plain
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPProcessor, SiglipImageProcessorPil

from clipdrift.comparison import Comparison
from clipdrift.comparison.compare import compare
from clipdrift.comparison.images import ImagesLike, ProbeSet
from clipdrift.comparison.measuring import Measurement, measure, open_probe
from clipdrift.comparison.models import open_model
from clipdrift.config import DataSet
from clipdrift.data.deck import Deck
from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, load
from clipdrift.runs.reporter import Silent
from small_runs import CLASSES, write_parquet


@pytest.fixture
def seen(clip_of: Callable[[Path], Clip], tiny_clip_dir: Path) -> Callable[..., Measurement]:
    """The tiny CLIP on some images."""
    return lambda images, **options: measure(clip_of(tiny_clip_dir), images, flow=False, **options)


@pytest.fixture
def chosen(clip_of: Callable[[Path], Clip], tiny_clip_dir: Path) -> Callable[..., ProbeSet]:
    """The images that would be read: ``chosen(images, limit, seed)``."""
    opened = open_model(clip_of(tiny_clip_dir))
    cpu = torch.device("cpu")

    def choose(images: ImagesLike, limit: int = 500, seed: int = 0) -> ProbeSet:
        return open_probe(opened, images, limit, seed, None, None, cpu, False, Silent())

    return choose


@pytest.fixture
def flat(photos: list[Image.Image], tmp_path: Path) -> Path:
    """Twenty pictures in one folder, beside what is none."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for i, photo in enumerate(photos):
        photo.save(folder / f"im{i}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def entropies(found: Measurement) -> np.ndarray:
    return found.internals.attention["entropy"]


# --- what they may be


def test_one_set_of_pictures_in_every_form(
    seen: Callable[..., Measurement],
    photos: list[Image.Image],
    flat: Path,
    tiny_clip: Clip,
    tiny_clip_dir: Path,
) -> None:
    """A folder, pictures, paths, arrays, preprocessed floats, a deck: number by number the same."""
    paths = [flat / f"im{i}.png" for i in range(20)]
    arrays = [np.asarray(photo) for photo in photos]
    inputs = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)(photos, return_tensors="pt")["pixel_values"]
    deck = Deck(
        np.stack(arrays),
        np.arange(20),
        np.zeros(20, np.int64),
        tiny_clip.preprocess,
        torch.device("cpu"),
    )
    forms: dict[str, Any] = {
        "folder": flat,
        "its name": str(flat),
        "pictures": photos,
        "paths": paths,
        "names": tuple(map(str, paths)),
        "arrays": arrays,
        "one array": np.stack(arrays),
        "deck": deck,
        "mixed": [photos[0], arrays[1], *paths[2:]],
        "tensor": inputs,
        "doubles": inputs.double(),
    }
    expected = entropies(seen(photos))
    for name, images in forms.items():
        found = seen(images)
        assert found.images.count == 20, name
        exact = name not in ("tensor", "doubles")
        assert np.abs(entropies(found) - expected).max() <= (0 if exact else 1e-5), name
    assert seen(flat).images.source == str(flat)
    assert seen(photos).images.source == "pictures in memory"
    assert seen(inputs).images.source == "tensors in memory"


def test_a_flat_folder_has_no_classes(flat: Path, chosen: Callable[..., ProbeSet]) -> None:
    """In natural order, with file names for titles; what is no picture does not count."""
    probe = chosen(flat)
    assert probe.titles == tuple(f"im{i}.png" for i in range(20))
    assert probe.labels is None
    assert probe.facts.classes is None
    assert probe.facts.fingerprint


def test_folders_of_classes(pictures: Path, chosen: Callable[..., ProbeSet]) -> None:
    """One folder per class, or that twice in train and test: all the images below, by class."""
    for root, count in ((pictures / "test", 27), (pictures, 99)):
        probe = chosen(root)
        assert (len(probe), probe.facts.classes) == (count, 3)
        assert probe.labels is not None
        assert Counter(probe.titles) == dict.fromkeys(CLASSES, count // 3)
        assert [CLASSES[label] for label in probe.labels] == list(probe.titles)


def test_parquet_as_on_the_hub(tmp_path: Path, pictures: Path, seen: Callable[..., Measurement]) -> None:
    """Its test split, by class; the same pictures as the folder's."""
    found = seen(write_parquet(tmp_path / "table"))
    assert (found.images.count, found.images.classes) == (27, 3)
    assert np.array_equal(entropies(found), entropies(seen(pictures / "test")))


def test_a_generated_world_by_name(chosen: Callable[..., ProbeSet]) -> None:
    """By name, or as a DataSet; drawn at the model's size."""
    for given in ("terrain-10", DataSet(name="terrain-10")):
        probe = chosen(given, limit=20)
        assert probe.facts.source == "terrain-10"
        assert probe.facts.classes == 10
        assert probe.labels is not None
        assert Counter(probe.labels.tolist()) == dict.fromkeys(range(10), 2)
        picture = probe.pictures([0])
        assert picture is not None
        assert picture.shape == (1, 16, 16, 3)


def test_a_folder_from_here(flat: Path, seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a relative name, as one types it."""
    monkeypatch.chdir(flat.parent)
    for name in ("holiday", "./holiday"):
        assert seen(name).images.count == 20


def test_a_cameras_note_on_orientation_is_obeyed(
    photos: list[Image.Image], tmp_path: Path, seen: Callable[..., Measurement]
) -> None:
    """In a list of paths as in a folder."""
    folder = tmp_path / "turned"
    folder.mkdir()
    for i, photo in enumerate(photos[:5]):
        exif = photo.getexif()
        exif[0x0112] = 6  # turn right to see
        photo.save(folder / f"im{i}.png", exif=exif)
    upright = [photo.transpose(Image.Transpose.ROTATE_270) for photo in photos[:5]]
    for images in (folder, sorted(folder.iterdir())):
        assert np.array_equal(entropies(seen(images)), entropies(seen(upright)))
    assert not np.array_equal(entropies(seen(upright)), entropies(seen(photos[:5])))


# --- a limit


def test_a_limit_is_balanced_and_reproducible(pictures: Path, chosen: Callable[..., ProbeSet]) -> None:
    """Classes differ by one image at most; the seed chooses, and nothing else."""
    probe = chosen(pictures, limit=20)
    assert sorted(Counter(probe.titles).values()) == [6, 7, 7]
    again, other = chosen(pictures, limit=20), chosen(pictures, limit=20, seed=1)
    every = chosen(pictures)

    def rows(one: ProbeSet) -> set[bytes]:
        found = one.pictures(range(len(one)))
        assert found is not None
        return {image.tobytes() for image in found}

    assert rows(probe) == rows(again) != rows(other)
    assert len(rows(probe)) == 20
    assert rows(probe) | rows(other) <= rows(every)
    assert probe.facts.fingerprint == again.facts.fingerprint != other.facts.fingerprint


@pytest.mark.parametrize("form", ["pictures", "tensor", "deck"])
def test_a_limit_on_images_in_memory(
    form: str, photos: list[Image.Image], chosen: Callable[..., ProbeSet], make_deck: Callable[..., Deck]
) -> None:
    """Drawn by the seed, kept in order, with their titles; a deck's classes are balanced."""
    forms = {"pictures": photos, "tensor": torch.rand(20, 3, 16, 16), "deck": make_deck(20, classes=4)}
    probe, again, other = (chosen(forms[form], limit=8, seed=seed) for seed in (0, 0, 1))
    assert len(probe) == probe.facts.count == 8
    assert probe.titles == again.titles != other.titles
    numbers = [int(title.split()[1]) for title in probe.titles]
    assert numbers == sorted(numbers)
    if form == "deck":
        assert probe.labels is not None
        assert Counter(probe.labels.tolist()) == dict.fromkeys(range(4), 2)
    if form == "pictures":
        found = probe.pictures(range(8))
        assert found is not None
        assert np.array_equal(found, np.stack([np.asarray(photos[n - 1]) for n in numbers]))


def test_small_classes_give_what_they_have(
    pictures: Path, chosen: Callable[..., ProbeSet], tmp_path: Path
) -> None:
    """One class with two pictures must not cost the balance of the others."""
    root = outside.copy_folder(pictures / "test", tmp_path / "uneven")
    for file in sorted((root / "red").iterdir())[2:]:
        file.unlink()
    counts = [Counter(chosen(root, limit=12, seed=seed).titles) for seed in range(5)]
    assert counts == [{"blue": 5, "green": 5, "red": 2}] * 5
    deck = Deck(
        np.zeros((30, 16, 16, 3), np.uint8),
        np.arange(30),
        np.array([0] * 20 + [2] * 10),  # a part of a set: class 1 is not in it
        Preprocess(),
        torch.device("cpu"),
    )
    labels = chosen(deck, limit=12).labels
    assert labels is not None
    assert Counter(labels.tolist()) == {0: 6, 2: 6}


# --- what will not do


@pytest.mark.parametrize("form", ["folder", "pictures", "tensor", "deck", "limit"])
def test_fewer_than_four_images(
    form: str, photos: list[Image.Image], flat: Path, seen: Any, make_deck: Callable[..., Deck]
) -> None:
    """Debiased CKA is not defined on three."""
    for i in range(3, 20):
        (flat / f"im{i}.png").unlink()
    forms = {"folder": flat, "pictures": photos[:3], "tensor": torch.rand(3, 3, 16, 16)}
    forms |= {"deck": make_deck(3), "limit": photos}
    with pytest.raises(DataError, match=r"3 images; at least 4 are needed"):
        seen(forms[form], limit=3 if form == "limit" else 500)


def test_an_empty_or_missing_folder(seen: Callable[..., Measurement], tmp_path: Path) -> None:
    """The place is named, and what was looked for."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: neither parquet files nor images in it"):
        seen(tmp_path / "empty")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        seen(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no data set is called 'terain-10'; near: terrain-10"):
        seen("terain-10")
    with pytest.raises(DataError, match="no images were given"):
        seen([])


def test_an_unreadable_image_stops_or_is_listed(
    flat: Path, tuned_dir: Path, photos: list[Image.Image], beside: Callable[..., Comparison]
) -> None:
    """By default an error that names the file; skipped, it is listed and noted."""
    broken = flat / "im7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    paths = [flat / f"im{i}.png" for i in range(20)]
    rest = [photo for i, photo in enumerate(photos) if i != 7]
    expected = beside(tuned_dir, images=rest)
    for images in (flat, paths):
        with pytest.raises(DataError, match=r"im7\.png: damaged or truncated"):
            beside(tuned_dir, images=images)
        found = beside(tuned_dir, images=images, skip_bad=True)
        ((where, why),) = found.images.bad
        assert (where, found.images.count) == (str(broken), 19)
        assert why.startswith("damaged or truncated")
        assert "1 unreadable images were left out." in found.notes
        assert found.maps is not None
        assert worst(found, expected) == 0
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        beside(tuned_dir, images=[*paths[:5], flat / "gone.png"])
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        beside(tuned_dir, images=[broken, flat / "gone.png"], skip_bad=True)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(5, 3, 16, 16, dtype=torch.uint8), r"\(5, 3, 16, 16\), uint8; preprocessed floats"),
        (torch.zeros(5, 16, 16, 3), r"\(5, 16, 16, 3\), float32; preprocessed floats"),
        (torch.zeros(3, 16, 16), r"\(3, 16, 16\), float32; preprocessed floats"),
        (torch.zeros(5, 3, 20, 16), r"20 x 16 pixels, where the model takes 16 x 16"),
        ([np.zeros((3, 16, 16), np.uint8)] * 5, r"image 1: an array of uint8 \(3, 16, 16\), but uint8"),
        ([np.zeros((16, 16, 3))] * 5, r"image 1 is a ndarray, not a PIL image, a path or an array of bytes"),
        (list(torch.zeros(5, 3, 16, 16)), r"image 1 is a Tensor, not a PIL image"),
        ([Image.new("F", (16, 16)), 7], r"image 2 is a int, not a PIL image"),
    ],
)
def test_images_that_are_none(seen: Callable[..., Measurement], images: Any, said: str) -> None:
    """One line that says what came and what is needed."""
    with pytest.raises(DataError, match=said):
        seen(images)


def test_a_deck_of_another_size(seen: Callable[..., Measurement], make_deck: Callable[..., Deck]) -> None:
    """Made for another model."""
    with pytest.raises(DataError, match=r"a deck of images: 20 x 20 pixels, where the model takes 16 x 16"):
        seen(make_deck(5, size=20))


# --- preprocessing


@pytest.fixture(scope="module")
def pair(tiny_clip_dir: Path, tuned_dir: Path) -> tuple[Any, Any]:
    """Both in memory, so that no preprocessing is known."""
    return load_plain(tiny_clip_dir), load_plain(tuned_dir)


def test_without_preprocessing_it_is_said_what_to_give(
    pair: tuple[Any, Any], photos: list[Image.Image], pictures: Path
) -> None:
    """A bare model in memory does not tell how its images are made."""
    for images, what in ((photos, "pictures"), (pictures, "images by name or folder")):
        with pytest.raises(
            DataError, match=rf"{what} need the model's preprocessing: give the model by name"
        ):
            compare(*pair, images)


def test_preprocessing_may_be_given_in_any_form(
    pair: tuple[Any, Any],
    photos: list[Image.Image],
    tiny_clip: Clip,
    tiny_clip_dir: Path,
    changed: Comparison,
) -> None:
    """An image processor of transformers, the processor that holds it, its dictionary, or our own."""
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)
    both = CLIPProcessor(image_processor=processor, tokenizer=tiny_clip.tokenizer)
    given = (processor, both, processor.to_dict(), both.to_dict(), tiny_clip.preprocess)
    expected = changed.measures["cka"].value
    for one in given:
        found = compare(*pair, photos, preprocess=one, flow=False, spectrum=False)
        assert found.measures["cka"].value == pytest.approx(expected, abs=1e-6), type(one)


def test_preprocessing_of_another_family_is_understood(
    pair: tuple[Any, Any], photos: list[Image.Image]
) -> None:
    """SigLIP's processor neither crops nor keeps the aspect; here it decides, and not the model's own."""
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pixels = processor([photo.resize((30, 16)) for photo in photos], return_tensors="pt")["pixel_values"]
    wide = [photo.resize((30, 16)) for photo in photos]
    found = compare(*pair, wide, preprocess=processor, flow=False, spectrum=False)
    # the two normalise in another order, so pixels differ in the last bit of single precision
    assert worst(found, compare(*pair, pixels, flow=False, spectrum=False)) < 5e-6


@pytest.mark.parametrize("given", [3, "clip", lambda image: image])
def test_preprocessing_of_no_known_form(pair: tuple[Any, Any], photos: list[Image.Image], given: Any) -> None:
    """A transform of torchvision's cannot be looked into; its tensors can be taken."""
    with pytest.raises(DataError, match=r"preprocess= is a \w+; a transformers image processor, its dict"):
        compare(*pair, photos, preprocess=given)


def test_preprocessing_that_does_not_fit(pair: tuple[Any, Any], photos: list[Image.Image]) -> None:
    """Of another model's size, or without the crop that makes all of one size."""
    with pytest.raises(DataError, match=r"224 x 224 pixels, where the model takes 16 x 16"):
        compare(*pair, photos, preprocess=Preprocess())
    uncut = Preprocess(size=16, crop=None)
    wide = [photo.resize((30 + i, 16)) for i, photo in enumerate(photos)]
    with pytest.raises(DataError, match=r"pictures of different sizes: 16 x 30, 16 x 31, .* centre crop"):
        compare(*pair, wide, preprocess=uncut)


def test_the_other_sides_preprocessing_serves(
    pair: tuple[Any, Any], photos: list[Image.Image], tuned_dir: Path, changed: Comparison
) -> None:
    """Where BASE is bare and TUNED is not."""
    found = compare(pair[0], load(tuned_dir), photos, flow=False, spectrum=False)
    assert found.measures["cka"].value == pytest.approx(changed.measures["cka"].value, abs=1e-6)


def test_different_preprocessing_is_noted_and_bases_is_used(
    tuned_dir: Path,
    photos: list[Image.Image],
    changed: Comparison,
    beside: Callable[..., Comparison],
    tmp_path: Path,
) -> None:
    """Same images, same pixels: otherwise it would be no comparison of models. Who says which, gets it."""
    other = outside.copy_folder(tuned_dir, tmp_path / "other")
    outside.edit_json(other / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    note = "BASE and TUNED come with different preprocessing; BASE's was used for both."
    found = beside(other, images=photos)
    assert note in found.notes
    assert note not in changed.notes
    expected = changed.measures["entropy"]
    assert found.measures["entropy"].after_blocks == pytest.approx(expected.after_blocks, abs=1e-6)
    given = load(other).preprocess
    chosen = beside(other, images=photos, preprocess=given)
    assert note not in chosen.notes
    assert chosen.measures["entropy"].before != expected.before


def test_the_preprocessing_given_makes_the_transfer_sets_too(
    tiny_clip_dir: Path, tuned_dir: Path, pixels: Tensor, pictures: Path, against: Callable[..., Comparison],
    tmp_path: Path,
) -> None:  # fmt: skip
    """As if it were the model's own."""
    bright = Preprocess(size=16, crop=(16, 16), mean=(0.9, 0.1, 0.5))
    folder = outside.copy_folder(tiny_clip_dir, tmp_path / "bright")
    outside.edit_json(
        folder / "preprocessor_config.json", image_mean=[0.9, 0.1, 0.5], image_std=list(bright.std or ())
    )
    options = {"transfer": pictures, "flow": False, "spectrum": False}
    found = against(tuned_dir, preprocess=bright, **options).transfer["colours"]
    assert found == against(tuned_dir, base=folder, **options).transfer["colours"]
    assert found.kl != against(tuned_dir, **options).transfer["colours"].kl


def test_decoded_images_go_to_the_cache_that_is_named(
    tiny_clip_dir: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given, or $CLIPDRIFT_CACHE; a second time they come from there."""
    measure(tiny_clip_dir, flat, cache=tmp_path / "given", flow=False)
    assert list((tmp_path / "given" / "pixels").glob("*.npy"))
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(tmp_path / "named"))
    first = measure(tiny_clip_dir, flat, flow=False)
    assert list((tmp_path / "named" / "pixels").glob("*.npy"))
    shutil.copytree(flat, tmp_path / "moved")
    assert np.array_equal(entropies(first), entropies(measure(tiny_clip_dir, tmp_path / "moved", flow=False)))
    assert len(list((tmp_path / "named" / "pixels").glob("*.npy"))) == 1
