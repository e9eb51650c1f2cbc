"""Pictures for tests, and transformers' own answer for them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil


def picture(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-40, 41, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def expected(image: Image.Image, config: dict[str, Any]) -> NDArray[np.int64]:
    """transformers' own answer before it rescales, (H, W, 3)."""
    processor = CLIPImageProcessorPil(**config)
    batch = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.asarray(batch["pixel_values"][0]).transpose(1, 2, 0).astype(np.int64)
