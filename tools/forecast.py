"""Which numbers of a forecast come true: docs/forecast.md from committed records.

    python tools/forecast.py make DATA   # forecasts of what the studies trained, into evidence/forecast
    python tools/forecast.py             # prints the tables
    python tools/forecast.py --write     # puts them into the page, and what they bear out into the package

DATA is the folder of the images. Every folder below evidence/ with packed records of runs on labels is read;
a target that is not in DATA and is no generated world is passed over, and so are runs with penalties. What is
forecast already stays.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import track

from clipdrift.forecasting.forecast import forecast
from clipdrift.data.worlds import WORLDS
from clipdrift.runs.files import write_text

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "evidence"
FORECASTS = EVIDENCE / "forecast" / "forecasts.json"
STEPS, LIMIT = (1, 8), 400
Record = Mapping[str, Any]


def records() -> Iterator[tuple[str, Record]]:
    """Finished runs on labels without a penalty, each with the name of its study."""
    for packed in sorted(EVIDENCE.glob("*/*.json.xz")):
        record = json.loads(lzma.decompress(packed.read_bytes()))
        config = record["config"]
        classified = config.get("objective", {}).get("name", "classification") == "classification"
        if record["status"] == "done" and classified and not config["penalty"]:
            yield packed.parent.name, record


def setting_of(record: Record) -> dict[str, Any]:
    """What a forecast depends on besides the rate."""
    config = record["config"]
    return {
        "model": config["model"]["name"],
        "target": config["data"]["target"]["name"],
        "transfer": [one["name"] for one in config["data"]["transfer"]][:1],
        "method": config["method"],
        "weight_decay": config["optim"]["weight_decay"],
        "train_batch": config["optim"]["batch_size"],
    }


def key_of(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True)


def make(data: Path) -> None:
    """Forecast every setting that is not there yet, and keep each as it is done."""
    rates: dict[str, set[float]] = {}
    for _, record in records():
        rates.setdefault(key_of(setting_of(record)), set()).add(record["config"]["optim"]["learning_rate"])
    kept = read()
    for key in track(sorted(rates), "forecasts"):
        setting = json.loads(key)
        have = kept.get(key)
        if have is not None and rates[key] <= {step["rate"] for step in have["steps"]["1"]["first_steps"]}:
            continue
        if setting["method"]["name"] in ("linear_probe", "lp_ft", "logit_scale"):
            continue  # nothing is moved by a first step
        target = _source(data, setting["target"])
        if target is None or not all(_source(data, name) for name in setting["transfer"]):
            print(f"passed over: {setting['target']} is not in {data}")
            continue
        made = {}
        for steps in STEPS:
            found = forecast(
                setting["model"], target, labels=True, rates=sorted(rates[key]), steps=steps, limit=LIMIT,
                transfer=[f"{name}={data / name}" for name in setting["transfer"]],
                method=setting["method"], weight_decay=setting["weight_decay"],
                train_batch=setting["train_batch"], device="cpu",
            ).to_dict()  # fmt: skip
            made[str(steps)] = _portable(found)
        kept[key] = {"setting": setting, "steps": made}
        FORECASTS.parent.mkdir(parents=True, exist_ok=True)
        write_text(FORECASTS, json.dumps([kept[k] for k in sorted(kept)], indent=1) + "\n")


def _source(data: Path, name: str) -> str | None:
    if name in WORLDS:
        return name
    return str(data / name) if (data / name).is_dir() else None


def _portable(found: dict[str, Any]) -> dict[str, Any]:
    """Without what belongs to one machine."""
    images = found["images"] | {"source": Path(found["images"]["source"]).name}
    packages = found["environment"]["packages"]
    kept = {k: v for k, v in found.items() if k not in ("timings", "suggestion", "notes", "missing")}
    return kept | {"images": images, "environment": {"packages": packages}}


def read() -> dict[str, dict[str, Any]]:
    """Forecasts that are kept, by setting."""
    if not FORECASTS.is_file():
        return {}
    return {key_of(entry["setting"]): entry for entry in json.loads(FORECASTS.read_text(encoding="utf-8"))}


def main() -> None:
    match sys.argv[1:]:
        case ["make", data]:
            make(Path(data).resolve())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
