"""What runs of one backbone share: 16 short runs with one cache, and each with a cache of its own.

Decoded images are shared in both, so that what differs is the backbone's measurement, its zero-shot accuracy
and its text features. ``python benchmarks/shared.py``
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import torch

from clipdrift.study.engines.jobs import jobs_of
from clipdrift.study.plan import load_study
from clipdrift.training.runner import run

SMALL = ["optim.epochs=1", "data.train_per_class=8"]


def main() -> None:
    jobs = jobs_of(load_study("quickstart", SMALL))
    seconds = {"shared": 0.0, "each alone": 0.0}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        cache = root / "cache"
        run(jobs[0].config, root / "first", cache=cache, save=False)  # draws and decodes the images
        shutil.rmtree(cache / "shared")
        for number, job in enumerate(jobs):  # in turn, run by run
            for way in seconds:
                if way == "each alone":
                    (cache / "shared").rename(cache / "aside")
                start = time.perf_counter()
                run(job.config, root / way / str(number), cache=cache, save=False)
                seconds[way] += time.perf_counter() - start
                if way == "each alone":
                    shutil.rmtree(cache / "shared")
                    (cache / "aside").rename(cache / "shared")
    ratio = seconds["each alone"] / seconds["shared"]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: {len(jobs)} runs take "
        f"{seconds['shared']:.0f} s where they share the backbone's results, {seconds['each alone']:.0f} s "
        f"where each computes them: {ratio:.2f}x"
    )


if __name__ == "__main__":
    main()
