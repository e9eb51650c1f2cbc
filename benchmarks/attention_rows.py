"""CLS attention rows: hooked queries and keys under sdpa against transformers' eager maps, same images.

Prints a ratio of medians, both sides measured in turn in one run, at ViT-B/32's and ViT-B/16's real shapes
with random weights (the time does not depend on their values).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from transformers import CLIPConfig, CLIPModel

from clipdrift.model.trace import trace

REPEATS = 7


def vision_only(patch: int, attention: str) -> CLIPModel:
    """A CLIP with the real image tower and a tiny text tower."""
    vision = {"patch_size": patch, "image_size": 224}
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=vision, text_config=text, attn_implementation=attention)
    return CLIPModel(config).eval()


def side_by_side(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, measured in turn after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    first(), second()
    for _ in range(REPEATS):
        for work, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


@torch.no_grad()
def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {REPEATS}")
    for patch in (32, 16):
        sdpa, eager = vision_only(patch, "sdpa"), vision_only(patch, "eager")
        images = torch.randn(16, 3, 224, 224)
        plain, rows = side_by_side(
            lambda sdpa=sdpa, images=images: sdpa.get_image_features(pixel_values=images),  # type: ignore[misc]
            lambda sdpa=sdpa, images=images: trace(sdpa, images, rows=True),  # type: ignore[misc]
        )
        rows_again, maps = side_by_side(
            lambda sdpa=sdpa, images=images: trace(sdpa, images, rows=True),  # type: ignore[misc]
            lambda eager=eager, images=images: eager.vision_model(  # type: ignore[misc]
                pixel_values=images, output_attentions=True
            ),
        )
        print(
            f"ViT-B/{patch}: rows cost {rows / plain:.2f}x a plain forward; "
            f"eager maps cost {maps / rows_again:.2f}x the rows"
        )


if __name__ == "__main__":
    main()
