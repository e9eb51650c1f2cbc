"""Decode one picture from bytes. What is inside decides, never the file's name."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from clipdrift.data.errors import BadImage

DECODING = 2
"""Part of every pixel cache's key; raise it whenever the pixels of any image change."""

_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders let through on damaged bytes."""


def decode(data: bytes | NDArray[np.uint8], where: str) -> Image.Image:
    """One picture, upright, with 8 bits a channel, in any of Pillow's modes (:func:`to_rgb` makes it RGB).

    Of an animation the first frame is taken. A camera's orientation note (EXIF) is obeyed, which
    transformers' image processor itself leaves to its caller. 16-bit grey is scaled to 8 bits, where a plain
    conversion would clip all but the darkest 256 levels to white.

    Args:
        data: Encoded bytes, or uint8 ``(H, W, 3)``, which is taken as it is.
        where: How an error names the image.

    Raises:
        BadImage: Empty, not an image, truncated or damaged, too large to be honest, or with pixels whose
            range is unknown (floats, 32-bit integers).
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise BadImage(
                where, f"an array of {data.dtype} {data.shape}, but uint8 (height, width, 3) is needed"
            )
        return Image.fromarray(np.ascontiguousarray(data))
    if not data:
        raise BadImage(where, "the file is empty")
    try:
        image = open_image(io.BytesIO(data))
        image.load()
        return _eight_bits(_upright(image), where)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(where, f"too many pixels to be trusted ({error})") from error
    except UnidentifiedImageError as error:
        raise BadImage(where, "not an image, or of a kind that Pillow cannot read") from error
    except _BROKEN as error:
        raise BadImage(where, f"damaged or truncated ({error})") from error


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Pillow's ``Image.open``, with HEIC where pillow-heif is installed."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not heif_installed():
            raise
        import pillow_heif

        pillow_heif.register_heif_opener()
        if not isinstance(file, str | Path):
            file.seek(0)
        return Image.open(file)


def heif_installed() -> bool:
    """Whether pillow-heif, which teaches Pillow to read HEIC, is there."""
    return importlib.util.find_spec("pillow_heif") is not None


_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; the rest of its EXIF may be as broken as it likes."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF that cannot be parsed tells no orientation, and harms no pixel
        return image
    method = _TURNED.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB; anything transparent is laid over white, as transformers' ``convert_to_rgb`` does."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":
        raise BadImage(where, "floating-point pixels, whose range is unknown; convert it to 8 bits")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    # Some formats and Pillow versions give 16-bit files as 32-bit integers.
    if values.size and (values.min() < 0 or values.max() > 65_535):
        raise BadImage(where, "32-bit integer pixels, whose range is unknown; convert it to 8 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
