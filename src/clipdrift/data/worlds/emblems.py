"""The world ``emblems-37``: fine-grained classes, told by outline, division and charge of a shield.

Colours, pose, size, lighting and ground are drawn freely within a class; only the three named details
tell it, and most classes have neighbours from which a single detail sets them apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.worlds import draw
from clipdrift.data.worlds.draw import Array

TEMPLATES = (
    "a photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "there is a {}",
    "a close view of a {}",
)


# --- outlines: distance-like fields of (u, v), negative inside, fitting about the unit circle --------


def _round(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 0.86


def _pointed(u: Array, v: Array) -> Array:
    # below the middle the flanks are arcs about (-0.227, 0) and (0.227, 0) that meet in the tip (0, 0.95)
    flank = np.sqrt((np.abs(u) + 0.227) ** 2 + np.maximum(v, 0) ** 2) - 0.977
    return np.asarray(np.maximum(flank, -v - 0.82), dtype=np.float32)


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.77


def _oval(u: Array, v: Array) -> Array:
    return (np.sqrt((u / 0.66) ** 2 + v * v) - 0.98) * 0.75


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "round": _round,
    "pointed": _pointed,
    "square": _square,
    "oval": _oval,
}
CHARGES = ("star", "moon", "heart", "cross", "arrow", "ring")
DIVISIONS = ("stripes", "checks", "quarters", "a border", "a diagonal band")

DESIGNS: NDArray[np.int64] = np.array(
    [
        (outline, charge, division)
        for outline in range(len(OUTLINES))
        for charge in range(len(CHARGES))
        for division in range(len(DIVISIONS))
        if (outline + charge + division) % 3 == 0
    ]
)[:37]
"""(37, 3) indices of outline, charge and division: a third of the combinations, so that every detail
recurs with every other one and no two details together tell the third."""


def _name(outline: int, charge: int, division: int) -> str:
    article = "an" if CHARGES[charge][0] in "aeiou" else "a"
    return f"{list(OUTLINES)[outline]} shield with {article} {CHARGES[charge]} and {DIVISIONS[division]}"


CLASSES = tuple(_name(*design) for design in DESIGNS.tolist())


def _tones(rng: np.random.Generator, n: int) -> Array:
    """Three colours per picture, (3, n, 3, 1, 1): any hue, but one dark, one middling, one light, in any
    order, so that charge and both parts of the field always stand apart."""
    level = np.array([52, 128, 214], dtype=np.float32)[rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)]
    hue = rng.normal(0, 1, (3, n, 3)).astype(np.float32)
    hue -= hue @ np.array([[0.3], [0.59], [0.11]], dtype=np.float32)  # keeps the lightness of the level
    reach = 44 / np.maximum(np.abs(hue).max(axis=2, keepdims=True), 0.5)
    colour = level.T[..., None] + rng.normal(0, 8, (3, n, 1)) + hue * reach
    return np.asarray(np.clip(colour, 4, 250)[..., None, None], dtype=np.float32)


def _ground(rng: np.random.Generator, n: int, size: int) -> Array:
    """Draw the wall behind the shield: two tones mixed by clouds, grain or planks, (n, 3, S, S)."""
    x, y = draw.grid(size)
    along = draw.rotate(x, y, rng.uniform(-np.pi, np.pi, n))[0]
    mix = draw.fractal_noise(rng, n, size, 4, 3)
    planks = draw.wave(along * draw.column(rng.uniform(1, 5, n)) + draw.column(rng.random(n)), 3)
    mix += draw.column(rng.random(n) < 0.4) * (planks - mix) * 0.8
    first = rng.uniform(55, 200, (n, 1, 1, 1)) + rng.normal(0, 26, (n, 3, 1, 1))
    second = first + rng.normal(0, 38, (n, 1, 1, 1)) + rng.normal(0, 14, (n, 3, 1, 1))
    return np.asarray(first + mix[:, None] * (second - first), dtype=np.float32)


def _division(rng: np.random.Generator, kinds: NDArray[np.int64], u: Array, v: Array, edge: Array,
              pixels: Array) -> Array:  # fmt: skip
    """Draw where the field shows its second tone: (n, S, S) in [0, 1]. ``edge``: distance field of the
    outline."""
    out = np.empty_like(u)
    for index, name in enumerate(DIVISIONS):
        rows = np.flatnonzero(kinds == index)
        if not len(rows):
            continue
        a, b, scale = u[rows], v[rows], pixels[rows]
        free = draw.column(rng.random(len(rows)))
        side = np.where(free < 0.5, np.float32(-1), np.float32(1))
        if name == "stripes":
            out[rows] = draw.wave(a * (1.6 + free) + 0.25 * side, 8)
        elif name == "checks":
            k = 1.1 + 0.4 * free
            out[rows] = np.abs(draw.wave(a * k, 8) - draw.wave(b * k, 8))
        elif name == "quarters":
            out[rows] = np.abs(draw.soft(a, scale) - draw.soft(b, scale))
        elif name == "a border":
            out[rows] = draw.soft(-edge[rows] - 0.2 - 0.06 * free, scale)
        else:
            across = np.abs(a + side * b) * np.float32(np.sqrt(0.5))
            out[rows] = draw.soft(across - 0.24 - 0.08 * free, scale)
    return out


def render(rng: np.random.Generator, labels: NDArray[np.int64], size: int = 56) -> NDArray[np.uint8]:
    """Draw one picture per label (n,), an index into :data:`CLASSES`: ``(n, size, size, 3)`` bytes."""
    n = len(labels)
    outline, charge, division = DESIGNS[labels].T
    x, y = draw.grid(size)
    radius = rng.uniform(0.64, 0.95, n).astype(np.float32)
    angle = rng.uniform(-0.4, 0.4, n).astype(np.float32)
    room = np.maximum(0.97 - 0.9 * radius, 0.04)[:, None]
    centre = (rng.uniform(-1, 1, (n, 2)) * room).astype(np.float32)
    left, top = x - draw.column(centre[:, 0]), y - draw.column(centre[:, 1])
    u, v = draw.rotate(left / draw.column(radius), top / draw.column(radius), angle)
    u = u + draw.column(rng.uniform(-0.12, 0.12, n)) * v  # seen a little from the side
    pixels = draw.column(radius) * np.float32(size / 2)
    edge = np.empty_like(u)
    for index, shape in enumerate(OUTLINES.values()):
        rows = np.flatnonzero(outline == index)
        edge[rows] = shape(u[rows], v[rows])

    image = _ground(rng, n, size)
    drop = draw.column(rng.uniform(0, 0.5, n))
    image *= 1 - (drop * draw.soft(edge - 0.08, pixels * 0.2))[:, None]
    first, second, third = _tones(rng, n)
    field = first + _division(rng, division, u, v, edge, pixels)[:, None] * (second - first)
    kinds = np.array([list(draw.SHAPES).index(name) for name in CHARGES])[charge]
    symbol = draw.stamp(
        kinds, centre, radius * rng.uniform(0.42, 0.54, n).astype(np.float32),
        angle + rng.uniform(-0.12, 0.12, n).astype(np.float32), size,
    )  # fmt: skip
    draw.paint(field, third, symbol)
    rim = rng.uniform(10, 60, (n, 3, 1, 1)) + 185 * rng.integers(0, 2, (n, 1, 1, 1))
    draw.paint(image, rim.astype(np.float32), draw.soft(edge - 0.03, pixels))
    draw.paint(image, field, draw.soft(edge + 0.03, pixels))

    light = draw.rotate(x, y, rng.uniform(-np.pi, np.pi, n))[0] * draw.column(rng.uniform(0, 0.22, n))
    gain = draw.column(rng.uniform(0.75, 1.15, n)) + light
    image *= gain[:, None]
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(5)
    return np.ascontiguousarray(draw.to_uint8(image).transpose(0, 2, 3, 1))
