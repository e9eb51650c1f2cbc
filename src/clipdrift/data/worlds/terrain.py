"""The world ``terrain-10``: ten kinds of land seen from above, told by texture and layout.

Every class draws its colours from palettes that overlap with those of other classes, and every picture
gets its own heading, height, sun, season and haze, so that mean colour says little and what remains is
what the land looks like: regular or scattered crowns, straight or winding bands, small or large roofs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.worlds import draw
from clipdrift.data.worlds.draw import Array, Colours, Lattice, View, box, cells

TEMPLATES = (
    "an aerial photo of {}", "a satellite image of {}", "a photo of {} seen from above",
    "a view of {} from a plane", "a picture of {}",
)  # fmt: skip

# fmt: off
_VEGETATION: Colours = (
    (58, 88, 46), (88, 118, 58), (122, 132, 70), (150, 110, 52), (86, 78, 50), (64, 84, 74))
_SOIL: Colours = (
    (134, 106, 76), (168, 146, 108), (110, 92, 76), (150, 136, 84), (154, 104, 78), (122, 120, 108))
_WATER: Colours = (
    (42, 66, 88), (60, 96, 108), (58, 82, 66), (104, 112, 92), (118, 110, 88), (88, 124, 138))
_SAND: Colours = ((198, 168, 118), (206, 186, 148), (176, 128, 88), (164, 148, 120), (150, 142, 134))
_PAVED: Colours = ((118, 118, 118), (150, 148, 142), (94, 94, 98), (140, 128, 112), (124, 116, 96))
_ROOFS: Colours = (
    (168, 92, 70), (136, 84, 70), (120, 116, 116), (188, 172, 152), (88, 84, 88), (196, 190, 186))
_HALLS: Colours = (
    (206, 206, 204), (166, 174, 182), (132, 140, 148), (188, 178, 162), (150, 100, 82), (98, 118, 138))
_LINES: Colours = ((60, 84, 50), (226, 226, 220), (232, 214, 140))
# fmt: on
_LAND: Colours = (*_VEGETATION, *_SOIL)
_SHORE: Colours = (*_SAND, *_VEGETATION)


def _crowns(view: View, image: Array, spacing: Array, radius: float, jitter: float, density: Array | float,
            palette: Colours, shadow: float = 0.45) -> None:  # fmt: skip
    """Paint round tree tops, at most one per lattice cell; radius and jitter in cell units."""
    cell = cells(view, view.u, view.v, spacing, 4)
    r = radius * (0.8 + 0.4 * cell.random[0])
    room = np.minimum(jitter, np.maximum(0.5 - r, 0))
    a = cell.a - (cell.random[1] - 0.5) * 2 * room
    b = cell.b - (cell.random[2] - 0.5) * 2 * room
    there = cell.random[3] < density
    lit = view.down_sun(a, b) / r
    if shadow:
        far = np.sqrt(np.maximum(a * a + b * b + r * r * (0.36 - 1.2 * lit), 0))
        image *= 1 - (shadow * there * draw.soft(far - r, cell.pixels))[:, None]
    cover = draw.soft(np.sqrt(a * a + b * b) - r, cell.pixels) * there
    shade = 1 - 0.38 * np.clip(lit, -1, 1) + 0.3 * (cell.random[0] - 0.5)
    draw.paint(image, view.tone(palette) * shade[:, None], cover)


def _mottle(view: View, image: Array, bumps: int, strength: float) -> None:
    """Lighten and darken by noise; ``strength`` 0.3 means about 15 per cent either way."""
    image *= 1 + strength * view.noise(bumps, 3)[:, None]


def _plots(view: View, spacing: Array, palette: Colours) -> tuple[Array, Lattice]:
    """A patchwork of plots in different tones: the picture and its lattice (k = 4)."""
    bend = view.noise(2, 1) * 0.25
    cell = cells(view, view.u + bend, view.v + bend * 0.5, spacing, 4, view.uniform(0.6, 1.3))
    image = view.canvas(palette)
    draw.paint(image, view.tone(palette), (cell.random[0] > 0.4).astype(np.float32))
    draw.paint(image, view.tone(palette), (cell.random[1] > 0.6).astype(np.float32))
    image *= (0.88 + 0.24 * cell.random[2])[:, None]
    return image, cell


def _country(view: View) -> Array:
    """Ground for what runs through the land: open, patched or wooded, (n, 3, S, S)."""
    image, _ = _plots(view, view.uniform(0.7, 1.4), _LAND)
    draw.paint(image, view.tone(_LAND), np.broadcast_to(view.chance(0.5), view.u.shape))
    wood = np.clip(8 * (view.noise(3, 2) + 0.25 - view.uniform(0.1, 0.45)), 0, 1) * view.chance(0.6)
    trees = view.canvas(_VEGETATION)
    _crowns(view, trees, view.uniform(0.18, 0.28), 0.33, 0.3, 0.85, _VEGETATION)
    image = draw.paint(image, trees, wood)
    _mottle(view, image, 8, 0.35)
    return image


# --- the classes: View -> (n, 3, S, S) floats about [0, 255] ----------------------------------------


def _forest(view: View) -> Array:
    image = view.canvas(_VEGETATION) * 0.55
    spacing = view.uniform(0.2, 0.36)
    for layer in range(4):  # thinned lattices at odd angles, so that no row remains to be seen
        part = view.turned(view.rng.uniform(0, 3, view.n))
        _crowns(part, image, spacing * (1.1 - 0.06 * layer), 0.36, 0.3, 0.66, _VEGETATION, shadow=0.0)
        image *= 0.88 if layer < 3 else 1.0
    _mottle(view, image, 3, 0.5)
    return image


def _river(view: View) -> Array:
    image = _country(view)
    course = view.uniform(-0.35, 0.35)
    slope = np.zeros_like(view.u)
    for frequency, height in ((view.uniform(1.6, 2.8), 0.34), (view.uniform(3.2, 5.2), 0.13)):
        size, phase = height * view.uniform(0.5, 1.1), view.uniform(0, 6.28)
        course = course + size * np.sin(frequency * view.u + phase)
        slope += size * frequency * np.cos(frequency * view.u + phase)
    middle = np.abs(view.v - course) / np.sqrt(1 + slope * slope)
    width = view.uniform(0.1, 0.26) * (1 + 0.5 * view.noise(4, 1))
    bank = width + view.uniform(0.02, 0.1) * (0.6 + view.noise(5, 1))
    draw.paint(image, view.tone(_SHORE), 0.8 * draw.soft(middle - bank, view.pixels))
    bed = view.canvas(_WATER) * (1 - 0.25 * np.clip(1 - middle / width, 0, 1))[:, None]
    return draw.paint(image, bed, draw.soft(middle - width, view.pixels))


def _highway(view: View) -> Array:
    image = _country(view)
    for k in range(2):  # a main road, and at times one that crosses it
        along, across = draw.rotate(view.u, view.v, k * view.rng.uniform(0.8, 2.2, view.n))
        there = view.chance(1.0 if k == 0 else 0.35)
        off = across - view.uniform(-0.4, 0.4) - view.uniform(-0.16, 0.16) * along * along
        half = view.uniform(0.15, 0.25) * (1 - 0.35 * k)
        verge = draw.soft(np.abs(off) - half * 1.35, view.pixels) * there
        draw.paint(image, view.tone(_SOIL), 0.7 * verge)
        road = draw.soft(np.abs(off) - half, view.pixels) * there
        draw.paint(image, view.tone(_PAVED), road)
        line = draw.soft(np.abs(off) - 0.025, view.pixels)
        draw.paint(image, view.tone(_LINES), line * road)
        lane = np.abs(np.abs(off) - half * 0.52)
        dash = draw.wave(along / view.uniform(0.3, 0.45) + view.uniform(0, 1), 8) * there * 0.85
        draw.paint(image, view.tone(((228, 228, 226),)), dash * draw.soft(lane - 0.018, view.pixels))
        cell = cells(view, along, off + 8 * half, half, 3, 1.0)  # one car at most per half-width
        car = box(cell.a, cell.b - (cell.random[0] - 0.5) * 0.4, 0.24, 0.12)
        cover = draw.soft(car, cell.pixels) * (cell.random[1] < 0.16) * road
        draw.paint(image, 30 + 210 * cell.random[2][:, None], cover)
    return image


def _roofs(view: View, image: Array, cell: Lattice, half_a: Array, half_b: Array, there: NDArray[np.bool_],
           roof: Array, drop: float) -> Array:  # fmt: skip
    """Paint boxes with their shadows; returns the cover (n, S, S) of the roofs."""
    sun_a, sun_b = draw.column(view.sun[:, 0]) * drop, draw.column(view.sun[:, 1]) * drop
    fall = box(cell.a - sun_a, cell.b - sun_b, half_a, half_b)
    image *= 1 - (0.5 * there * draw.soft(fall, cell.pixels))[:, None]
    cover = draw.soft(box(cell.a, cell.b, half_a, half_b), cell.pixels) * there
    draw.paint(image, roof, cover)
    return cover


def _residential(view: View) -> Array:
    image = view.canvas(_LAND)
    _mottle(view, image, 8, 0.5)
    _crowns(view, image, view.uniform(0.2, 0.3), 0.36, 0.2, view.uniform(0.15, 0.5), _VEGETATION)
    warp = view.uniform(0, 0.35)
    u, v = view.u + warp * view.noise(2, 1), view.v + warp * view.noise(2, 1)
    cell = cells(view, u, v, view.uniform(0.28, 0.4), 5, view.uniform(1.0, 1.2))
    street = 0.5 - np.maximum(np.abs(cell.a) * view.uniform(0.85, 1), np.abs(cell.b))
    draw.paint(image, view.tone(_PAVED), draw.soft(street - view.uniform(0.05, 0.09), cell.pixels))
    half_a, half_b = 0.2 + 0.1 * cell.random[0], 0.2 + 0.1 * cell.random[1]
    first, second = view.tone(_ROOFS), view.tone(_ROOFS)
    roof = np.where(cell.random[2][:, None] < 0.7, first, second) * (0.8 + 0.4 * cell.random[3][:, None])
    gable = cell.random[1] < 0.5
    ridge = view.down_sun(cell.a * gable, cell.b * ~gable)
    roof = roof * (1 - 0.24 * np.sign(ridge))[:, None]
    _roofs(view, image, cell, half_a, half_b, cell.random[4] < 0.9, roof, 0.13)
    return image


def _industrial(view: View) -> Array:
    image = view.canvas(_PAVED + _SOIL)
    _mottle(view, image, 6, 0.3)
    cell = cells(view, view.u, view.v, view.uniform(0.85, 1.3), 6, view.uniform(0.6, 1.0))
    draw.paint(image, view.tone(_PAVED), draw.soft(-box(cell.a, cell.b, 0.45, 0.45), cell.pixels))
    row = cells(view, view.u, view.v, view.uniform(0.12, 0.17), 2, 0.6)  # parked in rows
    cars = draw.soft(box(row.a, row.b, 0.3, 0.3), row.pixels) * (row.random[0] < 0.6)
    draw.paint(image, 40 + 190 * row.random[1][:, None], cars * (cell.random[5] < 0.3))
    half_a, half_b = 0.28 + 0.12 * cell.random[0], 0.26 + 0.14 * cell.random[1]
    roof = np.where(cell.random[2][:, None] < 0.6, view.tone(_HALLS), view.tone(_HALLS))
    rib = draw.wave(cell.a * view.uniform(5, 9), 2) * (cell.random[3] < 0.7)
    roof = roof * (0.9 + 0.2 * cell.random[3] - 0.16 * rib)[:, None]
    vent = box(cell.a - 0.1, cell.b + 0.08, 0.06, 0.09)
    roof = roof * (1 - 0.45 * draw.soft(vent, cell.pixels) * (cell.random[4] < 0.5))[:, None]
    _roofs(view, image, cell, half_a, half_b, cell.random[4] < 0.85, roof, 0.07)
    return image


def _orchard(view: View) -> Array:
    image = view.canvas(_LAND)
    _mottle(view, image, 6, 0.4)
    spacing = view.uniform(0.24, 0.38)
    _crowns(view, image, spacing, 0.32, 0.03, view.uniform(0.88, 1.0), _VEGETATION, shadow=0.5)
    path = draw.soft(np.abs(view.v - view.uniform(-1.6, 1.6)) - view.uniform(0.06, 0.1), view.pixels)
    draw.paint(image, view.tone(_SOIL), path * view.chance(0.4))
    return image


def _fields(view: View) -> Array:
    image, cell = _plots(view, view.uniform(0.7, 1.3), _LAND)
    period = view.uniform(0.13, 0.22)
    furrow = np.where(cell.random[3] < 0.5, cell.a, cell.b) * (cell.pixels / view.pixels) / period
    depth = np.where(cell.random[0] + cell.random[2] < 0.35, 0.04, 0.42) * view.uniform(0.7, 1.2)
    image *= (1 - depth * (draw.wave(furrow + view.uniform(0, 1), 2) - 0.5))[:, None]
    edge = -box(cell.a, cell.b, 0.5, 0.5) - view.uniform(0.015, 0.04)
    draw.paint(image, view.tone(_LAND), draw.soft(edge, cell.pixels))
    _mottle(view, image, 5, 0.3)
    return image


def _pasture(view: View) -> Array:
    image, cell = _plots(view, view.uniform(1.3, 2.4), _LAND)
    draw.paint(image, view.tone(_LAND), np.broadcast_to(view.uniform(0.5, 0.9), view.u.shape))
    draw.paint(image, view.tone(_LAND), 0.6 * np.clip(3 * view.noise(3, 2), 0, 1))
    _mottle(view, image, 12, 0.25)
    hedge = -box(cell.a, cell.b, 0.47, 0.47) - 0.03 * view.noise(10, 1)
    draw.paint(image, view.tone(_VEGETATION) * 0.7, draw.soft(hedge, cell.pixels) * view.chance(0.5))
    _crowns(view, image, view.uniform(0.4, 0.7), 0.17, 0.4, view.uniform(0.08, 0.3), _VEGETATION, shadow=0.4)
    return image


def _lake(view: View) -> Array:
    image = _country(view)
    radius = np.sqrt((view.u * view.uniform(0.7, 1.3)) ** 2 + view.v**2)
    shore = radius - view.uniform(0.65, 1.1) + 0.9 * view.noise(2, 2)
    beach = shore - view.uniform(0.03, 0.12)
    draw.paint(image, view.tone(_SHORE), 0.8 * draw.soft(beach, view.pixels))
    water = view.canvas(_WATER) * (1 - 0.3 * np.clip(-2 * shore, 0, 1))[:, None]
    ripple = draw.wave(view.v / view.uniform(0.14, 0.22) + 1.2 * view.noise(6, 1), 2) - 0.5
    water *= (1 + view.uniform(0, 0.2) * ripple * (1 + 2 * view.noise(3, 1)))[:, None]
    return draw.paint(image, water, draw.soft(shore, view.pixels))


def _dunes(view: View) -> Array:
    image = view.canvas(_SAND + _SOIL)
    crest = view.u * view.uniform(1.5, 2.8) + view.uniform(0.8, 1.8) * view.noise(3, 2)
    rise = crest - np.floor(crest)  # a long slope to the wind, a short steep one behind
    slope = np.where(rise < 0.74, rise / 0.74 * 0.75 - 0.25, 0.5 - (rise - 0.74) / 0.26 * 1.3)
    lee = np.clip((rise - 0.74) * 14, 0, 1) * np.clip((1 - rise) * 14, 0, 1)
    shade = 0.22 * slope - view.uniform(0.25, 0.5) * lee + 0.06 * draw.wave(crest * 4 + view.v * 2, 2)
    image *= (1 + shade * np.clip(1 + 1.4 * view.noise(3, 1), 0.3, 1.6))[:, None]
    return image


_PAINTERS: dict[str, Callable[[View], Array]] = {
    "forest": _forest,
    "river": _river,
    "highway": _highway,
    "residential buildings": _residential,
    "industrial buildings": _industrial,
    "orchard": _orchard,
    "ploughed fields": _fields,
    "pasture": _pasture,
    "lake": _lake,
    "sand dunes": _dunes,
}
CLASSES: tuple[str, ...] = tuple(_PAINTERS)


def _meet(rng: np.random.Generator, image: Array, labels: NDArray[np.int64]) -> None:
    """Let other land into one side of two pictures in five: at most some third of the picture, taken from
    pictures of the same batch, and never water or roads, which would name themselves."""
    size = image.shape[3]
    lenders = np.flatnonzero(~np.isin(labels, [CLASSES.index(name) for name in ("river", "highway", "lake")]))
    rows = np.flatnonzero(rng.random(len(labels)) < 0.4)
    if not len(lenders) or not len(rows):
        return
    other = image[rng.choice(lenders, len(rows))]
    x, y = draw.grid(size)
    across = draw.rotate(x, y, rng.uniform(-np.pi, np.pi, len(rows)))[0]
    wavy = 0.5 * (draw.value_noise(rng, len(rows), size, 5) - np.float32(0.5))
    alpha = draw.soft(draw.column(rng.uniform(0.3, 0.9, len(rows))) + wavy - across, size / 4)
    image[rows] += alpha[:, None] * (other - image[rows])


def _develop(rng: np.random.Generator, image: Array) -> Array:
    """Sun, season and haze: a gain and tint per picture, a slope of light, a drifting shade, grain."""
    n, _, _, size = image.shape
    x, y = draw.grid(size)
    slope = draw.rotate(x, y, rng.uniform(-np.pi, np.pi, n))[0] * draw.column(rng.uniform(0, 0.12, n))
    cloud = draw.value_noise(rng, n, size, 2) * draw.column(rng.uniform(0, 0.25, n))
    tint = rng.uniform(0.78, 1.3, (n, 1, 1, 1)) * rng.normal(1, 0.05, (n, 3, 1, 1))
    image = image * ((1.08 + slope - cloud)[:, None] * tint.astype(np.float32))
    haze = rng.uniform(0, 0.25, (n, 1, 1, 1)).astype(np.float32)
    image += haze * (rng.uniform(130, 210, (n, 1, 1, 1)).astype(np.float32) - image)
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(4)
    return image


def render(rng: np.random.Generator, labels: NDArray[np.int64], size: int = 56) -> NDArray[np.uint8]:
    """Draw one picture per label (n,), an index into :data:`CLASSES`: ``(n, size, size, 3)`` bytes."""
    image = np.empty((len(labels), 3, size, size), dtype=np.float32)
    for index, paint in enumerate(_PAINTERS.values()):
        rows = np.flatnonzero(labels == index)
        if len(rows):
            image[rows] = paint(draw.camera(rng, len(rows), size))
    _meet(rng, image, labels)
    return np.ascontiguousarray(draw.to_uint8(_develop(rng, image)).transpose(0, 2, 3, 1))
