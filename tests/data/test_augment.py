"""Random crops, mirroring and colours: against Pillow where it does the same, and by their properties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from clipdrift.data.augment import Augment


def pictures(n: int = 6, size: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random pictures: colours change slowly, so that interpolation hardly matters."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 200, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((size, size), 3)) for x in small])


def test_without_any_change_pixels_stay() -> None:
    images = pictures()
    assert np.array_equal(Augment().apply(images, np.random.default_rng(0)), images)


def test_mirroring_mirrors_about_half_and_touches_nothing_else() -> None:
    """Oracle: numpy's reversal."""
    images = pictures(200)
    found = Augment(flip=True).apply(images, np.random.default_rng(1)).astype(int)
    same = [np.abs(a - b).max() <= 1 for a, b in zip(found, images.astype(int), strict=True)]
    mirrored = [np.abs(a - b[:, ::-1]).max() <= 1 for a, b in zip(found, images.astype(int), strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_crop_is_a_part_of_the_image_blown_up() -> None:
    """A picture that says where each pixel was: coordinates grow evenly, lie inside, share as asked."""
    size = 64
    ramp = np.linspace(0, 255, size)
    images = np.zeros((300, size, size, 3), np.uint8)
    images[..., 0], images[..., 1] = ramp[None, None, :], ramp[None, :, None]
    found = Augment(crop=0.25).apply(images, np.random.default_rng(2)).astype(float)
    across = (found[:, 0, -2, 0] - found[:, 0, 1, 0]) / 255 * (size - 1) / (size - 3)
    down = (found[:, -2, 0, 1] - found[:, 1, 0, 1]) / 255 * (size - 1) / (size - 3)
    area = across * down
    assert (across > 0).all()  # nothing was mirrored
    assert 0.22 < area.min() < 0.3
    assert 0.9 < area.max() < 1.03
    assert 0.55 < area.mean() < 0.66  # a uniform share would give 0.625; what does not fit is cut off
    ratio = across / down
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    assert ratio.min() < 0.85
    assert ratio.max() > 1.2


def test_colours_change_as_pillow_does() -> None:
    """Oracle: Pillow's brightness, contrast and saturation in turn, which rounds in between."""
    images = pictures(8)
    rng = np.random.default_rng(3)
    factors = 1 + 0.3 * (2 * np.random.default_rng(3).random((8, 8)).astype(np.float32)[:, 5:8] - 1)
    found = Augment(colour=0.3).apply(images, rng).astype(int)
    for image, own, (brightness, contrast, saturation) in zip(images, found, factors, strict=True):
        wanted = Image.fromarray(image)
        wanted = ImageEnhance.Brightness(wanted).enhance(float(brightness))
        wanted = ImageEnhance.Contrast(wanted).enhance(float(contrast))
        wanted = ImageEnhance.Color(wanted).enhance(float(saturation))
        assert np.abs(own - np.asarray(wanted).astype(int)).max() <= 3
    assert np.abs(found - images.astype(int)).max() > 20


def test_the_same_generator_gives_the_same_images() -> None:
    """Resuming rests on it."""
    strong = Augment(0.3, flip=True, colour=0.4)
    one, two, other = (strong.apply(pictures(), np.random.default_rng(k)) for k in (5, 5, 6))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.dtype == np.uint8
    assert one.shape == pictures().shape
