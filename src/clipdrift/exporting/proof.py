"""Prove an export: images and texts through the source and through what was read back, laid side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.worlds import WORLDS
from clipdrift.exporting.opened import Opened
from clipdrift.exporting.result import Difference, Dtype, ExportError, Proof, Rounding
from clipdrift.model.clip import Clip
from clipdrift.model.families import FAMILIES
from clipdrift.model.texts import plain
from clipdrift.model.towers import tower_of
from clipdrift.repair.merging import plain_copy

TYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
TOLERANCE: dict[str, float] = {"float32": 1e-4, "fp16": 2**-7, "bf16": 2**-4}
"""Largest difference of an embedding, in its own lengths. Of the two short types 16 times half the distance
between neighbours: towers computed in them add up the rounding of every layer."""
GREY_LEVELS = 1.0
"""By which a library's own preprocessing may differ: the last rounding of a resized picture."""

TEXTS = (
    "a",
    "a cat",
    "a photo of a dog",
    "A photo of TWO small red circles, on a striped ground!",
    "an aerial photograph of a river between fields, with a road that crosses it by a bridge",
    "0123456789",
    "",
    "a photo of a very long text that goes on and on, " * 12,
)
"""Of different lengths, the last longer than any text tower takes."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What both sides are asked for.

    Attributes:
        pictures: square, wide and tall.
        pixels: (n, 3, H, W), the pictures by the source's own preprocessing.
        texts: of different lengths.
    """

    pictures: tuple[Image.Image, ...]
    pixels: Tensor
    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a library made of the samples, perhaps several times over, one after the other: in other batches.

    Attributes:
        library: with its version.
        images, texts: embeddings (n, E), as they come.
        logits: (n, C) of the head.
        pictures: (n, 3, H, W), the pictures by the library's own preprocessing.
    """

    library: str
    images: Tensor
    texts: Tensor
    logits: Tensor | None = None
    pictures: Tensor | None = None


def samples_for(source: Opened) -> Samples:
    """Generated pictures of the model's size, of twice it, wide and tall ones; the texts above.

    The sides are such that no centre crop falls between two pixels, which libraries round differently. SigLIP
    is asked for texts as it was trained with, without capitals and punctuation.
    """
    side = source.clip.image_size
    small = [Image.fromarray(p) for world in ("objects-100", "terrain-10") for p in _drawn(world, side, 3)]
    large = [Image.fromarray(p) for p in _drawn("objects-100", 2 * side, 1)]
    wide = Image.fromarray(np.concatenate([np.asarray(picture) for picture in small[:3]], axis=1))
    tall = Image.fromarray(np.concatenate([np.asarray(picture) for picture in small[3:6]], axis=0))
    pictures = (*small, *large, wide, tall)
    texts = [*TEXTS, *source.prompts]
    if source.family == "siglip":
        texts = [plain(text) for text in texts]
    return Samples(pictures, prepared(source.clip.preprocess, pictures), tuple(texts))


def _drawn(world: str, side: int, count: int) -> NDArray[np.uint8]:
    return WORLDS[world].render(np.random.default_rng(0), np.arange(count, dtype=np.int64), side)


def prepared(preprocess: Preprocess, pictures: Sequence[Image.Image]) -> Tensor:
    """(n, 3, H, W) floats."""
    pixels = np.stack([preprocess.apply(picture) for picture in pictures])
    return normalise(torch.from_numpy(pixels), preprocess)


@torch.no_grad()
def read_source(source: Opened, samples: Samples) -> Reading:
    """The source itself, its adapters acting and not merged, in float32."""
    clip: Clip = source.reference or source.clip

    def call(module: Any, *args: Any, **named: Any) -> Any:
        return module(*args, **named)

    images = tower_of(clip.model).run(samples.pixels, call)[1]
    logits = None if source.head is None else source.head(images)
    return Reading("clipdrift", images, clip.texts(samples.texts), logits)


def difference(wanted: Tensor, found: Tensor) -> Difference:
    """Rows (n, E) beside (n, E), or beside (k n, E), in float64.

    Raises:
        ExportError: of another shape, or no numbers.
    """
    count = len(wanted)
    if len(found) % len(wanted) == 0:
        wanted = wanted.repeat(len(found) // len(wanted), 1)
    if wanted.shape != found.shape:
        raise ExportError(f"of shape {tuple(found.shape)} where the source gives {tuple(wanted.shape)}")
    one, other = wanted.double(), found.double()
    if not bool(torch.isfinite(other).all()):
        raise ExportError("with nan or inf in them")
    apart = (one - other).norm(dim=1) / one.norm(dim=1).clamp_min(1e-30)
    return Difference(
        count=count,
        largest=float((one - other).abs().max()),
        relative=float(apart.max()),
        cosine=float(cosine_similarity(one, other, dim=1).clamp(-1, 1).min()),
    )


def rounded(source: Opened, dtype: Dtype) -> Opened:
    """The source with its weights merged and rounded to a type, still in float32: what a file holds."""
    model = plain_copy(source.clip.model).to(TYPES[dtype]).to(torch.float32)
    head = None if source.head is None else copy.deepcopy(source.head).to(TYPES[dtype]).to(torch.float32)
    texts = FAMILIES[source.family].texts(model, source.clip.tokenizer)
    return replace(source, clip=replace(source.clip, model=model, texts=texts), head=head, reference=None)


def compare(source: Opened, wanted: Reading, found: Reading, dtype: Dtype) -> dict[str, Difference]:
    """Lay two readings side by side: image embeddings, text embeddings and, with a head, logits.

    Raises:
        ExportError: too far apart; names what, by how much, and how much was allowed.
    """
    tolerance = TOLERANCE[dtype]
    named = {
        "image embeddings": (wanted.images, found.images),
        "text embeddings": (wanted.texts, found.texts),
    }
    if wanted.logits is not None and found.logits is not None:
        named["logits"] = (wanted.logits, found.logits)
    apart: dict[str, Difference] = {}
    for what, (one, other) in named.items():
        try:
            apart[what] = difference(one, other)
        except ExportError as error:
            raise ExportError(
                f"{source.name}: {found.library} gives {what} {error}; nothing was kept"
            ) from None
        if apart[what].relative > tolerance:
            raise ExportError(
                f"{source.name}: read back with {found.library}, {what} differ by "
                f"{apart[what].relative:.2e} of their length (cosine {apart[what].cosine:.6f}); "
                f"{tolerance:.1e} is allowed in {dtype}; nothing was kept"
            )
    return apart


def prove(
    source: Opened,
    samples: Samples,
    wanted: Reading,
    found: Reading,
    dtype: Dtype,
    weights: Rounding | None,
    unrounded: Reading | None = None,
) -> Proof:
    """Lay what was read back beside the source.

    Args:
        wanted: of the source in float32.
        found: of the library, as it loads the files.
        unrounded: of the library in float32, which must be the source with its weights rounded likewise: so
            that the wider tolerance of a short type hides no other difference.

    Raises:
        ExportError: too far apart; names what, by how much, and how much was allowed.
    """
    apart = compare(source, wanted, found, dtype)
    in_float32 = None
    if unrounded is not None:
        same = compare(source, read_source(rounded(source, dtype), samples), unrounded, "float32")
        in_float32 = max(part.relative for part in same.values())
    grey = None if found.pictures is None else _grey_levels(source, samples, found)
    return Proof(
        library=found.library,
        tolerance=TOLERANCE[dtype],
        in_float32=in_float32,
        images=apart["image embeddings"],
        texts=apart["text embeddings"],
        logits=apart.get("logits"),
        pixels=grey,
        weights=weights,
    )


def _grey_levels(source: Opened, samples: Samples, found: Reading) -> float:
    """Largest difference of two prepared pixels, as grey levels of 255."""
    preprocess, pictures = source.clip.preprocess, found.pictures
    assert pictures is not None
    if pictures.shape != samples.pixels.shape:
        raise ExportError(
            f"{source.name}: {found.library} prepares images as {tuple(pictures.shape)}, the source as "
            f"{tuple(samples.pixels.shape)}; nothing was kept"
        )
    std = torch.tensor(preprocess.std or (1.0, 1.0, 1.0)).view(1, 3, 1, 1)
    apart = float(((pictures - samples.pixels).abs() * std / (preprocess.scale or 1.0)).max())
    if not apart <= GREY_LEVELS + 0.01:
        raise ExportError(
            f"{source.name}: {found.library} prepares images otherwise: by up to {apart:.2f} grey levels, "
            f"{GREY_LEVELS:g} is allowed; nothing was kept"
        )
    return apart


def cast(state: Mapping[str, Tensor], dtype: Dtype, name: str) -> dict[str, Tensor]:
    """Weights in another type, on the CPU. Raises ExportError where one is too large for it."""
    refuse_overflow(state, dtype, name)
    kind = TYPES[dtype]
    return {
        key: weight.detach().to("cpu", kind if weight.is_floating_point() else weight.dtype).contiguous()
        for key, weight in state.items()
    }


def refuse_overflow(state: Mapping[str, Tensor], dtype: Dtype, name: str) -> None:
    """Refuse weights that would become infinite. Raises ExportError."""
    most = torch.finfo(TYPES[dtype]).max
    for key, weight in state.items():
        if weight.is_floating_point() and float(weight.detach().abs().max()) > most:
            raise ExportError(
                f"{name}: {key} has weights above {most:g}, more than {dtype} holds; say --dtype bf16 or "
                "float32"
            )


def rounding(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], dtype: Dtype, name: str) -> Rounding:
    """Weights of the source beside those in the file, which may be apart by their type's rounding alone.

    Raises:
        ExportError: missing, left over, or further apart.
    """
    if odd := sorted(wanted.keys() ^ found.keys()):
        raise ExportError(f"{name}: {len(odd)} weights are on one side only, for example {odd[0]}")
    kind = TYPES[dtype]
    info = torch.finfo(kind)
    allowed = 0.0 if kind == torch.float32 else info.eps / 2
    least = (
        0.0 if kind == torch.float32 else info.tiny * info.eps / 2
    )  # of numbers too small to be rounded so
    largest = 0.0
    for key, weight in wanted.items():
        one, other = weight.detach().cpu().double(), found[key].double()
        if one.shape != other.shape:
            raise ExportError(f"{name}: {key} is {tuple(other.shape)} in the file, not {tuple(one.shape)}")
        apart = (one - other).abs()
        if bool((apart > allowed * one.abs() + least).any()) or bool(other.isnan().any()):
            raise ExportError(
                f"{name}: {key} differs from the source by {float(apart.max()):.2e}, more than by {dtype}'s "
                "rounding; nothing was kept"
            )
        sized = one.abs() > info.tiny
        if bool(sized.any()):
            largest = max(largest, float((apart[sized] / one.abs()[sized]).max()))
    return Rounding(tensors=len(wanted), largest=largest, allowed=allowed)
