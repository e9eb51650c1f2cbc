"""The tables of docs/captions.md from the records of the study of that name.

python tools/captions.py           # prints them
python tools/captions.py --write   # puts them into the page, from evidence/captions
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidence import unpack
from marked import between
from scipy import stats

from clipdrift.analysis.warning import auc
from clipdrift.study.folder import read_manifest
from clipdrift.study.frames import records_in, runs_frame

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE, PAGE = ROOT / "evidence" / "captions", ROOT / "docs" / "captions.md"
START, END = "<!-- tables: written by tools/captions.py -->", "<!-- end of tables -->"
KEPT, GAINED, RECALL = "retention_cifar100", "land_use", "accuracy"
ARMS = {
    "full_ft both": "full_ft, both towers",
    "full_ft image": "full_ft, image tower",
    "full_ft text": "full_ft, text tower",
    "lora both": "lora, both towers",
    "lora image": "lora, image tower",
    "full_ft both 128": "full_ft, both towers, batches of 128",
    "full_ft both 512": "full_ft, both towers, batches of 512",
    "full_ft head": "full_ft, a head on the seven classes",
}
SIGNALS = {
    "image_drift": "drift of image embeddings",
    "image_cka": "1 - CKA of the image tower",
    "weight_drift": "weight drift of the image tower",
    "entropy_drift": "change of image attention entropy, either way",
    "text_drift": "drift of text embeddings",
    "text_cka": "1 - CKA of the text tower",
    "text_weight_drift": "weight drift of the text tower",
    "both_drift": "the larger of both drifts of embeddings",
}


def read(evidence: Path = EVIDENCE) -> tuple[pd.DataFrame, int]:
    """One row per finished run, and how many are planned.

    Runs on captions at their last epoch, but recall, which is tested once, at the chosen one; those with a
    head at the chosen epoch, as their accuracy is tested there alone.
    """
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "captions"
        unpack(evidence, study)
        planned = len(read_manifest(study).keys)
        records = [record for record in records_in(study) if record["status"] == "done"]
        table = runs_frame(records)
    rows = pd.DataFrame({"arm": [_arm(r) for r in records]})
    for name in ("learning_rate", "seed"):
        rows[name] = table[name]
    rows[RECALL] = table[RECALL]
    rows[GAINED] = [_land_use(r) for r in records]
    head = rows["arm"].str.endswith("head")

    def at(column: str) -> pd.Series:
        return table[column].where(head, table[f"last_{column}"])

    for name, column in ((KEPT, KEPT), ("image_drift", "embedding_drift"), ("weight_drift", "weight_drift")):
        rows[name] = at(column)
    rows["image_cka"] = 1 - at("cka")
    rows["entropy_drift"] = at("entropy_drift").abs()
    # a tower that is not trained has not moved: its drift is nought, and so is 1 - CKA
    rows["text_drift"] = at("text_embedding_drift").fillna(0)
    rows["text_weight_drift"] = at("text_weight_drift").fillna(0)
    rows["text_cka"] = 1 - at("text_cka").fillna(1)
    rows["both_drift"] = rows[["image_drift", "text_drift"]].max(axis=1)
    return rows, planned


def _arm(record: Mapping[str, Any]) -> str:
    config = record["config"]
    objective, size = config.get("objective", {}), config["optim"].get("batch_size", 32)
    if objective.get("name") != "contrastive":
        return f"{config['method']['name']} head"
    towers = objective.get("towers", "both")
    return f"{config['method']['name']} {towers}" + ("" if size == 32 else f" {size}")


def _land_use(record: Mapping[str, Any]) -> float:
    """Accuracy on the aerial test images: zero-shot, or that of the head, in percent."""
    if _arm(record).endswith("head"):
        return float(record["best"]["test_accuracy"])
    return float(record["last"]["transfer"]["land-use-7"]["accuracy"])


def mean(values: pd.Series, digits: int = 1) -> str:
    found = values.dropna()
    return "–" if found.empty else f"{found.mean():.{digits}f}"


def cells(rows: pd.DataFrame) -> Iterator[str]:
    yield "| trained | rate | runs | R@1 % | aerial % | kept % | image drift | text drift |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for arm, words in ARMS.items():
        for rate, group in rows[rows["arm"] == arm].groupby("learning_rate"):
            recall = "–" if arm.endswith("head") else mean(group[RECALL])
            cells = [words, f"{rate:g}", str(len(group)), recall, mean(group[GAINED]), mean(group[KEPT])]
            cells += [mean(group["image_drift"], 3), mean(group["text_drift"], 3)]
            yield f"| {' | '.join(cells)} |"


def paired(rows: pd.DataFrame, one: str, other: str, column: str) -> str:
    """Mean of the differences over runs of equal rate and seed, with its t interval."""
    keys = ["learning_rate", "seed"]
    left, right = (rows[rows["arm"] == arm].set_index(keys)[column] for arm in (one, other))
    found = (left - right).dropna()
    if len(found) < 3:
        return f"– (n = {len(found)})"
    low, high = stats.t.interval(0.95, len(found) - 1, loc=found.mean(), scale=stats.sem(found))
    return f"{found.mean():+.1f} [{low:+.1f}, {high:+.1f}], n = {len(found)}"


def contrasts(rows: pd.DataFrame) -> Iterator[str]:
    yield "| contrast, at equal rates and seeds | kept, points | aerial, points |\n|---|--:|--:|"
    for one, other in (
        ("full_ft image", "full_ft both"),
        ("lora image", "lora both"),
        ("full_ft text", "full_ft both"),
        ("full_ft both 128", "full_ft both"),
        ("full_ft both 512", "full_ft both"),
        ("lora both", "full_ft both"),
    ):
        found = [paired(rows, one, other, column) for column in (KEPT, GAINED)]
        yield f"| {ARMS[one]} minus {ARMS[other]} | {' | '.join(found)} |"


def frontier(rows: pd.DataFrame) -> Iterator[str]:
    """The most that each arm has learnt without falling below a share of the backbone's ability."""
    levels = (95.0, 90.0, 50.0)
    yield f"| trained | {' | '.join(f'aerial % at {level:.0f} % kept' for level in levels)} |"
    yield "|---|" + "--:|" * len(levels)
    cells = rows.groupby(["arm", "learning_rate"])[[KEPT, GAINED]].mean().reset_index()
    for arm, words in ARMS.items():
        own, shown = cells[cells["arm"] == arm], []
        for level in levels:
            allowed = own[own[KEPT] >= level]
            best = None if allowed.empty else allowed.loc[allowed[GAINED].idxmax()]
            shown.append("–" if best is None else f"{best[GAINED]:.1f} (rate {best['learning_rate']:g})")
        yield f"| {words} | {' | '.join(shown)} |"


