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
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from forecast_tables import (
    BY_METHOD,
    BY_RATE,
    BY_TARGET,
    COARSE,
    LEVEL,
    OUTCOMES,
    Found,
    by_rate,
    cells_of,
    coarse,
    groups_of,
    picks,
    pooled,
    thresholds,
    within,
)  # fmt: skip
from marked import between
from rich.progress import track

from clipdrift.analysis.draws import Draws
from clipdrift.analysis.rows import holm
from clipdrift.data.worlds import WORLDS
from clipdrift.forecasting.forecast import forecast
from clipdrift.forecasting.tested import Evidence, Tested, Threshold
from clipdrift.runs.files import write_text
from clipdrift.texts import p_value, typeset
from clipdrift.texts import rate as rate_text

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "evidence"
FORECASTS = EVIDENCE / "forecast" / "forecasts.json"
PAGE, SHIPPED = ROOT / "docs" / "forecast.md", ROOT / "src" / "clipdrift" / "forecasting" / "tested.json"
START, END = "<!-- tables: written by tools/forecast.py -->", "<!-- end of tables -->"
STEPS, LIMIT = (1, 8), 400
METHODS = ("full_ft", "lora")
JUDGED = ("sensitivity", "specificity")
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
            if steps != STEPS[0]:  # only what differs
                made[str(steps)] = {"first_steps": made[str(steps)]["first_steps"]}
        kept[key] = {"setting": setting, "steps": made}
        FORECASTS.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(kept[k]) for k in sorted(kept))
        write_text(FORECASTS, f"[\n{lines}\n]\n")


def _source(data: Path, name: str) -> str | None:
    if name in WORLDS:
        return name
    return str(data / name) if (data / name).is_dir() else None


