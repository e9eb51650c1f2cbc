from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_pictures import encoded, expected, picture
from PIL import Image
from transformers import CLIPImageProcessorPil

from clipdrift.data import preprocess as preprocess_module
from clipdrift.data.decode import decode, to_rgb
from clipdrift.data.errors import DataError
from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess

CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {},
    "clip as an old file writes it": {"size": 56, "crop_size": 56, "resample": 3},
    "bilinear, crop within": {"size": {"shortest_edge": 61}, "crop_size": 48, "resample": 2},
    "lanczos, oblong crop": {"size": 57, "crop_size": {"height": 40, "width": 57}, "resample": 1},
    "fixed size, no crop": {"size": {"height": 50, "width": 70}, "do_center_crop": False},
    "fixed size and crop": {"size": {"height": 50, "width": 70}, "crop_size": {"height": 41, "width": 32}},
    "crop larger than the picture": {"size": {"shortest_edge": 33}, "crop_size": {"height": 60, "width": 41}},
    "no resize": {"do_resize": False, "crop_size": 31},
    "no resize, crop larger": {"do_resize": False, "crop_size": {"height": 401, "width": 300}},
}
MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr", "RGBA", "LA")


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_transformers(name: str) -> None:
    rng = np.random.default_rng(3)
    ours = Preprocess.from_config(CONFIGS[name])
    assert ours == Preprocess.from_config(CLIPImageProcessorPil(**CONFIGS[name]).to_dict())
    sizes = [(56, 56), (57, 31), (224, 225), (3, 200), *rng.integers(2, 300, (6, 2)).tolist()]
    for seed, (width, height) in enumerate(sizes):
        image = picture(seed, width, height)
        got = ours.apply(image)
        want = expected(image, CONFIGS[name])
        assert got.dtype == np.uint8
        assert got.shape == want.shape
        assert np.abs(got.astype(np.int64) - want).max() <= 1


@pytest.mark.parametrize("mode", MODES)
def test_equal_to_transformers_in_every_mode(mode: str) -> None:
    image = picture(1, 80, 60).convert(mode)
    if "A" in mode:
        image.putalpha(picture(2, 80, 60).convert("L"))
    config = {"size": 40, "crop_size": 40}
    got = Preprocess.from_config(config).apply(image)
    assert np.abs(got.astype(np.int64) - expected(image, config)).max() <= 1


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half = Image.new("LA", (4, 4), (0, 127))
    assert np.asarray(to_rgb(clear)).max() == np.asarray(to_rgb(clear)).min() == 255
    assert np.asarray(to_rgb(half)).tolist()[0][0] == [128, 128, 128]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert np.asarray(to_rgb(palette))[0, 0].tolist() == [0, 255, 0]
    again = decode(encoded(palette, transparency=1), "x")
    assert np.asarray(to_rgb(again))[0, 0].tolist() == [255, 255, 255]
    rgb = decode(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), "x")
    assert np.asarray(to_rgb(rgb))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (2, 30_000)])
def test_a_thread_of_pixels_costs_no_memory(width: int, height: int) -> None:
    start = time.perf_counter()
    pixels = Preprocess().apply(picture(0, width, height))
    assert pixels.shape == (224, 224, 3)
    assert time.perf_counter() - start < 1  # whole, it would be 250 to 750 million pixels


@pytest.mark.parametrize("name", [name for name in CONFIGS if "no resize" not in name])
def test_the_short_cut_changes_rounding_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Preprocess.from_config(CONFIGS[name])
    sizes = [(31, 200), (257, 40), (1, 90), (1, 300), (99, 98), (300, 20)]
    for seed, (width, height) in enumerate(sizes):
        image = picture(seed, width, height)
        with monkeypatch.context() as patch:
            patch.setattr(preprocess_module, "_LARGEST_WHOLE", 1_000_000_000)
            whole = ours.apply(image).astype(np.int64)
            patch.setattr(preprocess_module, "_LARGEST_WHOLE", 0)
            # Pillow takes the axes of such a picture in either order, and clips bicubic's overshoot between.
            swapped = isinstance(ours.size, tuple) or (
                height > width and isinstance(ours.size, int) and width > ours.size
            )
            difference = np.abs(ours.apply(image).astype(np.int64) - whole)
        assert difference.mean() < 0.5 if swapped else difference.max() <= 2


@pytest.mark.parametrize(("config", "message"), [
    ({"size": {"longest_edge": 3}}, r"`size` is .*longest_edge.*understood are"),
    ({"size": "big"}, "`size` is 'big'"),
    ({"crop_size": {"shortest_edge": 3}}, "`crop_size` is"),
    ({"resample": 17}, "`resample` is 17"),
    ({"image_mean": [0.5]}, r"`image_mean` is .*three numbers"),
])  # fmt: skip
def test_what_is_not_understood_is_an_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess.from_config(config)


def test_from_folder(tmp_path: Path) -> None:
    config: dict[str, Any] = {"size": 40, "crop_size": 36, "image_mean": [0.1, 0.2, 0.3]}
    CLIPImageProcessorPil(**config).save_pretrained(tmp_path / "old")
    assert Preprocess.from_folder(tmp_path / "old") == Preprocess.from_config(config)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert Preprocess.from_folder(tmp_path / "new") == Preprocess.from_config(config)
    with pytest.raises(DataError, match="no preprocessor_config"):
        Preprocess.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        Preprocess.from_folder(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": [1, 2, 3]},
    ],
)
def test_normalise_equals_transformers(config: dict[str, Any]) -> None:
    image = picture(4, 224, 224)
    plain: dict[str, Any] = {
        key: [value] * 3 if key == "image_mean" else value for key, value in config.items()
    }
    want = CLIPImageProcessorPil(**plain)(image, return_tensors="pt")["pixel_values"]
    batch = torch.from_numpy(np.array(image))[None]
    got = normalise(batch, Preprocess.from_config(config), None)
    assert got.dtype == torch.float32
    assert got.shape == (1, 3, 224, 224)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)


def test_normalise_mirrors_only_the_marked() -> None:
    batch = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    before = batch.clone()
    plain = normalise(batch, Preprocess(), None)
    mirrored = normalise(batch, Preprocess(), torch.tensor([True, False, True]))
    assert torch.equal(mirrored[1], plain[1])
    assert torch.equal(mirrored[0], plain[0].flip(2))
    assert torch.equal(mirrored[2], plain[2].flip(2))
    assert torch.equal(batch, before)