def equal(rows: pd.DataFrame, within: float = 5.0) -> Iterator[str]:
    """Cells on captions beside the cell of the head whose accuracy on the aerial images is nearest."""
    found = rows.groupby(["arm", "learning_rate"])[[KEPT, GAINED]].mean().reset_index()
    head = found[found["arm"] == "full_ft head"]
    others = found[found["arm"] != "full_ft head"]
    if head.empty:
        yield "No run with a head is finished."
        return
    yield f"The head's cells lie between {head[GAINED].min():.1f} and {head[GAINED].max():.1f} % on the"
    low, high = others[GAINED].min(), others[GAINED].max()
    yield f"aerial images, those on captions between {low:.1f} and {high:.1f} %."
    yield f"Those within {within:.0f} points of each other:\n"
    pairs = []
    for _, cell in others.iterrows():
        near = head.loc[(head[GAINED] - cell[GAINED]).abs().idxmin()]
        if abs(near[GAINED] - cell[GAINED]) <= within:
            pairs.append((cell, near))
    if not pairs:
        yield f"None comes within {within:.0f} points of another kind's."
        return
    yield "| on captions | aerial % | kept % | head at rate | aerial % | kept % |\n|---|--:|--:|--:|--:|--:|"
    for cell, near in pairs:
        cells = [
            f"{ARMS[cell['arm']]}, {cell['learning_rate']:g}",
            f"{cell[GAINED]:.1f}",
            f"{cell[KEPT]:.1f}",
        ]
        cells += [f"{near['learning_rate']:g}", f"{near[GAINED]:.1f}", f"{near[KEPT]:.1f}"]
        yield f"| {' | '.join(cells)} |"


def signals(rows: pd.DataFrame) -> Iterator[str]:
    """How each label-free number orders what is kept, over cells: Spearman, AUC for 90 % and 50 %."""
    captioned = rows[~rows["arm"].str.endswith("head")]
    cells = captioned.groupby(["arm", "learning_rate"])[[KEPT, *SIGNALS]].mean().reset_index()
    groups = {
        "all": cells,
        "image tower moves": cells[~cells["arm"].str.contains("text")],
        "text tower alone": cells[cells["arm"].str.contains("text")],
    }
    titles = [f"{name} ({len(group)} cells)" for name, group in groups.items()]
    yield f"| signal | {' | '.join(f'rho, {title}' for title in titles)} | AUC 90 % | AUC 50 % |"
    yield "|---|" + "--:|" * (len(groups) + 2)
    table = []
    for name, words in SIGNALS.items():
        found = []
        for group in groups.values():
            constant = group[name].nunique() < 2 or len(group) < 4
            found.append(float("nan") if constant else stats.spearmanr(group[name], group[KEPT]).statistic)
        areas = [auc(cells[name].to_numpy(float), (cells[KEPT] < level).to_numpy()) for level in (90, 50)]
        shown = ["–" if np.isnan(value) else f"{value:+.2f}" for value in found]
        shown += [f"{area:.2f}" for area in areas]
        table.append((found[0], f"| {words} | {' | '.join(shown)} |"))
    yield from (line for _, line in sorted(table, key=lambda row: row[0]))


def tables() -> Iterator[str]:
    rows, planned = read()
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    yield f"{len(rows)} of {planned} planned runs are finished (seeds {seeds}). Means over seeds.\n"
    yield "### Every cell\n"
    yield from cells(rows)
    yield "\n### At equal rates\n"
    yield from contrasts(rows)
    yield "\n### The most learnt at what is kept\n"
    yield from frontier(rows)
    yield "\n### Beside a head at equal accuracy\n"
    yield from equal(rows)
    yield "\n### Which number orders what is kept\n"
    yield from signals(rows)


def main() -> None:
    text = "\n".join(tables())
    if "--write" in sys.argv[1:]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
