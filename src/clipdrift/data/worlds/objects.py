"""The captioned world ``objects`` and its transfer set ``objects-100``.

A scene shows one to three copies of one object on a ground. It is described by six attributes (shape,
colour, size, position, ground, number) and a caption names any subset of them, so that a model has to
learn what each word refers to. Twenty of the hundred shape-colour pairs never occur in pretraining scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.worlds import draw
from clipdrift.data.worlds.draw import Array

SHAPES = tuple(draw.SHAPES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (247, 138, 22),
    "yellow": (246, 226, 40),
    "green": (42, 160, 52),
    "cyan": (60, 218, 222),
    "blue": (36, 66, 214),
    "purple": (134, 44, 172),
    "pink": (250, 150, 196),
    "white": (246, 246, 244),
    "black": (18, 18, 20),
}
SIZES = ("small", "large")
POSITIONS = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")
GROUNDS = ("plain", "striped", "checkered", "dotted", "cloudy", "grainy")
NUMBERS = ("one", "two", "three")
ATTRIBUTES = ("shape", "colour", "size", "position", "ground", "number")

PAIRS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
UNSEEN = np.array([shape * 10 + (shape * 3 + k) % 10 for shape in range(10) for k in (0, 5)])
"""Indices into :data:`PAIRS` that never occur in pretraining: two colours of every shape, two shapes
of every colour."""
SEEN = np.setdiff1d(np.arange(100), UNSEEN)

_OFFSETS = np.array([(0, 0), (-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)], dtype=np.float32)
_UNSAID = -1


@dataclass(frozen=True)
class Scenes:
    """``n`` scenes: ``attributes`` (n, 6) as indices in the order of :data:`ATTRIBUTES`; position is
    ``-1`` where several objects share the picture."""

    attributes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.attributes)


def sample(rng: np.random.Generator, pairs: NDArray[np.int64], single: bool = False) -> Scenes:
    """Scenes that show the given shape-colour ``pairs`` (n,), everything else drawn at random."""
    n = len(pairs)
    number = np.zeros(n, dtype=np.int64) if single else rng.choice(3, n, p=[0.64, 0.2, 0.16])
    position = np.where(number == 0, rng.integers(0, len(POSITIONS), n), _UNSAID)
    columns = (pairs // 10, pairs % 10, rng.integers(0, 2, n), position, rng.integers(0, 6, n), number)
    return Scenes(np.stack(columns, axis=1).astype(np.int64))


def _grounds(rng: np.random.Generator, kinds: NDArray[np.int64], size: int) -> Array:
    """Muted grounds ``(n, size, size, 3)``: two greyish tones mixed by the pattern."""
    n = len(kinds)
    x, y = draw.grid(size)
    mix = np.zeros((n, size, size), dtype=np.float32)
    u, v = draw.rotate(x, y, rng.uniform(-np.pi, np.pi, n))
    cycles = draw.column(rng.uniform(2.4, 4.2, n))
    phase = draw.column(rng.random(n))
    for name, rows in ((g, np.flatnonzero(kinds == i)) for i, g in enumerate(GROUNDS)):
        if not len(rows) or name == "plain":
            continue
        a, b, c, p = u[rows], v[rows], cycles[rows], phase[rows]
        if name == "striped":
            mix[rows] = draw.wave(a * c + p)
        elif name == "checkered":
            mix[rows] = np.abs(draw.wave(a * c * 0.7 + p, 6) - draw.wave(b * c * 0.7 + p, 6))
        elif name == "dotted":
            mix[rows] = draw.wave(a * c + p, 2) * draw.wave(b * c + p, 2)
        elif name == "cloudy":
            mix[rows] = np.clip(3 * draw.fractal_noise(rng, len(rows), size, 3, 2) - 1, 0, 1)
        else:
            mix[rows] = rng.random((len(rows), size, size), dtype=np.float32)
    level = rng.uniform(85, 170, (n, 1)).astype(np.float32)
    first = level + rng.normal(0, 10, (n, 3)).astype(np.float32)
    contrast = rng.uniform(32, 58, (n, 1)) * rng.choice([-1, 1], (n, 1))
    second = first + contrast.astype(np.float32) + rng.normal(0, 5, (n, 3)).astype(np.float32)
    image = first[:, None, None] + mix[..., None] * (second - first)[:, None, None]
    return np.asarray(image, dtype=np.float32)


def _places(rng: np.random.Generator, scenes: Scenes) -> tuple[Array, Array]:
    """Centres (n, 3, 2) and radii (n, 3) of up to three objects; radius 0 = absent."""
    n = len(scenes)
    large, position, number = (scenes.attributes[:, k] for k in (2, 3, 5))
    centre = np.zeros((n, 3, 2), dtype=np.float32)
    radius = np.zeros((n, 3), dtype=np.float32)
    unit = rng.random((n, 3)).astype(np.float32)
    alone = number == 0
    radius[alone, 0] = np.where(large, 0.44 + 0.14 * unit[:, 0], 0.25 + 0.08 * unit[:, 0])[alone]
    centre[alone, 0] = _OFFSETS[position[alone]]
    turn = rng.uniform(0, 2 * np.pi, n)
    for count in (2, 3):
        rows = np.flatnonzero(number == count - 1)
        limits = (0.36, 0.06, 0.23, 0.05) if count == 2 else (0.32, 0.05, 0.21, 0.05)
        for k in range(count):
            big = limits[0] + limits[1] * unit[rows, k]
            radius[rows, k] = np.where(large[rows], big, limits[2] + limits[3] * unit[rows, k])
            angle = turn[rows] + 2 * np.pi * k / count
            centre[rows, k] = 0.54 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centre += rng.uniform(-0.09, 0.09, centre.shape).astype(np.float32)
    room = np.maximum(0.98 - 0.85 * radius, 0)[..., None]
    centre = np.clip(centre, -room, room)
    return centre, radius


def render(rng: np.random.Generator, scenes: Scenes, size: int = 56) -> NDArray[np.uint8]:
    """Draw the scenes: ``(n, size, size, 3)`` bytes."""
    n = len(scenes)
    image = _grounds(rng, scenes.attributes[:, 4], size)
    centre, radius = _places(rng, scenes)
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    colour = palette[scenes.attributes[:, 1]] + rng.normal(0, 9, (n, 3)).astype(np.float32)
    x, y = draw.grid(size)
    tilt, light = rng.uniform(-np.pi, np.pi, n), draw.column(rng.uniform(0, 22, n))
    shade = draw.rotate(x, y, tilt)[0] * light
    for k in range(3):
        rows = np.flatnonzero(radius[:, k] > 0)
        angle = rng.uniform(-0.3, 0.3, len(rows)).astype(np.float32)
        alpha = draw.stamp(scenes.attributes[rows, 0], centre[rows, k], radius[rows, k], angle, size)
        paint = colour[rows][:, None, None] + shade[rows][..., None]
        image[rows] = draw.blend(image[rows], paint, alpha)
    image += rng.normal(0, 5, image.shape).astype(np.float32)
    return draw.to_uint8(image)


# --- captions ---------------------------------------------------------------------------------------

OPENINGS = (
    "a photo of {}", "a photo of {}", "a picture of {}", "an image of {}", "{}", "{}", "a drawing of {}",
    "there is {}", "this is {}", "a scene with {}", "we see {}", "a close view of {}",
)  # fmt: skip
PROMPT = "a photo of a {}"
TEMPLATES = (PROMPT, "a picture of a {}", "an image of a {}", "there is a {}", "a drawing of a {}")
_SAID = np.array([0.85, 0.8, 0.3, 0.35, 0.35, 1.0])
_PLURAL_THING = ("thing", "object", "figure")


def _caption(rng: np.random.Generator, row: NDArray[np.int64], said: NDArray[np.bool_]) -> str:
    shape, colour, size, position, ground, number = row
    many = number > 0
    noun = SHAPES[shape] if said[0] else str(rng.choice(_PLURAL_THING))
    if many:
        noun += "es" if noun.endswith("s") else "s"
    words = [SIZES[size]] if said[2] else []
    words += [list(COLOURS)[colour]] if said[1] else []
    phrase = " ".join([*words, noun])
    if many or rng.random() < 0.2:
        phrase = f"{NUMBERS[number]} {phrase}"
    else:
        phrase = ("an " if phrase[0] in "aeiou" else "a ") + phrase
    if said[3]:
        phrase += f" {POSITIONS[position]}"
    if said[4]:
        phrase += f" on a {GROUNDS[ground]} ground"
    return str(rng.choice(OPENINGS)).format(phrase)


def captions(rng: np.random.Generator, scenes: Scenes) -> tuple[list[str], NDArray[np.bool_]]:
    """One caption per scene, and which attributes it tells: (n, 6)."""
    said = rng.random((len(scenes), len(ATTRIBUTES))) < _SAID
    said[:, 3] &= scenes.attributes[:, 3] != _UNSAID
    said[:, 5] = True  # "two circles" or "a circle": every caption tells the number, if only by its article
    said[~said[:, :2].any(axis=1), 0] = True
    texts = [_caption(rng, row, mask) for row, mask in zip(scenes.attributes, said, strict=True)]
    return texts, said


def matches(scenes: Scenes, said: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``(n, n)``: does caption j hold for scene i? True on the diagonal; the positives of the contrastive
    loss, so that a caption is never pushed away from another picture that it describes as well."""
    same = scenes.attributes[:, None] == scenes.attributes[None]
    return np.all(same | ~said[None], axis=2)
