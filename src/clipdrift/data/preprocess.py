"""A model's own preprocessing with Pillow: the geometry here, the arithmetic later on the device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdrift.data.decode import to_rgb
from clipdrift.data.errors import DataError

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "SiglipImageProcessor": {
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": 0.5,
        "image_std": 0.5,
    },
}
"""What a missing key means in the files of other processors than CLIP's, by their ``image_processor_type``.
SigLIP's say nothing of a crop and make none."""
_LARGEST_WHOLE = 16_000_000
"""Pixels. Of a resized picture above that, which takes sides of 320:1 at CLIP's 224, only the part that the
crop keeps is ever made. Below, the whole is, because that is what transformers does, bit for bit."""


@dataclass(frozen=True)
class _Cut:
    """One axis of resizing and centre crop.

    ``resized`` pixels after resizing, of which ``length`` from ``start`` are kept and put at ``pad`` into
    ``out``, the rest being black.
    """

    resized: int
    start: int
    length: int
    pad: int
    out: int


def _cut(resized: int, crop: int | None) -> _Cut:
    if crop is None:
        return _Cut(resized, 0, resized, 0, resized)
    if crop <= resized:
        return _Cut(resized, (resized - crop) // 2, crop, 0, crop)
    return _Cut(resized, 0, resized, -(-(crop - resized) // 2), crop)


@dataclass(frozen=True)
class Preprocess:
    """What ``preprocessor_config.json`` says, understood as transformers' ``CLIPImageProcessorPil`` and
    ``SiglipImageProcessorPil`` do.

    Attributes:
        size: ``(height, width)``, or one number for the shorter side; ``None``: no resizing.
        resample: Pillow's number of the filter (3 is bicubic).
        crop: ``(height, width)`` of the centre crop, black where the picture is smaller; ``None``: none.
        scale: Factor on the grey levels; ``None``: none.
        mean, std: Of the channels; ``None``: not normalised.
    """

    size: tuple[int, int] | int | None = 224
    resample: int = int(Image.Resampling.BICUBIC)
    crop: tuple[int, int] | None = (224, 224)
    scale: float | None = 1 / 255
    mean: tuple[float, float, float] | None = _CLIP_MEAN
    std: tuple[float, float, float] | None = _CLIP_STD

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """Make from the dictionary; keys that are missing or null have CLIP's values, in SigLIP's files
        SigLIP's.

        Pictures are always made RGB, whatever ``do_convert_rgb`` says, as CLIP takes nothing else.

        Raises:
            DataError: A value that is not understood.
        """
        given = {key: value for key, value in config.items() if value is not None}
        # transformers has one class for each of its backends
        kind = str(given.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
        given = _OTHER_DEFAULTS.get(kind, {}) | given
        normalised = bool(given.get("do_normalize", True))
        resample = given.get("resample", Image.Resampling.BICUBIC)
        try:
            resample = int(Image.Resampling(resample))
        except ValueError as error:
            raise DataError(
                f"preprocessing: `resample` is {resample!r}, not a filter of Pillow (0 to 5)"
            ) from error
        return cls(
            size=_size(given.get("size", 224)) if given.get("do_resize", True) else None,
            resample=resample,
            crop=_crop(given.get("crop_size", 224)) if given.get("do_center_crop", True) else None,
            scale=float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else None,
            mean=_channels("image_mean", given.get("image_mean", _CLIP_MEAN)) if normalised else None,
            std=_channels("image_std", given.get("image_std", _CLIP_STD)) if normalised else None,
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Preprocess:
        """From a model's folder: ``preprocessor_config.json``, or the image part of
        ``processor_config.json``, where transformers 5 keeps it.

        Raises:
            DataError: Neither file is there, or it is not JSON.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = Path(folder) / name
            if not path.is_file():
                continue
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path}: not valid JSON ({error}); copy the model again") from error
            if name == "processor_config.json":
                config = config.get("image_processor")
            if isinstance(config, dict):
                return cls.from_config(config)
        raise DataError(f"{folder}: no preprocessor_config.json; copy the one of the model that was trained")

    def geometry(self) -> dict[str, Any]:
        """Settings that change the uint8 pixels, as plain data for a cache key; mean and std do not."""
        return {"size": self.size, "resample": self.resample, "crop": self.crop}

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resized and cropped, uint8 ``(H, W, 3)``; equal to transformers' before it rescales.

        A thread of one pixel's width is no danger: of the 224 x 1,120,000 pixels that it resizes to, only
        those that the crop keeps are ever made.
        """
        picture = to_rgb(image)
        rows, columns = self._cuts(picture.height, picture.width)
        window = (columns.start, rows.start, columns.start + columns.length, rows.start + rows.length)
        resample = Image.Resampling(self.resample)
        if self.size is None:
            kept = picture.crop(window)
        elif rows.resized * columns.resized <= _LARGEST_WHOLE:
            kept = picture.resize((columns.resized, rows.resized), resample).crop(window)
        else:
            kept = _resize_kept(picture, rows, columns, resample)
        pixels = np.asarray(kept, dtype=np.uint8)
        if (rows.out, columns.out) == (rows.length, columns.length):
            return pixels
        padded = np.zeros((rows.out, columns.out, 3), dtype=np.uint8)
        padded[rows.pad : rows.pad + rows.length, columns.pad : columns.pad + columns.length] = pixels
        return padded

    def _cuts(self, height: int, width: int) -> tuple[_Cut, _Cut]:
        if isinstance(self.size, tuple):
            height, width = self.size
        elif self.size is not None:
            # transformers' rounding: the longer side is cut off, not rounded.
            if width <= height:
                height, width = int(self.size * height / width), self.size
            else:
                height, width = self.size, int(self.size * width / height)
        crop_height, crop_width = self.crop or (None, None)
        return _cut(height, crop_height), _cut(width, crop_width)


def _resize_kept(picture: Image.Image, rows: _Cut, columns: _Cut, resample: Image.Resampling) -> Image.Image:
    """Resize and cut out the kept part without resizing the rest.

    Equal but for rounding (two grey levels). Each axis goes by itself, as within Pillow, whose order of the
    two otherwise hangs on the shape of the result and decides where bicubic's overshoot is clipped. Pillow
    may take a tall picture that shrinks the other way round, which moves hard edges by some grey levels.
    """
    across, down = picture.width / columns.resized, picture.height / rows.resized
    reach = 3 * max(1.0, down) + 1  # no filter of Pillow's looks further
    first = max(0, math.floor(rows.start * down - reach))
    last = min(picture.height, math.ceil((rows.start + rows.length) * down + reach))
    band = picture.crop((0, first, picture.width, last))
    # Rounding must not carry a box past the edge, which Pillow would refuse.
    right = min((columns.start + columns.length) * across, band.width)
    bottom = min((rows.start + rows.length) * down - first, band.height)
    wide = band.resize(
        (columns.length, band.height), resample, box=(columns.start * across, 0, right, band.height)
    )
    return wide.resize(
        (columns.length, rows.length), resample, box=(0, rows.start * down - first, columns.length, bottom)
    )


def _size(value: Any) -> tuple[int, int] | int:
    if isinstance(value, int) and value > 0:
        return value
    if isinstance(value, Mapping) and set(_given(value)) == {"shortest_edge"}:
        return int(value["shortest_edge"])
    return _pair("size", value)


def _crop(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) and value > 0 else _pair("crop_size", value)


def _pair(key: str, value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping) and set(_given(value)) == {"height", "width"}:
        return int(value["height"]), int(value["width"])
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    raise DataError(
        f"preprocessing: `{key}` is {value!r}; understood are a number, height and width"
        + (", and shortest_edge" if key == "size" else "")
    )


def _given(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: side for key, side in value.items() if side is not None}


def _channels(key: str, value: Any) -> tuple[float, float, float]:
    if isinstance(value, int | float):
        return (float(value),) * 3
    if isinstance(value, list | tuple) and len(value) == 3:
        return float(value[0]), float(value[1]), float(value[2])
    raise DataError(f"preprocessing: `{key}` is {value!r}; three numbers, one for each of RGB, are needed")
