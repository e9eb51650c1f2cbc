"""Prove and measure clipdrift on a GPU in one go: ``make gpu-check OUT=folder``.

    python tools/gpu_check.py --out FOLDER [--device cuda] [--small] [--wheels .wheels] [--data FOLDER]

For a machine without network that has Python, torch with CUDA, transformers, peft and the like. Wheels of
packages that are missing there (``make gpu-wheels``) are unpacked into a temporary folder beside the system's
own; nothing is replaced. Each part has its own time limit and writes what it finds at once, so that a run
that is cut off leaves what it has. This file needs nothing but Python.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (
    ("pydantic", ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")),
    ("datasets", ("datasets", "dill", "multiprocess")),
    ("xxhash", ("xxhash",)),
    ("beartype", ("beartype",)),
    ("tabulate", ("tabulate",)),
)
"""A package that is looked for, and the wheels that come with it where it is missing."""


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        name: Of its result file.
        seconds: After which it is ended.
        command: Without the interpreter.
    """

    name: str
    seconds: float
    command: tuple[str, ...]


def parts_of(out: Path, device: str, small: bool, data: Path | None) -> list[Part]:
    """The parts in order, the most important first."""
    limits = (170, 60, 60) if small else (90, 120, 180)
    few = ("--small",) if small else ()
    given = ("--data", str(data.resolve())) if data else ()
    workers = "2" if device == "cpu" else "4"
    tests = (
        "-m",
        "pytest",
        "tests/cuda",
        "-m",
        "cuda",
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=",
        "-q",
        "-rfE",
    )
    shared = ("-n", workers) if importlib.util.find_spec("xdist") else ()
    return [
        Part("tests", limits[0], (*tests, *shared, "-p", "no:cacheprovider", "--tb=short")),
        Part(
            "study",
            limits[1],
            ("tools/gpu/study.py", str(out / "study.json"), device, str(limits[1] - 5), *few, *given),
        ),
        Part(
            "speed",
            limits[2],
            ("tools/gpu/speed.py", str(out / "speed.json"), device, str(limits[2] - 5), *few),
        ),
    ]


def install(wheels: Path, site: Path) -> list[str]:
    """Unpack the wheels of packages that cannot be found; returns their names."""
    missing = [
        name for package, names in GROUPS if importlib.util.find_spec(package) is None for name in names
    ]
    files = [file for name in missing for file in sorted(wheels.glob(f"{name}-*.whl"))]
    lacking = sorted(set(missing) - {file.name.partition("-")[0] for file in files})
    if lacking:
        sys.exit(
            f"{wheels}: no wheel of {', '.join(lacking)}, missing here too; make gpu-wheels, and bring it"
        )
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(site)
    return [file.name for file in files]


def do(part: Part, environment: dict[str, str], log: Path) -> dict[str, Any]:
    """Do a part in a process group of its own and end all of it at its limit."""
    start = time.monotonic()
    with log.open("a") as written:
        written.write(f"\n===== {part.name}\n")
        written.flush()
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=ROOT, env=environment, stdout=written,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(part.seconds)
            ended = "in time"
        except subprocess.TimeoutExpired:
            ended = f"cut off after {part.seconds:g} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"ended": ended, "status": process.returncode, "seconds": round(time.monotonic() - start, 1)}


def machine(environment: dict[str, str]) -> dict[str, Any]:
    """Device, driver and versions, as the interpreter that does the work sees them."""
    code = (
        "import json, torch, transformers, peft, numpy\n"
        "cuda = torch.cuda.is_available()\n"
        "p = torch.cuda.get_device_properties(0) if cuda else None\n"
        "gib = round(p.total_memory / 2**30, 1) if p else None\n"
        "print(json.dumps({'device': p.name if p else 'cpu', 'gib': gib,"
        " 'capability': f'{p.major}.{p.minor}' if p else None, 'cuda': torch.version.cuda,"
        " 'torch': torch.__version__, 'transformers': transformers.__version__, 'peft': peft.__version__,"
        " 'numpy': numpy.__version__}))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["nothing said"])[-1]
        sys.exit(
            f"{sys.executable} cannot do the work ({last}); give a Python with torch: make ... PYTHON=..."
        )
    about: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    about |= {"python": platform.python_version(), "cores": os.cpu_count(), "driver": _driver()}
    about["commit"] = _said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    return about


def _driver() -> str | None:
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def read(file: Path) -> Any:
    """A part's results, as far as it came; a file that cannot be read is said and counts as none."""
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        print(f"{file.name}: damaged, left out ({error})", flush=True)
        return {}


def summary(out: Path, about: dict[str, Any], ends: dict[str, Any], started: float) -> dict[str, Any]:
    """Write summary.json and summary.md from what lies there."""
    outcomes = [test["outcome"] for test in read(out / "tests.json").values()]
    counts = {word: outcomes.count(word) for word in ("passed", "failed", "skipped")}
    failed = [name for name, test in read(out / "tests.json").items() if test["outcome"] == "failed"]
    told = {
        "machine": about, "parts": ends, "tests": counts, "failed": failed,
        "date": time.strftime("%Y-%m-%d"), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    (out / "summary.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        f"# clipdrift on {about['device']}",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
    ]
    lines += [
        f"- {name}: {end['ended']}, {end['seconds']} s, status {end['status']}" for name, end in ends.items()
    ]
    lines += [
        "",
        f"Tests: {', '.join(f'{count} {word}' for word, count in counts.items())}",
        *map("- {}".format, failed),
        "",
    ]
    (out / "summary.md").write_text("\n".join(lines))
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="gets one JSON file a part, a summary and a log"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the rehearsal")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few runs: a rehearsal")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / ".wheels", help="what make gpu-wheels has brought"
    )
    parser.add_argument("--data", type=Path, help="a folder with land-use-7 and cifar100, if it is there")
    parser.add_argument("--only", nargs="*", help="parts to do: tests, study, speed")
    options = parser.parse_args()
    started, out = time.monotonic(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as site:
        installed = install(options.wheels, Path(site))
        path = [str(ROOT / "src"), str(ROOT / "tools" / "gpu"), site, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "HF_HUB_OFFLINE": "1",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # read once, at a process's first product
            "CLIPDRIFT_CACHE": str(Path(site) / "cache"),
            "CLIPDRIFT_GPU_DEVICE": options.device,
            "CLIPDRIFT_GPU_RESULTS": str(out / "tests.json"),
        }
        about = machine(environment) | {"installed": installed}
        if options.device.startswith("cuda") and about["device"] == "cpu":
            sys.exit("torch sees no CUDA device here; DEVICE=cpu SMALL=1 rehearses without one")
        ends: dict[str, Any] = {}
        for part in parts_of(out, options.device, options.small, options.data):
            if options.only and part.name not in options.only:
                continue
            (out / f"{part.name}.json").unlink(missing_ok=True)  # of an earlier check
            print(f"{part.name}: up to {part.seconds:g} s ...", flush=True)
            ends[part.name] = do(part, environment, out / "log.txt")
            told = summary(out, about, ends, started)  # now, as the next part may be the last
            print(f"{part.name}: {ends[part.name]}", flush=True)
        print((out / "summary.md").read_text())
    good = all(end["status"] == 0 for end in ends.values()) and not told["failed"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
