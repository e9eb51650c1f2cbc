"""Drawing with arrays: noise, patterns and shapes for many small images at once.

Everything works on float32 batches ``(N, S, S)`` so that thousands of images are drawn per second
without a graphics library. Coordinates run over [-1, 1], x to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Colours = tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Pixel centres: x and y, each ``(1, size, size)``, in [-1, 1]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x[None], y[None]


@lru_cache(maxsize=32)
def _interpolation(size: int, cells: int) -> Array:
    """``(size, cells + 1)`` matrix of smooth interpolation weights between lattice points."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(position.astype(int), cells - 1)
    t = position - left
    t = t * t * (3 - 2 * t)
    matrix = np.zeros((size, cells + 1), dtype=np.float32)
    matrix[np.arange(size), left] = 1 - t
    matrix[np.arange(size), left + 1] = t
    return matrix


def value_noise(rng: np.random.Generator, n: int, size: int, cells: int) -> Array:
    """Smooth random fields ``(n, size, size)`` in [0, 1] with about ``cells`` bumps a side."""
    lattice = rng.random((n, cells + 1, cells + 1), dtype=np.float32)
    matrix = _interpolation(size, cells)
    return np.asarray(matrix @ lattice @ matrix.T, dtype=np.float32)


def fractal_noise(rng: np.random.Generator, n: int, size: int, cells: int, octaves: int = 3) -> Array:
    """Sum of :func:`value_noise` at doubling frequency and halving strength, in [0, 1]."""
    total = np.zeros((n, size, size), dtype=np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        total += weight * value_noise(rng, n, size, min(cells * 2**octave, size // 2))
        norm += weight
        weight *= 0.5
    return total / norm


def column(values: object) -> Array:
    """A vector ``(n,)`` as ``(n, 1, 1)`` float32, to broadcast over pixels."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def rotate(x: Array, y: Array, angle: object) -> tuple[Array, Array]:
    """Coordinates seen from axes turned by ``angle`` (n,) radians."""
    c, s = np.cos(column(angle)), np.sin(column(angle))
    return c * x + s * y, c * y - s * x


def wave(t: Array, sharpness: float = 4.0) -> Array:
    """A periodic pattern of period 1 in ``t`` with soft edges, in [0, 1]."""
    return np.clip(0.5 + sharpness * 0.25 * np.sin(2 * np.pi * t), 0, 1).astype(np.float32)


def soft(distance: Array, pixels: float | Array) -> Array:
    """Coverage in [0, 1] of the inside (negative) of a distance field, antialiased over one pixel.

    ``pixels``: how many pixels one unit of ``distance`` is long.
    """
    return np.clip(0.5 - distance * pixels, 0, 1)


def blend(image: Array, colour: Array, alpha: Array) -> Array:
    """Paint ``colour`` (broadcast to N, S, S, 3) over ``image`` (N, S, S, 3) with ``alpha`` (N, S, S)."""
    image += alpha[..., None] * (colour - image)
    return image


def paint(image: Array, colour: Array, alpha: Array) -> Array:
    """:func:`blend` for pictures with the channels first: ``colour`` (broadcast to N, 3, S, S) over
    ``image`` (N, 3, S, S) with ``alpha`` (N, S, S). Several times faster, as rows stay contiguous."""
    image += alpha[:, None] * (colour - image)
    return image


def to_uint8(image: Array) -> NDArray[np.uint8]:
    """[0, 255] floats to bytes, rounded and clipped."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- shapes: distance-like fields of (u, v), negative inside, fitting about the unit circle ---------


def _circle(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 0.88


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.78


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) * 0.894 - v * 0.447 - 0.42, v - 0.72)


def _diamond(u: Array, v: Array) -> Array:
    return (np.abs(u) * 1.5 + np.abs(v) - 1.0) / 1.8


def _star(u: Array, v: Array) -> Array:
    radius = np.sqrt(u * u + v * v)
    sector = np.float32(2 * np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(u, -v) + sector / 2, sector) - sector / 2)
    # the edge from the outer tip (radius 1) to the inner corner (radius 0.42) of one half sector
    inner = np.array([np.cos(sector / 2), np.sin(sector / 2)]) * 0.42
    normal = np.array([inner[1], 1 - inner[0]]) / np.hypot(inner[1], 1 - inner[0])
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    return ((px - 1) * normal[0] + py * normal[1]).astype(np.float32)


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.28, b - 0.92), np.maximum(a - 0.92, b - 0.28))


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - 0.7) - 0.22


def _moon(u: Array, v: Array) -> Array:
    return np.maximum(np.sqrt(u * u + v * v) - 0.92, 0.78 - np.sqrt((u - 0.48) ** 2 + v * v))


def _heart(u: Array, v: Array) -> Array:
    body = (np.abs(u) + np.abs(v + 0.02) - 0.86) / 1.414
    lobe = np.sqrt((np.abs(u) - 0.43) ** 2 + (v + 0.45) ** 2) - 0.6
    return np.minimum(body, lobe)


def _arrow(u: Array, v: Array) -> Array:
    head = np.maximum((np.abs(u) - v) * 0.707 - 0.6, v - 0.02)
    shaft = np.maximum(np.abs(u) - 0.25, np.abs(v - 0.4) - 0.52)
    return np.minimum(head, shaft)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "heart": _heart,
    "arrow": _arrow,
}


