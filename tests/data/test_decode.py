from __future__ import annotations

import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from data_pictures import encoded, picture
from PIL import Image

from clipdrift.data.decode import decode, to_rgb
from clipdrift.data.errors import BadImage


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_content_decides_not_the_name(format: str) -> None:
    image = decode(encoded(picture(0, 20, 14), format), "cat.jpg")
    assert image.size == (20, 14)
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - np.asarray(picture(0, 20, 14))).mean() < 40


def test_first_frame() -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(to_rgb(decode(data, "x")))[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed(orientation: int) -> None:
    upright = np.zeros((6, 9, 3), dtype=np.uint8)
    upright[0, :, 0], upright[:, 0, 1] = 255, 255  # top edge and left edge
    # How a camera held that way stores it: the inverse of what a viewer has to do.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: upright[::-1].transpose(1, 0, 2),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(np.asarray(decode(data, "x")), upright)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("tag", [
    (0x010F, 12, 1, struct.pack("<I", 8)),  # a maker given as a float
    (0x0100, 8, 2, struct.pack("<hh", -5, -6)),  # a width below zero
    (0x010F, 99, 1, bytes(4)),  # of an unknown type
    (0x010F, 2, 200, struct.pack("<I", 9999)),  # beyond the end
])  # fmt: skip
def test_orientation_is_obeyed_whatever_else_exif_says(tag: tuple[int, int, int, bytes]) -> None:
    """Cameras and editors write EXIF that cannot be written again; viewers show such pictures."""
    tags = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), tag])
    listed = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + listed + bytes(4)
    data = encoded(picture(0, 9, 6), "JPEG", exif=exif)
    assert decode(data, "x").size == (6, 9)
    broken = encoded(picture(0, 9, 6), "JPEG", exif=b"Exif\0\0" + bytes(20))
    assert decode(broken, "x").size == (9, 6)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.linspace(0, 65_535, 50 * 40).reshape(40, 50)
    for format in ("PNG", "TIFF"):
        image = decode(encoded(Image.fromarray(grey.astype(np.uint16)), format), "x")
        assert (
            np.abs(np.asarray(to_rgb(image))[:, :, 0] - grey / 257).max() < 0.51
        )  # the file holds whole numbers
        assert np.asarray(image).min() == 0
        assert np.asarray(image).max() == 255


def test_cmyk() -> None:
    data = encoded(picture(0, 40, 30).convert("CMYK"), "JPEG", quality=95)
    image = decode(data, "x")
    assert image.mode == "CMYK"
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - np.asarray(picture(0, 40, 30))).mean() < 20


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def floats() -> bytes:
    return encoded(Image.fromarray(np.linspace(0, 9, 12, dtype=np.float32).reshape(3, 4)), "TIFF")


def long_integers() -> bytes:
    return encoded(Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)), "TIFF")


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "the file is empty"),
    (b"<html>404</html>", "not an image"),
    (encoded(picture(0, 64, 64), "JPEG")[:700], "damaged or truncated"),
    (encoded(picture(0, 64, 64), "PNG")[:3000], "damaged or truncated"),
    (encoded(picture(0, 64, 64), "PNG")[:20], "not an image|damaged"),
    (bomb(), "too many pixels"),
    (floats(), "floating-point"),
    (long_integers(), "32-bit integer"),
    (np.zeros((4, 4), dtype=np.uint8), "array of uint8"),
    (np.zeros((4, 4, 3), dtype=np.float32), "array of float32"),
], ids=["empty", "html", "jpeg", "png", "header", "bomb", "float", "int32", "flat", "floats"])  # fmt: skip
def test_bad_images_name_place_and_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as error:
        decode(data, "pets/cat_7.jpg")
    assert str(error.value).startswith("pets/cat_7.jpg: ")
    assert error.value.where == "pets/cat_7.jpg"
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_every_damage_is_a_bad_image_or_a_picture() -> None:
    """Random bytes anywhere never raise anything else."""
    rng = np.random.default_rng(0)
    sound = [encoded(picture(0, 30, 30), format) for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
    bad = 0
    for trial in range(300):
        data = bytearray(sound[trial % len(sound)])
        for place in rng.integers(0, min(len(data), 400), 8):
            data[place] = rng.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                to_rgb(decode(bytes(data), "x"))
            except BadImage:
                bad += 1
    assert bad > 50
