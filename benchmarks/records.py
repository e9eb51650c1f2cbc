"""How long 10,000 records take to become a table: copies of one real record of some 25 kB.

``python benchmarks/records.py [RECORD.json]``; without an argument a short run is done first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from clipdrift.runs.layout import RECORD, cache_folder
from clipdrift.study.engines.jobs import jobs_of
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.study.plan import load_study
from clipdrift.training.runner import run

COUNT = 10_000


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if sys.argv[1:]:
            text = Path(sys.argv[1]).read_text(encoding="utf-8")
        else:
            (job,) = jobs_of(load_study("quickstart", ["data.train_per_class=4"]).limited(1))
            folder = run(job.config, root / "one", cache=cache_folder(None), save=False)[1]
            text = (folder.path / RECORD).read_text(encoding="utf-8")
        for number in range(COUNT):
            (root / "all" / f"{number:016x}").mkdir(parents=True)
            (root / "all" / f"{number:016x}" / RECORD).write_text(text, encoding="utf-8")
        start = time.perf_counter()
        frame = runs_frame(records_in(root / "all"))
        seconds = time.perf_counter() - start
        print(
            f"{len(frame):,} records of {len(text) / 1000:.0f} kB become a table of {frame.shape[1]} columns "
            f"in {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
