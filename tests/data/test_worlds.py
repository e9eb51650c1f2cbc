"""Worlds: reproducible streams, pictures that need more than pixels, captions that tell the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipdrift.data.worlds import BLOCK, WORLDS, Split, generate, objects

NAMES = sorted(WORLDS)
SPLITS: tuple[Split, Split] = ("train", "test")
Features = NDArray[np.floating]


# --- streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_pictures(name: str) -> None:
    """A data set is named by (world, split, seed): any other key would make results unrepeatable."""
    world = WORLDS[name]
    images, labels = generate(world, "train", 1, seed=3)
    again, labels_again = generate(world, "train", 1, seed=3)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, labels_again)
    for other, _ in (generate(world, "train", 1, seed=4), generate(world, "test", 1, seed=3)):
        assert not (images == other).all(axis=(1, 2, 3)).any()


def test_worlds_do_not_share_a_stream() -> None:
    """The name enters the stream, so that two worlds of one renderer give different pictures."""
    world = WORLDS["terrain-10"]
    images, _ = generate(world, "train", 2)
    other, _ = generate(replace(world, name="terrain-10b"), "train", 2)
    assert not (images == other).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("name", NAMES)
def test_no_picture_occurs_twice(name: str) -> None:
    """Train and test must be disjoint, and blocks must not repeat each other."""
    world = WORLDS[name]
    count = 2 * BLOCK // len(world.classes) + 1
    seen = {image.tobytes() for split in SPLITS for image in generate(world, split, count, size=16)[0]}
    assert len(seen) == 2 * count * len(world.classes)


@pytest.mark.parametrize("name", NAMES)
def test_prefix_does_not_depend_on_the_count(name: str) -> None:
    """Asking for more pictures must not change the ones already seen, across block boundaries too."""
    world = WORLDS[name]
    few = BLOCK // len(world.classes) + 1  # ends inside the second block
    images, labels = generate(world, "test", few, size=24)
    more, more_labels = generate(world, "test", few + 12, size=24)
    assert len(images) > BLOCK
    assert np.array_equal(more[: len(images)], images)
    assert np.array_equal(more_labels[: len(images)], labels)


@pytest.mark.parametrize("size", [56, 112])
@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_range(name: str, size: int) -> None:
    """Both resolutions give bytes that use their range, the same number for every class."""
    world = WORLDS[name]
    images, labels = generate(world, "train", 2, size)
    assert images.shape == (2 * len(world.classes), size, size, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [2] * len(world.classes)
    spread = images.reshape(len(images), -1).std(axis=1)
    assert spread.min() > 2
    assert np.median(spread) > 15
    assert 60 < images.mean() < 190


@pytest.mark.parametrize("name", NAMES)
def test_default_counts_and_order(name: str) -> None:
    """Labels go round the classes, so that any prefix is balanced; the defaults hold without a count."""
    world = WORLDS[name]
    _, labels = generate(world, "test", size=16)
    assert np.array_equal(labels, np.arange(world.test * len(world.classes)) % len(world.classes))


@pytest.mark.parametrize("name", NAMES)
def test_names_are_prompts(name: str) -> None:
    """Class names are words that fit a prompt, each its own."""
    world = WORLDS[name]
    assert world.name == name
    assert len(set(world.classes)) == len(world.classes) == int(name.split("-")[1])
    assert all(c == c.lower() and c.replace(" ", "").isalpha() for c in world.classes)
    assert all(template.count("{}") == 1 for template in world.templates)


@pytest.mark.parametrize("count", [0, -1])
def test_refuses_an_empty_set(count: int) -> None:
    """An empty test set would pass through an evaluation as NaN."""
    with pytest.raises(ValueError, match="per_class must be at least 1"):
        generate(WORLDS["terrain-10"], "test", count)


# --- difficulty -------------------------------------------------------------------------------------


def raw(images: NDArray[np.uint8]) -> Features:
    """Pixels as they are: (n, S * S * 3)."""
    return images.reshape(len(images), -1).astype(np.float32)


def mean_colour(images: NDArray[np.uint8]) -> Features:
    """(n, 3)."""
    return np.asarray(images.mean(axis=(1, 2)))


def descriptor(images: NDArray[np.uint8]) -> Features:
    """Texture without colour or place: power by spatial frequency (mean and spread over directions),
    quantiles of the gradient, and its orientation histogram sorted by height."""
    grey = images.astype(np.float32).mean(axis=-1)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) / (grey.std(axis=(1, 2), keepdims=True) + 1e-3)
    n, size = grey.shape[:2]
    power = np.log(np.abs(np.fft.fft2(grey)) ** 2 + 1e-3)
    axis = np.fft.fftfreq(size) * size
    radius = np.floor(np.hypot(axis[:, None], axis[None]))
    rings = [power[:, radius == r] for r in range(1, size // 2)]
    parts = [ring.mean(axis=1) for ring in rings] + [ring.std(axis=1) for ring in rings]
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(dx, dy)
    parts += list(np.quantile(strength.reshape(n, -1), (0.1, 0.25, 0.5, 0.75, 0.9, 0.97), axis=1))
    turn = np.floor((np.arctan2(dy, dx) / np.pi % 1) * 12).astype(int) % 12
    histogram = np.stack([(strength * (turn == k)).mean(axis=(1, 2)) for k in range(12)], axis=1)
    return np.concatenate([np.stack(parts, axis=1), np.sort(histogram, axis=1)], axis=1)


def accuracy(train: Features, labels: NDArray[np.int64], test: Features, truth: NDArray[np.int64]) -> float:
    """Test accuracy of a logistic regression, after PCA where there are many features."""
    reduce = [PCA(60, svd_solver="randomized", random_state=0)] if train.shape[1] > 1000 else []
    probe = LogisticRegression(C=0.1, max_iter=500)
    model = make_pipeline(StandardScaler(), *reduce, StandardScaler(), probe)
    return float(model.fit(train, labels).score(test, truth))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "test", "most_raw", "most_colour", "margin"),
    [("terrain-10", 150, 50, 0.55, 0.45, 0.25), ("emblems-37", 40, 10, 0.25, 0.12, 0.2)],
)
def test_pixels_do_not_tell_the_class_but_texture_does(
    name: str, train: int, test: int, most_raw: float, most_colour: float, margin: float
) -> None:
    """A target that raw pixels or mean colour solve needs no vision model; one that a plain descriptor
    cannot read better than pixels may carry no class at all."""
    world = WORLDS[name]
    images, labels = generate(world, "train", train)
    unseen, truth = generate(world, "test", test)
    by = {f.__name__: accuracy(f(images), labels, f(unseen), truth) for f in (raw, mean_colour, descriptor)}
    assert by["raw"] < most_raw, by
    assert by["mean_colour"] < most_colour, by
    assert by["descriptor"] > by["raw"] + margin, by


# --- objects ----------------------------------------------------------------------------------------


def scenes(n: int = 300) -> tuple[objects.Scenes, list[str], NDArray[np.bool_]]:
    rng = np.random.default_rng(5)
    drawn = objects.sample(rng, rng.integers(0, 100, n))
    return drawn, *objects.captions(rng, drawn)


def holds(caption: str, row: NDArray[np.int64]) -> bool:
    """Is the caption true of the scene? Read from its words alone, one attribute after the other."""
    words = caption.split()
    shape, colour, size, position, ground, number = row
    where = objects.POSITIONS[position] if position >= 0 else ""
    told: list[tuple[list[str], str]] = [
        ([w for w in objects.SHAPES if any(word.startswith(w) for word in words)], objects.SHAPES[shape]),
        ([w for w in objects.COLOURS if w in words], list(objects.COLOURS)[colour]),
        ([w for w in objects.SIZES if w in words], objects.SIZES[size]),
        ([p for p in objects.POSITIONS if p in caption], where),
        ([w for w in objects.GROUNDS if w in words], objects.GROUNDS[ground]),
        ([w for w in ("two", "three") if w in words] or ["one"], objects.NUMBERS[number]),
    ]
    return all(not said or said == [truth] for said, truth in told)


def test_every_caption_holds_for_its_own_scene() -> None:
    """The diagonal is the definition of a positive pair."""
    drawn, _, said = scenes()
    assert objects.matches(drawn, said).diagonal().all()


def test_matches_agrees_with_the_words() -> None:
    """The loss is told of further positives by attributes; a reader of the words must find the same."""
    drawn, texts, said = scenes(120)
    read = np.array([[holds(text, row) for text in texts] for row in drawn.attributes])
    assert np.array_equal(read, objects.matches(drawn, said))
    assert read.sum() > len(texts)  # positives off the diagonal do occur


def test_equal_scenes_match_each_other() -> None:
    """Two pictures of one description are both right for either caption."""
    drawn, _, _ = scenes(40)
    twice = objects.Scenes(np.concatenate([drawn.attributes, drawn.attributes]))
    _, said = objects.captions(np.random.default_rng(0), twice)
    match = objects.matches(twice, said)
    rows = np.arange(40)
    assert match[rows, rows + 40].all()
    assert match[rows + 40, rows].all()


def test_captions_name_the_colour_they_tell() -> None:
    """The colour word is there when, and only when, the colour is told."""
    drawn, texts, said = scenes()
    colours = list(objects.COLOURS)
    for text, row, told in zip(texts, drawn.attributes, said, strict=True):
        assert [c for c in colours if c in text.split()] == ([colours[row[1]]] if told[1] else [])


def test_unseen_pairs_are_balanced() -> None:
    """Held-out pairs must leave every shape and every colour known, else they test the word, not the pair."""
    assert len(np.unique(objects.UNSEEN)) == 20
    assert np.bincount(objects.UNSEEN // 10).tolist() == [2] * 10
    assert np.bincount(objects.UNSEEN % 10).tolist() == [2] * 10
    assert not set(objects.UNSEEN) & set(objects.SEEN)
    assert len(objects.SEEN) == 80


def test_objects_show_the_colour_of_their_label() -> None:
    """Positive control of the labels: the pixels near one of the ten colours are mostly of the right one."""
    images, labels = generate(WORLDS["objects-100"], "test", 4)
    palette = np.array(list(objects.COLOURS.values()), dtype=np.float32)
    distance = np.linalg.norm(images[..., None, :].astype(np.float32) - palette, axis=-1)
    found = (distance < 40).sum(axis=(1, 2)).argmax(axis=1)
    assert np.mean(found == labels % 10) > 0.9
