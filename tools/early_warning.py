"""Which signal tells early that a run forgets: docs/early-warning.md from committed records.

    python tools/early_warning.py           # prints the tables
    python tools/early_warning.py --write   # puts them into the page

Thresholds are chosen on the records in evidence/photographs and tested on targets and methods left out of the
choice. Where evidence/captions has records, the default rules, chosen before those runs, are tested on them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from evidence import unpack
from marked import between

from clipdrift.analysis.warning import Warned, auc, judged, looks, warnings_of
from clipdrift.rules.ruling import SEVERE_DRIFT, WARN_DRIFT
from clipdrift.study.frames import history_frame, records_in, runs_frame

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "early-warning.md"
START, END = "<!-- tables: written by tools/early_warning.py -->", "<!-- end of tables -->"
JUDGED = ("sensitivity", "specificity")
KEPT = "last_retention_cifar100"
LEVELS, SHARES = (90.0, 50.0), (0.1, 0.25, 0.5, 1.0)
SIGNALS = {
    "embedding_drift": "embedding drift",
    "cka": "1 - CKA, mean over blocks",
    "cka_embedding": "1 - CKA of the embedding",
    "weight_drift": "weight drift",
    "entropy_fall": "fall of attention entropy, %",
    "entropy_size": "change of attention entropy either way, %",
    "text_embedding_drift": "drift of text embeddings",
    "text_cka": "1 - CKA of the text tower",
}


@cache
def read(evidence: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished runs, indexed by run, and their histories with every signal rising where more is lost."""
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        unpack(evidence, study)
        records = [record for record in records_in(study) if record["status"] == "done"]
        runs, history = runs_frame(records), history_frame(records)
    ends = history.groupby("run")["step"].max()
    runs["steps"] = runs["run"].map(ends)
    runs["towers"] = [_towers(record) for record in records]
    history = history.assign(
        entropy_fall=-history["entropy_drift"], entropy_size=history["entropy_drift"].abs()
    )
    for name in ("cka", "cka_embedding", "text_cka"):
        if name in history:
            history[name] = 1 - history[name]
    runs.index = pd.Index(runs["run"])
    return runs[runs[KEPT].notna()], history


def _towers(record: object) -> str:
    config = record["config"]  # type: ignore[index]
    objective = config.get("objective", {})
    return objective.get("towers", "both") if objective.get("name") == "contrastive" else "head"


def found(evidence: Path, by: str) -> tuple[int, list[Warned]]:
    runs, history = read(evidence)
    rows = [
        one
        for share in SHARES
        for level in LEVELS
        for one in warnings_of(
            runs, looks(history, runs, share, [name for name in SIGNALS if name in history]),
            share=share, level=level, kept=KEPT, by=by,
        )
    ]  # fmt: skip
    return len(runs), rows


def number(value: float, digits: int = 2) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def pooled(rows: list[Warned]) -> tuple[float, float, list[float]]:
    """Sensitivity and specificity over all held-out runs together, and the thresholds that they met."""
    lost, kept = sum(r.lost for r in rows), sum(r.runs - r.lost for r in rows)
    hits = sum(r.sensitivity * r.lost for r in rows if r.lost)
    quiet = sum(r.specificity * (r.runs - r.lost) for r in rows if r.runs > r.lost)
    return (
        hits / lost if lost else float("nan"),
        quiet / kept if kept else float("nan"),
        [r.threshold for r in rows],
    )


def held_out(rows: list[Warned], share: float, level: float) -> Iterator[str]:
    heads = ("signal", "AUC, all runs", "threshold, all runs", "thresholds without one", *JUDGED)
    yield f"| {' | '.join(heads)} |"
    yield "|---|--:|--:|--:|--:|--:|"
    table = []
    for signal, words in SIGNALS.items():
        of = [r for r in rows if (r.signal, r.share, r.level) == (signal, share, level)]
        if not of:
            continue
        whole, parts = next(r for r in of if not r.held), [r for r in of if r.held]
        sensitivity, specificity, thresholds = pooled(parts)
        index = sensitivity + specificity
        span = f"{min(thresholds):.3g} to {max(thresholds):.3g}"
        cells = [
            words,
            number(whole.auc),
            f"{whole.threshold:.3g}",
            span,
            number(sensitivity),
            number(specificity),
        ]
        table.append((index, f"| {' | '.join(cells)} |"))
    yield from (line for _, line in sorted(table, key=lambda row: -row[0]))


def tables() -> Iterator[str]:
    place = ROOT / "evidence" / "photographs"
    count, by_target = found(place, "target")
    _, by_method = found(place, "method")
    yield f"## Photographs: {count} runs\n"
    for level in LEVELS:
        lost = next(r.lost for r in by_target if r.level == level and not r.held and r.share == 1)
        yield f"### Below {level:.0f} % of the backbone's zero-shot accuracy: {lost} of {count} runs\n"
        for share in SHARES:
            after = f"Read after {100 * share:.0f} % of the training"
            yield f"{after}; each target tested with the threshold of the others:\n"
            yield from held_out(by_target, share, level)
            yield ""
        yield "Read at the end; each method tested with the threshold of the others:\n"
        yield from held_out(by_method, 1.0, level)
        yield ""
    yield "## The default rules\n"
    yield from default_rules(place, "photographs, on which the thresholds were chosen")
    captions = ROOT / "evidence" / "captions"
    if any(captions.glob("*.xz")):
        yield ""
        yield from default_rules(captions, "captions, trained after the thresholds were chosen", apart=True)


def default_rules(evidence: Path, words: str, apart: bool = False) -> Iterator[str]:
    runs, history = read(evidence)
    yield f"Study {words}:\n"
    yield f"| rule | read after | runs | lost | {' | '.join(JUDGED)} | AUC |\n|---|--:|--:|--:|--:|--:|--:|"
    groups = [("", runs)]
    if apart:
        groups += [(f", {name}", group) for name, group in runs.groupby("towers")]
    for name, group in groups:
        for level, threshold in ((90.0, WARN_DRIFT), (50.0, SEVERE_DRIFT)):
            for share in (0.25, 1.0):
                seen = looks(history, group, share, ["embedding_drift"])
                values = seen["embedding_drift"].to_numpy(float)
                lost = (group[KEPT] < level).to_numpy()
                known = np.isfinite(values)
                sensitivity, specificity = judged(values[known], lost[known], threshold)
                cells = [
                    f"embedding_drift >= {threshold:g}: below {level:.0f} %{name}",
                    f"{100 * share:.0f} %",
                    str(int(known.sum())),
                    str(int(lost[known].sum())),
                    number(sensitivity),
                    number(specificity),
                    number(auc(values[known], lost[known])),
                ]
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    text = "\n".join(tables())
    if "--write" in sys.argv[1:]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