def _portable(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables need and what it was made with, without what belongs to one machine."""
    images = {name: found["images"][name] for name in ("count", "stepped", "held_out", "fingerprint")}
    names = ("draws", "seed", "fingerprint", "zero_shot", "probe", "room", "entropy", "transfer", "gradient")
    packages = found["environment"]["packages"]
    steps = [
        {name: step[name] for name in ("rate", "drift", "drift_draws", "cka_loss", "transfer_drift")}
        for step in found["first_steps"]
    ]
    return {name: found[name] for name in names} | {
        "images": images, "packages": packages, "first_steps": steps
    }  # fmt: skip


def read() -> dict[str, dict[str, Any]]:
    """Forecasts that are kept, by setting."""
    if not FORECASTS.is_file():
        return {}
    return {key_of(entry["setting"]): entry for entry in json.loads(FORECASTS.read_text(encoding="utf-8"))}


def cells() -> pd.DataFrame:
    return cells_of(((study, record, key_of(setting_of(record))) for study, record in records()), read())


def number(value: float, digits: int = 2) -> str:
    return "–" if not np.isfinite(value) else typeset(f"{value:+.{digits}f}")


def verdicts(table: pd.DataFrame, draws: Draws) -> list[tuple[Found, float, str, str]]:
    """Each correlation with its corrected p, the verdict and why.

    A number that each rate has predicts an outcome if the interval of its correlation excludes 0, p
    corrected by Holm over the numbers of that outcome is below 0.05, its sign is the same on every target,
    and it orders more than the rate itself, with an interval above 0. One of a target, or of a target and
    method, predicts if p is below 0.05; where even the strongest order could not be, it cannot be told.
    """
    found: list[tuple[Found, float, str, str]] = []
    rated = by_rate(table, draws)
    for outcome in OUTCOMES:
        own = [one for one in rated if one.outcome == outcome]
        for one, p in zip(own, holm([one.p for one in own]), strict=True):
            found.append((one, p, *_rated(one, p)))
    for one in coarse(groups_of(table), draws):
        found.append((one, one.p, *_coarse(one)))
    return found


def _rated(one: Found, p: float) -> tuple[str, str]:
    assert one.by_target is not None
    signs = {np.sign(value) for value in one.by_target.values()}
    if one.number == "rate":
        return "–", "for comparison"
    if p >= 0.05 or one.low * one.high <= 0 or len(signs) > 1:
        return "does not predict", "no order that holds on every target"
    assert one.beyond is not None
    if one.beyond[1] <= 0:
        return "does not predict", "no more than the rate itself"
    return "predicts", "more than the rate itself, over methods"


def _coarse(one: Found) -> tuple[str, str]:
    if not np.isfinite(one.rho):
        return "cannot be told", one.note
    targets = one.units // 2 if one.number in BY_METHOD else one.units
    orders = math.factorial(targets) ** (2 if one.number in BY_METHOD else 1)
    if 2 / orders >= 0.05:
        return "cannot be told", f"{targets} targets are too few for any order to be sure"
    return (
        ("predicts", "over targets") if one.p < 0.05 else ("does not predict", "no clear order over targets")
    )


def tables(table: pd.DataFrame) -> Iterator[str]:
    draws = Draws(np.random.default_rng(0))
    judged = verdicts(table, draws)
    names = BY_RATE | BY_METHOD | BY_TARGET
    targets = sorted(table["target"].unique())
    yield (
        f"{int(table['runs'].sum())} runs in {len(table)} cells, of the studies "
        f"{', '.join(sorted(set(table['study'])))}, on {', '.join(targets)}.\n"
    )
    yield "### Numbers that each rate has\n"
    heads = [
        "number",
        "Spearman, all cells",
        "95 % interval",
        "p, Holm",
        *targets,
        "more than the rate",
        "verdict",
    ]
    for outcome, words in OUTCOMES.items():
        yield f"With {words}:\n\n| {' | '.join(heads)} |\n|---|{'--:|' * (len(heads) - 2)}---|"
        for one, p, verdict, why in judged:
            if one.outcome != outcome or one.by_target is None:
                continue
            beyond = "" if one.beyond is None else f"{number(one.beyond[0])} ({_span(*one.beyond[1:])})"
            own = [number(one.by_target[target]) for target in targets]
            said = why if one.number == "rate" else f"{verdict}: {why}"
            row = [
                names[one.number],
                number(one.rho),
                _span(one.low, one.high),
                p_value(p),
                *own,
                beyond,
                said,
            ]
            yield f"| {' | '.join(row)} |"
        yield ""
    yield "Within one method, with zero-shot accuracy kept:\n"
    yield f"| number | {' | '.join(METHODS)} |\n|---|{'--:|' * len(METHODS)}"
    for name, words in BY_RATE.items():
        inside = [within(table[table["method"] == method], name, "kept", draws) for method in METHODS]
        row = [words, *(f"{number(rho)} ({_span(low, high)})" for rho, low, high in inside)]
        yield f"| {' | '.join(row)} |"
    yield "\n### Numbers of a target, or of a target and method\n"
    yield "Gradients are compared within a method, over targets; all others over targets.\n"
    yield f"| number | {' | '.join(COARSE.values())} | verdict |\n|---|{'--:|' * len(COARSE)}---|"
    for name in (*BY_METHOD, *BY_TARGET):
        rows = [row for row in judged if row[0].number == name and row[0].by_target is None]
        orders = [
            f"{number(one.rho)} (p {p_value(one.p)})" if np.isfinite(one.rho) else "–" for one, *_ in rows
        ]
        said = "; ".join(sorted({f"{verdict}: {why}" for _, _, verdict, why in rows}))
        yield f"| {' | '.join([names[name], *orders, said])} |"
    yield f"\n### Thresholds: below which cells kept {LEVEL:.0f} %\n"
    yield "Chosen on all cells; sensitivity and specificity are those on what was left out of the choice.\n"
    heads = ["number", "threshold", *(f"{s}, {by} left out" for by in ("targets", "methods") for s in JUDGED)]
    yield f"| {' | '.join(heads)} |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, words in BY_RATE.items():
        by_target, by_method = (thresholds(table, name, by) for by in ("target", "method"))
        shares = [f"{share:.2f}" for share in (*pooled(by_target), *pooled(by_method))]
        yield f"| {words} | {by_target[0].threshold:.2g} | {' | '.join(shares)} |"
    for name in ("rate", "drift", "drift_8"):
        yield f"\n### What would have been picked by {names[name].removesuffix(', for comparison')}\n"
        yield "The largest rate of the study below the threshold chosen on the other targets, beside the most"
        yield f"accurate rate that kept {LEVEL:.0f} %.\n"
        yield "| study | target | method | picked | kept % | accuracy % | best | accuracy % |"
        yield "|---|---|---|--:|--:|--:|--:|--:|"
        for pick in picks(table, name):
            yield (
                f"| {pick.study} | {pick.target} | {pick.method} | {_rate(pick.picked)} | {pick.kept:.1f} | "
                f"{pick.accuracy:.1f} | {_rate(pick.best)} | {pick.best_accuracy:.1f} |"
            )


def _span(low: float, high: float) -> str:
    return "–" if not np.isfinite(low) else f"{number(low)} to {number(high)}"


def _rate(value: float | None) -> str:
    return "none" if value is None else rate_text(value)


def shipped(table: pd.DataFrame) -> Evidence:
    """What the package says of each number, and the thresholds of drifts that predict what is kept."""
    draws = Draws(np.random.default_rng(0))
    names, tested = BY_RATE | BY_METHOD | BY_TARGET, []
    for one, p, verdict, why in verdicts(table, draws):
        if one.number == "rate":
            continue
        whole = {name: None if not np.isfinite(v) else round(float(v), 4) for name, v in (
            ("rho", one.rho), ("low", one.low), ("high", one.high), ("p", p))}  # fmt: skip
        unit = "cell" if one.by_target else "target and method" if one.number in BY_METHOD else "target"
        tested.append(
            Tested(
                number=one.number, words=names[one.number], outcome=COARSE[one.outcome], verdict=verdict,
                why=why, units=one.units, unit=unit, **whole,
            )
        )  # fmt: skip
    found = []
    for steps in STEPS:
        name = "drift" if steps == 1 else f"drift_{steps}"
        if any(
            one.number == name and one.outcome == OUTCOMES["kept"] and one.verdict == "predicts"
            for one in tested
        ):
            rows = thresholds(table, name, "target")
            sensitivity, specificity = pooled(rows)
            found.append(
                Threshold(
                    level=LEVEL, steps=steps, drift=float(f"{rows[0].threshold:.3g}"),
                    methods=tuple(sorted(table["method"].unique())),
                    sensitivity=round(sensitivity, 3), specificity=round(specificity, 3),
                )
            )  # fmt: skip
    return Evidence(
        studies=tuple(sorted(table["study"].unique())), runs=int(table["runs"].sum()), cells=len(table),
        targets=tuple(sorted(table["target"].unique())),
        models=tuple(sorted({entry["setting"]["model"] for entry in read().values()})),
        tested=tuple(tested), thresholds=tuple(found),
    )  # fmt: skip


def main() -> None:
    match sys.argv[1:]:
        case ["make", data]:
            make(Path(data).resolve())
        case ["--write"]:
            table = cells()
            text = "\n".join(tables(table))
            PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
            write_text(SHIPPED, shipped(table).model_dump_json(indent=1) + "\n")
        case []:
            print("\n".join(tables(cells())))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
