"""What measuring costs: beside a bare forward pass, beside the plain way, and as images grow in number.

Prints ratios; both sides of each are measured in turn in one run, with random weights of the real shapes.
``python benchmarks/measuring.py [cls] [flow] [growth]`` runs a part of it.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from plain import plain_measures
from transformers import CLIPConfig, CLIPModel

from clipdrift.data.deck import Prepared
from clipdrift.measures import read_internals

REPEATS = 5
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}
CPU = torch.device("cpu")


def clip(vision: dict[str, int], attention: str) -> CLIPModel:
    """A CLIP with an image tower of that shape, uneven attention and a tiny text tower."""
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, attn_implementation=attention))
    with torch.no_grad():
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.mul_(4)
            block.self_attn.k_proj.weight.mul_(4)
    return model.eval()


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def cls_family() -> None:
    """ViT-B/32, 200 images: every measure of the class token's rows beside a bare forward pass."""
    model = clip({"patch_size": 32, "image_size": 224}, "sdpa")
    images = pictures(200, 224)

    def bare() -> None:
        for part in images.split(50):
            model.get_image_features(pixel_values=part)

    def measured() -> None:
        read_internals(model, Prepared(images, CPU), 50)

    times = in_turn(bare, measured)
    print(
        f"ViT-B/32, 200 images: all measures of CLS rows cost {times[1] / times[0]:.2f}x a bare forward pass"
    )


def in_turn(*works: Callable[[], object]) -> list[float]:
    """Median seconds of each, measured in turn after one warm-up."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(REPEATS + 1):
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if repeat:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def flow() -> None:
    """ViT-L/14 at 336 px, 16 images, whole maps: each way in a process of its own, for its peak memory."""
    found = {way: child("large", way) for way in ("plain", "ours")}
    plain, ours = found["plain"], found["ours"]
    names = sorted(plain["values"].keys() & ours["values"].keys())
    worst = max(float(np.abs(np.subtract(plain["values"][n], ours["values"][n])).max()) for n in names)
    memory, seconds = ours["mib"] / plain["mib"], ours["seconds"] / plain["seconds"]
    print(
        f"ViT-L/14 at 336 px, 16 images, with rollout and patch entropy: {len(names)} measures differ by at "
        f"most {worst:.1e}; peak memory above the model's own {memory:.3f}x the plain way's "
        f"({ours['mib']:.0f} against {plain['mib']:.0f} MiB), time {seconds:.2f}x (of the processor "
        f"{ours['cpu'] / plain['cpu']:.2f}x)"
    )


def growth() -> None:
    """The shape of clipdrift/mini: time per image and peak memory at 100, 1,000 and 10,000 images."""
    rows = {count: child("growth", str(count)) for count in (100, 1_000, 10_000)}
    first = rows[100]
    for count, row in rows.items():
        each = row["seconds"] / count / (first["seconds"] / 100)
        print(
            f"{count:>6} images: {each:.2f}x the time per image of 100, peak memory above the model's own "
            f"{row['mib']:.0f} MiB, of which the values and embeddings asked for are {row['result']:.1f}"
        )


def child(*arguments: str) -> dict:
    """Run this file with arguments in a fresh process, whose last line is its result."""
    done = subprocess.run(
        [sys.executable, __file__, "child", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    result: dict = eval(done.stdout.strip().splitlines()[-1], {"__builtins__": {}})  # our own repr
    return result


def large(way: str) -> None:
    model = clip(LARGE, "eager" if way == "plain" else "sdpa")
    images = pictures(16, 336)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    if way == "plain":
        values = {name: v.tolist() for name, v in plain_measures(model, images, flow=True).items()}
    else:
        seen = read_internals(model, Prepared(images, CPU), flow=True)
        values = {name: seen.blocks(name).tolist() for name in seen.measures}
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print({"seconds": seconds, "cpu": cpu, "mib": peak() - before, "values": values})


@dataclass(frozen=True)
class Drawn:
    """Images made as they are asked for, so that what grows is not the images."""

    count: int

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, slice]]:
        for start in range(0, self.count, size):
            piece = slice(start, min(start + size, self.count))
            yield pictures(piece.stop - piece.start, 56), piece


def grow(count: str) -> None:
    model = clip(
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "patch_size": 8,
            "image_size": 56,
        },
        "sdpa",
    )
    read_internals(model, Drawn(50), 50, flow=True)  # what is loaded once is no growth
    before, start = peak(), time.perf_counter()
    seen = read_internals(model, Drawn(int(count)), 50, flow=True)
    seconds = time.perf_counter() - start
    result = sum(array.nbytes for array in seen.attention.values()) + seen.embedding.nbytes
    print({"seconds": seconds, "mib": peak() - before, "result": result / 2**20})


def peak() -> float:
    """The process's peak resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        {"large": large, "growth": grow}[sys.argv[2]](sys.argv[3])
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    parts = {"cls": cls_family, "flow": flow, "growth": growth}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
