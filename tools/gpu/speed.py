"""How fast training and measuring are on the device, and where a step's time goes; ratios within one run.

python tools/gpu/speed.py RESULTS.json DEVICE SECONDS [--small]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from partly import Results
from plain_training import steps as plain_steps
from shapes import BASE, CLASSES, LARGE, TINY, VisionShape, clip_of, deck_of
from torch.profiler import ProfilerActivity, profile, record_function

from clipdrift import accelerator
from clipdrift.adapt import adapt
from clipdrift.config import OptimConfig, RunConfig, parse_config
from clipdrift.measures import read_internals
from clipdrift.training.loop import train_model
from clipdrift.training.preparation import pick_device

WARM = 3
"""Steps before the clock starts."""


def matrix_rate(device: torch.device, size: int) -> float:
    """Multiplications and additions a second of a large bfloat16 product on this very device."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    accelerator.wait(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    accelerator.wait(device)
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def our_steps(
    shape: VisionShape,
    method: str,
    batch: int,
    count: int,
    device: torch.device,
    warm: Callable[[], object] | None = None,
) -> Iterator[float]:
    """Train as a run does; yield the time after each step.

    With ``warm``, which is called after the first few steps, nothing waits for the device.
    """
    clip = clip_of(shape, device)
    config = parse_config({"method": {"name": method}}, RunConfig)
    adapted = adapt(clip, config.method, len(CLASSES), 0, [f"a photo of a {name}" for name in CLASSES])
    adapted.clip.model.to(device)
    adapted.head.to(device)
    optim = OptimConfig(learning_rate=1e-6, epochs=1, batch_size=batch)
    times: list[float] = []

    def noted(step: int, loss: float) -> None:
        if warm is None:
            accelerator.wait(device)
        elif step == WARM:
            warm()
        times.append(time.perf_counter())

    deck = deck_of(clip, shape, count, device)
    for _ in train_model(adapted, deck, optim, seed=0, bf16=True, on_step=noted):
        pass
    yield from times


def timed(steps: Iterator[float], batch: int, device: torch.device) -> dict[str, Any]:
    """Images a second over all steps but the first few, and the most memory that they took."""
    accelerator.forget_peak(device)
    times = list(steps)
    spent = [after - before for before, after in itertools.pairwise(times[WARM - 1 :])]
    peak = accelerator.peak_memory(device)
    return {
        "images_a_second": round(batch / statistics.median(spent), 1),
        "steps": len(spent),
        "peak_gib": None if peak is None else round(peak / 2**30, 2),
    }


def training(results: Results, device: torch.device, small: bool) -> None:
    """Both methods, both shapes, both batch sizes: the package beside the plain way, in turn."""
    rate = results.found["matrix rate"]["flop_a_second"]
    for shape, batch in itertools.product(
        (TINY,) if small else (BASE, LARGE), (4, 8) if small else (64, 256)
    ):
        for method, passes in (("full_ft", 3), ("lora", 2)):
            name, count = f"{method}, {shape.name}, batch {batch}", batch * (WARM + (2 if small else 8))
            if not results.time_for(25):
                results.put(f"training, {name}", "left out, for want of time")
                continue
            ours = _or_said(
                lambda s=shape, m=method, b=batch, c=count: timed(our_steps(s, m, b, c, device), b, device)
            )
            accelerator.release_memory(device)
            plain = _or_said(
                lambda s=shape, m=method, b=batch, c=count: timed(plain_steps(s, m, b, c, device), b, device)
            )
            accelerator.release_memory(device)
            found = {"clipdrift": ours, "plain": plain}
            if "images_a_second" in ours:
                work = passes * shape.forward_work()
                found["share_of_matrix_rate"] = round(ours["images_a_second"] * work / rate, 4)
                if "images_a_second" in plain:
                    found["ratio"] = round(ours["images_a_second"] / plain["images_a_second"], 2)
            results.put(f"training, {name}", found)


def _or_said(work: Any) -> dict[str, Any]:
    """What it gives, or why it gave nothing: one combination that does not fit must not end the rest."""
    try:
        found: dict[str, Any] = work()
        return found
    except (RuntimeError, ValueError) as error:
        return {"failed": str(error)[:300]}


def measuring(results: Results, device: torch.device, small: bool) -> None:
    """A thousand images with and without whole attention maps."""
    shape, count = (TINY, 20) if small else (BASE, 1000)
    clip = clip_of(shape, device)
    deck = deck_of(clip, shape, count, device)
    found = {}
    for name, flow in (("without whole maps", False), ("with whole maps", True)):
        read_internals(clip.model, deck.subset(range(min(count, 100))), flow=flow)
        accelerator.forget_peak(device)
        start = time.perf_counter()
        read_internals(clip.model, deck, flow=flow)
        accelerator.wait(device)
        peak = accelerator.peak_memory(device)
        found[name] = {
            "seconds": round(time.perf_counter() - start, 3),
            "peak_gib": None if peak is None else round(peak / 2**30, 2),
        }
    results.put(f"measuring {count} images, {shape.name}", found)


END = "clipdrift: end of the steps"
SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def profiled(results: Results, device: torch.device, small: bool) -> None:
    """Where three steps' time goes: launches, waits of the host, and the operations by their own time."""
    shape, batch = (TINY, 4) if small else (BASE, 64)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    for method in ("full_ft", "lora"):
        seen, count = profile(activities=activities), 3
        list(our_steps(shape, method, batch, batch * (WARM + count), device, seen.start))
        with record_function(END):
            accelerator.wait(device)
        seen.stop()
        events = list(seen.events())
        end = next(event.time_range.start for event in events if event.name == END)
        names = Counter(event.name for event in events if event.time_range.start < end)
        by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        rows = [row for row in seen.key_averages() if row.key != END]
        table = sorted(rows, key=lambda row: -getattr(row, by))[:20]
        results.put(
            f"profile, {method}, {shape.name}, batch {batch}",
            {
                "launches_a_step": round(
                    sum(n for name, n in names.items() if "LaunchKernel" in name) / count, 1
                ),
                "host_waits_a_step": round(sum(names[name] for name in SYNCHRONISING) / count, 1),
                "values_read_by_host_a_step": round(names["aten::_local_scalar_dense"] / count, 1),
                "operations": [
                    {"name": row.key[:80], "calls": row.count, "ms": round(getattr(row, by) / 1000, 3)}
                    for row in table
                ],
            },
        )


def main(file: Path, place: str, seconds: float, small: bool) -> None:
    device = pick_device(place)
    results = Results(file, seconds)
    results.put("matrix rate", {"flop_a_second": matrix_rate(device, 512 if small else 8192)})
    measuring(results, device, small)
    profiled(results, device, small)
    training(results, device, small)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), "--small" in sys.argv)
