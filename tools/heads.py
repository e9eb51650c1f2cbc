"""The tables and the figure of docs/heads.md from the records of the study `heads` and its paths.

python tools/heads.py paths DATA runs/heads   # in DATA: walks finished runs, into evidence/heads/paths.csv
python tools/heads.py                         # prints the tables
python tools/heads.py --write                 # puts them into the page, and draws docs/images/heads.png
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from evidence import finished
from marked import between
from matplotlib.figure import Figure

from clipdrift.analysis.means import averaged
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.outcomes.columns import columns_of, retention_of
from clipdrift.runs.store import Store
from clipdrift.study.folder import read_manifest
from clipdrift.study.frames import runs_frame
from clipdrift.study.tables import PATHS

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE, PAGE = ROOT / "evidence" / "heads", ROOT / "docs" / "heads.md"
PICTURE = ROOT / "docs" / "images" / "heads.png"
START, END = "<!-- tables: written by tools/heads.py -->", "<!-- end of tables -->"
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
HEADS = ("linear", "zero_shot")
CELL = ["target", "method", "rate"]
KEEP = 90
"""Percent of zero-shot accuracy that a mix is to keep."""


def walk(data: Path, study: Path) -> None:
    """Measure accuracy on validation images and retention along the path of every finished run that is new.

    What `clipdrift interpolate` measures at these alphas, without its measures of the tower. Alpha 1 is the
    run itself, whose numbers are its record's, and at alpha 0 all zero-shot accuracy is kept.
    """
    from clipdrift.repair.opening import open_context

    study = study.resolve()
    os.chdir(data)
    file = EVIDENCE / PATHS
    rows = pd.read_csv(file, dtype={"run": str}) if file.is_file() else pd.DataFrame({"run": []})
    for key in read_manifest(study).keys:
        folder = Store(study).folder(key)
        if not folder.finished or key in set(rows["run"]):
            continue
        record = folder.record()
        best = record.best
        if record.status != "done" or best is None:
            continue
        measurer = open_context(folder.path, None, {}).measurer
        measurer.endpoints.put(0)
        features = {name: measurer.features(name) for name in measurer.sets}
        found = []
        for alpha in ALPHAS[:-1]:
            measurer.endpoints.put(alpha)
            row = {"run": key, "alpha": alpha, "accuracy": measurer.accuracy(measurer.labelled)}
            for name, texts in features.items():
                now = measurer.zero_shot(name, texts) if alpha else record.backbone.zero_shot[name]
                row[retention_of(name)] = 100 * now / record.backbone.zero_shot[name]
            found.append(row)
        kept = {retention_of(name): tested.retention for name, tested in best.transfer.items()}
        found.append({"run": key, "alpha": 1.0, "accuracy": best.validation_accuracy, **kept})
        rows = pd.concat([rows, pd.DataFrame(found)], ignore_index=True)
        rows.to_csv(file, index=False, float_format="%.6g")
        print(key, " ".join(f"{row['accuracy']:.1f}" for row in found), flush=True)


def read(evidence: Path = EVIDENCE) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """One row per finished run, one per run and alpha, and how many runs are planned.

    ``accuracy`` is on the test images, ``kept`` the zero-shot accuracy kept on the transfer set, percent; all
    at the epoch chosen on validation images. Along a path ``accuracy`` is on the validation images.
    """
    records, planned = finished(evidence)
    table = runs_frame(records)
    rows = pd.DataFrame({"run": table["run"], "rate": table["learning_rate"], "kept": _kept(table)})
    for name in ("target", "method", "head", "seed", "accuracy", "cka", "embedding_drift", "entropy_drift"):
        rows[name] = table[name]
    file = evidence / PATHS
    paths = pd.read_csv(file, dtype={"run": str}) if file.is_file() else pd.DataFrame(columns=["run"])
    if len(paths):
        paths["kept"] = _kept(paths)
        paths = paths[["run", "alpha", "accuracy", "kept"]].merge(rows[["run", "seed", "head", *CELL]])
    return rows, paths, planned


def _kept(table: pd.DataFrame) -> pd.Series:
    """Retention on the one transfer set of each row."""
    found = table[columns_of("retention", table)].bfill(axis=1).iloc[:, 0]
    return found.astype(float)


def span(values: np.ndarray, digits: int = 1, sign: str = "+") -> str:
    """Mean with its t interval."""
    try:
        found = averaged(values.astype(float), "run", "seeds")
    except UndeterminedError:
        return "–"
    ends = f" [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]" if "low" in found else ""
    return f"{found['value']:{sign}.{digits}f}{ends}"


def mean(values: pd.Series, sign: str = "") -> str:
    return f"{values.mean():{sign}.1f}" if len(values) else "–"


def cells(rows: pd.DataFrame) -> Iterator[str]:
    yield "| target | method | rate | head | n | accuracy % | kept % | CKA | embedding drift |"
    yield "|---|---|--:|---|--:|--:|--:|--:|--:|"
    for (target, method, rate, head), cell in rows.groupby([*CELL, "head"]):
        shown = [cell["accuracy"].mean(), cell["kept"].mean()]
        inside = [cell["cka"].mean(), cell["embedding_drift"].mean()]
        numbers = [f"{value:.1f}" for value in shown] + [f"{value:.3f}" for value in inside]
        yield f"| {target} | {method} | {rate:g} | {head} | {len(cell)} | {' | '.join(numbers)} |"


def paired(rows: pd.DataFrame, columns: list[str], by: list[str]) -> pd.DataFrame:
    """Zero-shot minus linear head of runs that are otherwise the same, one row per pair."""
    wide = rows.pivot_table(index=by, columns="head", values=columns)
    both = [wide[column].get("zero_shot") - wide[column].get("linear") for column in columns]
    return pd.concat(both, axis=1, keys=columns).dropna().reset_index()


def differences(rows: pd.DataFrame) -> Iterator[str]:
    yield "| target | method | rate | pairs | accuracy, points | kept, points | embedding drift |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    columns = ["accuracy", "kept", "embedding_drift"]
    pairs = paired(rows, columns, [*CELL, "seed"])
    for (target, method), own in pairs.groupby(CELL[:2]):
        parts = [(f"{rate:g}", cell) for rate, cell in own.groupby("rate")] + [("all", own)]
        for rate, cell in parts:
            shown = [span(cell[name].to_numpy(), 3 if name == "embedding_drift" else 1) for name in columns]
            yield f"| {target} | {method} | {rate} | {len(cell)} | {' | '.join(shown)} |"


def courses(paths: pd.DataFrame) -> Iterator[str]:
    yield f"| target | method | rate | head | n | {' | '.join(f'alpha {alpha:g}' for alpha in ALPHAS)} |"
    yield f"|---|---|--:|---|--:|{'--:|' * len(ALPHAS)}"
    for (target, method, rate, head), cell in paths.groupby([*CELL, "head"]):
        means = cell.groupby("alpha")[["accuracy", "kept"]].mean()
        shown = [f"{means['accuracy'][alpha]:.1f} / {means['kept'][alpha]:.0f}" for alpha in ALPHAS]
        yield f"| {target} | {method} | {rate:g} | {head} | {cell['run'].nunique()} | {' | '.join(shown)} |"


def mixes(paths: pd.DataFrame) -> pd.DataFrame:
    """For each run: its path's accuracy above the straight line between its ends, and the best mixes.

    ``above`` is the mean over interior alphas, points; ``best`` the highest accuracy of any mix minus that of
    the run; ``keeping`` the accuracy of the most accurate mix, run or backbone that keeps enough.
    """
    found = []
    for (run, head, seed, *cell), path in paths.groupby(["run", "head", "seed", *CELL]):
        alpha, accuracy, kept = (path[name].to_numpy(float) for name in ("alpha", "accuracy", "kept"))
        line = accuracy[0] + alpha * (accuracy[-1] - accuracy[0])
        enough = kept >= KEEP
        row = {"run": run, "head": head, "seed": seed, **dict(zip(CELL, cell, strict=True))}
        row |= {"above": float((accuracy - line)[1:-1].mean()), "best": float(accuracy.max() - accuracy[-1])}
        row["keeping"] = float(accuracy[enough].max())
        found.append(row)
    return pd.DataFrame(found)


def best_mixes(paths: pd.DataFrame) -> Iterator[str]:
    yield (
        f"| target | method | rate | best that keeps {KEEP} %: linear | zero_shot | zero_shot minus linear | "
        "above its line: linear | zero_shot |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    found = mixes(paths)
    pairs = paired(found, ["keeping"], [*CELL, "seed"])
    for (target, method), own in found.groupby(CELL[:2]):
        of_pairs = pairs[(pairs["target"] == target) & (pairs["method"] == method)]
        parts = [
            (f"{rate:g}", cell, of_pairs[of_pairs["rate"] == rate]) for rate, cell in own.groupby("rate")
        ]
        for rate, cell, both in [*parts, ("all", own, of_pairs)]:
            by_head = {head: cell[cell["head"] == head] for head in HEADS}
            shown = [mean(by_head[head]["keeping"]) for head in HEADS]
            shown.append(span(both["keeping"].to_numpy()))
            shown += [mean(by_head[head]["above"], "+") for head in HEADS]
            yield f"| {target} | {method} | {rate} | {' | '.join(shown)} |"


def tables(rows: pd.DataFrame, paths: pd.DataFrame, planned: int) -> Iterator[str]:
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    walked = paths["run"].nunique() if len(paths) else 0
    yield f"{len(rows)} of {planned} planned runs are finished (seeds {seeds}), {walked} paths are walked.\n"
    yield "### Every cell\n\nMeans over seeds, at the chosen epoch; accuracy on test images.\n"
    yield from cells(rows)
    yield (
        "\n### Zero-shot minus linear head at matched rates\n\nOf runs of the same seed, with Student's t "
        "interval over pairs; *all* pools the rates.\n"
    )
    yield from differences(rows)
    if not len(paths):
        return
    yield (
        "\n### The path to the backbone\n\nAccuracy on validation images / zero-shot accuracy kept, percent, "
        "means over seeds. Alpha 0 is the backbone.\n"
    )
    yield from courses(paths)
    yield (
        "\n### Mixes\n\nAccuracy of the most accurate point of a run's path, its ends among them, that keeps "
        f"{KEEP} %. *Above its line*: accuracy of the four mixes between, minus that on a straight line "
        "between the ends, points.\n"
    )
    yield from best_mixes(paths)


def picture(paths: pd.DataFrame) -> Figure:
    """Along every arm's path: accuracy over alpha, and accuracy over what is kept; means over seeds."""
    arms = list(paths.groupby(CELL[:2]))
    figure = Figure(figsize=(3.6 * len(arms), 6.6), layout="constrained")
    axes = figure.subplots(2, len(arms), squeeze=False, sharey="col")
    colours = dict(zip(sorted(paths["rate"].unique()), ("tab:blue", "tab:orange", "tab:red"), strict=False))
    styles = {"linear": ("--", "o"), "zero_shot": ("-", "s")}
    for column, ((target, method), own) in enumerate(arms):
        for (rate, head), cell in own.groupby(["rate", "head"]):
            means = cell.groupby("alpha")[["accuracy", "kept"]].mean()
            line, mark = styles[head]
            look = {"linestyle": line, "marker": mark, "markersize": 4, "color": colours[rate]}
            axes[0, column].plot(means.index, means["accuracy"], label=f"{head}, {rate:g}", **look)
            axes[1, column].plot(means["kept"], means["accuracy"], **look)
        axes[0, column].set_title(f"{target}, {method}")
        axes[0, column].set_xlabel("alpha (0 backbone, 1 run)")
        axes[1, column].set_xlabel("zero-shot accuracy kept, %")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy on validation images, %")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def main() -> None:
    match sys.argv[1:]:
        case ["paths", data, study]:
            walk(Path(data), Path(study))
            return
        case [] | ["--write"]:
            rows, paths, planned = read()
            text = "\n".join(tables(rows, paths, planned))
        case _:
            sys.exit(__doc__)
    if sys.argv[1:]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
        picture(paths).savefig(PICTURE, dpi=110)
    else:
        print(text)


if __name__ == "__main__":
    main()
