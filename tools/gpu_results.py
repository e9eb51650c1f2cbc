"""Write docs/gpu.md from results of ``make gpu-check`` that are committed below evidence/gpu.

python tools/gpu_results.py                 # write the page anew
python tools/gpu_results.py OUT             # take a check's results in, by its device's name, then write
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "evidence" / "gpu"
PAGE = ROOT / "docs" / "gpu.md"
FILES = ("summary.json", "tests.json", "study.json", "speed.json")

HEAD = """# On a GPU

`--device auto` takes the first GPU that torch sees; training is then in bfloat16 (`optim.precision`),
measuring always in true float32. What is kept of a run (records, weights, checkpoints) is read with and
without a GPU. `--deterministic` makes a run give the same bits every time; the record says so.

## Check it on your machine

```
make gpu-wheels                       # with a network: small wheels that may be missing there, into .wheels/
make gpu-check OUT=results            # there: under seven minutes, no network, nothing is installed
python tools/gpu_results.py results   # this page, from the results
```

It runs the tests marked `cuda`, the study `quickstart` beside a processor's records, and measures speed;
each part writes what it has as it goes. `make gpu-check DEVICE=cpu SMALL=1 OUT=results` rehearses all of it
without a GPU. Where there is no `make`, `python3 tools/gpu_check.py --out results` is the same.
"""


def main(arguments: list[str]) -> None:
    for given in map(Path, arguments):
        take_in(given)
    found = sorted(path.parent for path in COMMITTED.glob("*/summary.json"))
    sections = [section(folder) for folder in found]
    none = "\n## Measured\n\nNothing yet: no check has been run on a GPU so far, so no figure stands here.\n"
    PAGE.write_text(HEAD + ("".join(sections) or none))
    print(f"wrote {PAGE.relative_to(ROOT)}: {len(found)} devices")


def take_in(out: Path) -> None:
    """Copy a check's results to where they are committed."""
    about = json.loads((out / "summary.json").read_text())["machine"]
    if about["device"] == "cpu":
        sys.exit(f"{out}: a rehearsal without a GPU; its figures say nothing of one")
    place = COMMITTED / re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (out / name).is_file():
            shutil.copyfile(out / name, place / name)


def section(folder: Path) -> str:
    """What was found on one device, in tables."""
    told, tests, study, speed = (_read(folder / name) for name in FILES)
    about = told["machine"]
    lines = [
        f"\n## {about['device']}\n",
        f"Measured on {told['date']} by `make gpu-check` in {told['seconds']:g} s: {about['gib']} GiB, "
        f"driver {about['driver']}, CUDA {about['cuda']}, torch {about['torch']}, transformers "
        f"{about['transformers']}, peft {about['peft']}, Python {about['python']}.\n",
        *(f"- {name}: {end['ended']}, {end['seconds']} s" for name, end in told["parts"].items()),
        f"- tests: {', '.join(f'{count} {word}' for word, count in told['tests'].items())}",
        *(f"  - failed: `{name}`" for name in told["failed"]),
    ]
    off = {name: test["measured"] for name, test in tests.items() if test["measured"]}
    if off:
        lines += ["\n| test | measured |", "|---|---|"]
        lines += [f"| `{name}` | {_short(values)} |" for name, values in off.items()]
    return "\n".join([*lines, *_studies(study), *_speed(speed)]) + "\n"


def _studies(study: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name in ("quickstart", "photographs"):
        rows, agreement = study.get(f"{name}, runs"), study.get(f"{name}, agreement")
        if not rows:
            continue
        seconds = sum(row["seconds"] for row in rows) / len(rows)
        lines += [f"\n### {name}\n", f"{len(rows)} runs, {seconds:.1f} s each on average."]
        if isinstance(agreement, dict):
            lines += ["\n| cell | here | processor | spread of seeds | agrees |", "|---|---|---|---|---|"]
            lines += [
                f"| {cell} | {row['here']} | {row['processor']} | {row['spread_of_seeds']} | "
                f"{'yes' if row['agrees'] else '**no**'} |"
                for cell, row in agreement.items()
            ]
    return lines


def _speed(speed: dict[str, Any]) -> list[str]:
    if not speed:
        return []
    lines = ["\n### Speed\n"]
    if rate := speed.get("matrix rate"):
        lines.append(
            f"A large bfloat16 matrix product runs at {rate['flop_a_second'] / 1e12:.0f} TFLOP/s here."
        )
    training = {
        name.removeprefix("training, "): row for name, row in speed.items() if name.startswith("training, ")
    }
    if training:
        lines += [
            "\n| training | images/s | plain | ratio | share of matrix rate | peak GiB | plain, GiB |",
            "|---|---|---|---|---|---|---|",
            *(f"| {name} | {_training(row)} |" for name, row in training.items()),
        ]
    for name, row in speed.items():
        if name.startswith("measuring"):
            lines += [f"\n{name}: {_short(row)}."]
        if name.startswith("profile"):
            lines += [
                f"\n{name}: {row['launches_a_step']} launches, {row['host_waits_a_step']} waits of the host "
                f"and {row['values_read_by_host_a_step']} values read by it a step.\n",
                "| operation | calls | ms in three steps |",
                "|---|---|---|",
                *(f"| `{one['name']}` | {one['calls']} | {one['ms']} |" for one in row["operations"][:12]),
            ]
    return lines


def _training(row: dict[str, Any] | str) -> str:
    if isinstance(row, str):
        return f"{row} | | | | |"
    ours, plain = row["clipdrift"], row["plain"]
    share = row.get("share_of_matrix_rate")
    cells = [
        ours.get("images_a_second", ours.get("failed")), plain.get("images_a_second", plain.get("failed")),
        row.get("ratio", ""), "" if share is None else f"{100 * share:.1f} %", ours.get("peak_gib", ""),
        plain.get("peak_gib", ""),
    ]  # fmt: skip
    return " | ".join(map(str, cells))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        print(f"{file}: damaged, left out ({error})")
        found = {}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