def stamp(
    kinds: NDArray[np.int64],
    centre: NDArray[np.float32],
    radius: NDArray[np.float32],
    angle: NDArray[np.float32],
    size: int,
) -> Array:
    """Coverage ``(n, size, size)`` of one shape per row.

    ``kinds``: (n,) indices into :data:`SHAPES`; ``centre``: (n, 2) x and y in [-1, 1]; ``radius``: (n,)
    in the same unit; ``angle``: (n,) radians.
    """
    x, y = grid(size)
    out = np.empty((len(kinds), size, size), dtype=np.float32)
    for index, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(kinds == index)
        if not len(rows):
            continue
        scale = column(radius[rows])
        u, v = rotate(
            (x - column(centre[rows, 0])) / scale, (y - column(centre[rows, 1])) / scale, angle[rows]
        )
        out[rows] = soft(shape(u, v), scale * size / 2)
    return out


def box(a: Array, b: Array, half_a: Array | float, half_b: Array | float) -> Array:
    """Distance field of a rectangle about the origin, ``half_a`` and ``half_b`` its half sides."""
    return np.maximum(np.abs(a) - half_a, np.abs(b) - half_b)


# --- looking down on the ground ---------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """``n`` cameras: ground coordinates ``u``, ``v`` (n, S, S) turned, scaled and shifted per picture,
    ``pixels`` (n, 1, 1) per ground unit, and the way the shadows fall, ``sun`` (n, 2), of length 1.
    Pictures made with it have their channels first: (n, 3, S, S)."""

    rng: np.random.Generator
    u: Array
    v: Array
    pixels: Array
    sun: Array

    @property
    def n(self) -> int:
        return len(self.u)

    @property
    def size(self) -> int:
        return int(self.u.shape[-1])

    def uniform(self, low: float, high: float) -> Array:
        """One number per picture, (n, 1, 1)."""
        return column(self.rng.uniform(low, high, self.n))

    def chance(self, p: float) -> Array:
        """1 with probability ``p``, else 0, per picture: (n, 1, 1)."""
        return column(self.rng.random(self.n) < p)

    def noise(self, cells: int, octaves: int = 2) -> Array:
        """Fractal noise (n, S, S), centred: within [-0.5, 0.5]."""
        return fractal_noise(self.rng, self.n, self.size, cells, octaves) - np.float32(0.5)

    def turned(self, angle: object) -> View:
        """The same ground and sun in axes turned by ``angle`` (n,) radians."""
        u, v = rotate(self.u, self.v, angle)
        sun = rotate(column(self.sun[:, 0]), column(self.sun[:, 1]), angle)
        return View(self.rng, u, v, self.pixels, np.concatenate(sun, axis=1)[..., 0])

    def down_sun(self, a: Array, b: Array) -> Array:
        """Distance of the point (a, b) down the shadow of the origin: (n, S, S)."""
        return column(self.sun[:, 0]) * a + column(self.sun[:, 1]) * b

    def tone(self, palette: Colours, spread: float = 9.0) -> Array:
        """One colour per picture, (n, 3, 1, 1): a mixture of two of the palette, a little off."""
        table = np.array(palette, dtype=np.float32)
        first, second = table[self.rng.integers(0, len(table), (2, self.n))]
        weight = self.rng.random((self.n, 1), dtype=np.float32) * np.float32(0.4)
        shift = self.rng.normal(0, spread, (self.n, 3)).astype(np.float32)
        return np.asarray((first + weight * (second - first) + shift)[:, :, None, None], dtype=np.float32)

    def canvas(self, palette: Colours) -> Array:
        """A picture (n, 3, S, S) of one tone."""
        return np.tile(self.tone(palette), (self.size, self.size))


def camera(rng: np.random.Generator, n: int, size: int) -> View:
    """Look down from about the same height in any direction; the longer half side spans 0.8 to 1.3."""
    x, y = grid(size)
    zoom = column(rng.uniform(0.8, 1.3, n))
    u, v = rotate(x * zoom, y * zoom, rng.uniform(-np.pi, np.pi, n))
    u, v = u + column(rng.uniform(-0.2, 0.2, n)), v + column(rng.uniform(-0.2, 0.2, n))
    turn = rng.uniform(-np.pi, np.pi, n)
    sun = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    return View(rng, u, v, np.float32(size / 2) / zoom, sun)


@dataclass(frozen=True)
class Lattice:
    """A lattice over the ground: ``a``, ``b`` (n, S, S) in [-0.5, 0.5] within the cell, in cell units;
    ``random``, k arrays (n, S, S) of uniform numbers, one per cell; ``pixels`` (n, 1, 1) per cell unit."""

    a: Array
    b: Array
    random: list[Array]
    pixels: Array


def cells(view: View, u: Array, v: Array, spacing: Array, k: int, aspect: Array | float = 1.0) -> Lattice:
    """Cut the plane (u, v) into cells ``spacing`` wide and ``spacing * aspect`` high."""
    side = 32  # the numbers repeat after 32 cells, more than a picture shows
    a = u / spacing + view.uniform(0, 8)
    b = v / (spacing * aspect) + view.uniform(0, 8)
    i, j = np.floor(a), np.floor(b)
    tables = view.rng.random((k, view.n * side * side), dtype=np.float32)
    index = (i.astype(np.int32) & (side - 1)) * side + (j.astype(np.int32) & (side - 1))
    index += (np.arange(view.n, dtype=np.int32) * side * side)[:, None, None]
    random = [np.take(table, index, mode="clip") for table in tables]  # "clip" skips the check of bounds
    return Lattice(a - i - 0.5, b - j - 0.5, random, view.pixels * spacing)
