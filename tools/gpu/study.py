"""Studies on the device beside the processor's records: ``quickstart``, photographs if they are there.

python tools/gpu/study.py RESULTS.json DEVICE SECONDS [--small] [--data FOLDER]
python tools/gpu/study.py reference STUDY_FOLDER REFERENCE.json     # from a study done on a processor
"""

from __future__ import annotations

import json
import lzma
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from partly import Results

from clipdrift.config import OptimConfig, RunConfig
from clipdrift.runs.record import Record, read_record
from clipdrift.runs.reporter import Silent
from clipdrift.study.engines.jobs import StudyJob, jobs_of
from clipdrift.study.plan import load_study
from clipdrift.training.runner import run

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "evidence" / "quickstart-cpu.json"
PHOTOGRAPHS = ROOT / "evidence" / "photographs"
LEAST = {"accuracy": 2.0, "retention": 3.0, "cka": 0.02}
"""Differences that count as agreement where seeds of the processor's runs differ by less."""


def facts_of(record: Record) -> dict[str, Any]:
    """The numbers of a run that are laid side by side; percent, but CKA."""
    facts: dict[str, Any] = {
        "status": record.status,
        "method": record.config.method.name,
        "learning_rate": record.config.optim.learning_rate,
        "seed": record.config.seed,
        "seconds": round(sum(record.timings.values()), 2),
        "training_seconds": record.timings.get("train"),
    }
    if record.best is not None:
        facts["accuracy"] = record.best.test_accuracy
        facts["cka"] = record.best.measures["cka"].mean
        facts["retention"] = next(iter(record.best.transfer.values())).retention
    return facts


def cells(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Values over seeds, by cell and number."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        values = found.setdefault(f"{row['method']} {row['learning_rate']:g}", {})
        for name in LEAST:
            if row.get(name) is not None:
                values.setdefault(name, []).append(row[name])
    return found


def agreement(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each cell and number: both means, the spread of the processor's seeds, and whether they agree."""
    mine, reference, out = cells(here), cells(there), {}
    for cell, values in mine.items():
        for name, numbers in values.items():
            theirs = reference.get(cell, {}).get(name)
            if theirs:
                spread = max(theirs) - min(theirs)
                means = statistics.fmean(numbers), statistics.fmean(theirs)
                out[f"{cell}: {name}"] = {
                    "here": round(means[0], 4),
                    "processor": round(means[1], 4),
                    "spread_of_seeds": round(spread, 4),
                    "agrees": abs(means[0] - means[1]) <= max(spread, LEAST[name]),
                }
    return out


def do(
    jobs: tuple[StudyJob, ...], device: str, results: Results, name: str, each: float
) -> list[dict[str, Any]]:
    """Do the jobs as long as there is time; each run's facts are written at once."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for job in jobs:
            if not results.time_for(each):
                results.put(
                    f"{name}, left out", f"{len(jobs) - len(rows)} of {len(jobs)} runs, for want of time"
                )
                break
            record, _ = run(
                job.config,
                Path(place) / "runs",
                cache=Path(place) / "cache",
                device=device,
                reporter=Silent(),
                save=False,
            )
            rows.append(facts_of(record) | {"key": record.key})
            each = max(each, 1.2 * rows[-1]["seconds"]) if len(rows) > 1 else each
            results.put(f"{name}, runs", rows)
    return rows


def is_plain(config: RunConfig) -> bool:
    """Whether a run is full fine-tuning or LoRA of land-use-7 with nothing beside its rate."""
    method = config.method
    usual = (
        method == type(method)(name=method.name) and config.optim.weight_decay == OptimConfig().weight_decay
    )
    compared = method.name in ("full_ft", "lora") and config.data.target.name == "land-use-7"
    return compared and usual and not config.penalty


def photographs(data: Path, device: str, results: Results) -> None:
    """The plain cells of one seed on land-use-7, beside the committed records of the very same runs."""
    os.chdir(data)
    jobs = [
        job for job in jobs_of(load_study("photographs")) if job.config.seed == 7 and is_plain(job.config)
    ]
    rows = do(tuple(jobs), device, results, "photographs", 8.0)
    there = []
    for row in rows:
        packed = PHOTOGRAPHS / f"{row['key']}.json.xz"
        if packed.is_file():
            there.append(facts_of(Record.model_validate_json(lzma.decompress(packed.read_bytes()))))
    results.put(
        "photographs, agreement", agreement(rows, there) or "none of the runs is among the committed ones"
    )


def main(file: Path, device: str, seconds: float, small: bool, data: Path | None) -> None:
    results = Results(file, seconds)
    changes = ["optim.epochs=1", "data.train_per_class=8"] if small else []
    study = load_study("quickstart", changes).limited(2 if small else None)
    rows = do(jobs_of(study), device, results, "quickstart", 5.0)
    if small:
        results.put("quickstart, agreement", "not compared: the rehearsal's runs are shorter")
    else:
        there = json.loads(REFERENCE.read_text())
        results.put("quickstart, agreement", agreement(rows, there["runs"]))
        results.put("quickstart, processor", {key: there[key] for key in ("machine", "seconds_a_run")})
    if data is None or not (data / "land-use-7").is_dir():
        results.put("photographs, left out", "no folder with land-use-7 was given (DATA=FOLDER)")
    elif not small:
        photographs(data.resolve(), device, results)


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def reference(study: Path, file: Path) -> None:
    """Write what a processor's runs of ``quickstart`` gave."""
    rows = [facts_of(read_record(path)) for path in sorted(study.glob("*/record.json"))]
    seconds = statistics.fmean(row["seconds"] for row in rows)
    file.write_text(
        json.dumps(
            {
                "command": "clipdrift study run quickstart --out runs/quickstart --device cpu; "
                "python tools/gpu/study.py reference runs/quickstart evidence/quickstart-cpu.json",
                "machine": f"{os.cpu_count()} cores ({processor()}), one thread a run",
                "seconds_a_run": round(seconds, 1),
                "runs": rows,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    if sys.argv[1] == "reference":
        reference(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        options = sys.argv[4:]
        place = Path(options[options.index("--data") + 1]) if "--data" in options else None
        main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), "--small" in options, place)
