"""Records as tidy tables: one row per run, per run and block, per run and moment. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic_core import from_json

from clipdrift.config import methods, penalties
from clipdrift.config.base import MethodOptions, ObjectiveOptions, PenaltyOptions, name_of
from clipdrift.config.objectives import OBJECTIVES
from clipdrift.config.rules import RulesConfig
from clipdrift.outcomes.chance import accuracy_p, measurable
from clipdrift.outcomes.columns import chance_p_of, outcome, retention_of, zero_shot_of
from clipdrift.runs.layout import RECORD
from clipdrift.runs.record import OPTIONS, SCHEMA_VERSION, DamagedRecordError, RecordError
from clipdrift.runs.states import foreign_record

RowDict = dict[str, Any]

TIMES = {"": "best", "last_": "last"}
"""Prefix of a column -> which moment of a record: without one, the epoch chosen on validation."""


RecordDict = Mapping[str, Any]
"""A record's content as plain data."""


def records_in(
    root: Path,
    keys: Iterable[str] | None = None,
    problem: Callable[[str], object] = lambda text: None,
) -> Iterator[RecordDict]:
    """Every record below ``root``, or those of ``keys`` in their order; unfinished runs are left out.

    Records are not checked key by key, as :func:`clipdrift.runs.record.read_record` does: thousands load in
    seconds.

    Args:
        problem: told of each record that cannot be read, and why; it is left out.
    """
    if keys is None:
        paths: Iterable[Path] = sorted(root.glob(f"*/{RECORD}"))
    else:
        paths = (path for key in keys if (path := root / key / RECORD).is_file())
    for path in paths:
        try:
            record = _read(path)
        except RecordError as error:
            problem(str(error))
            continue
        if record["key"] != path.parent.name:
            problem(
                f"{foreign_record(path, record['key'])}; remove it, or give the folder its key for a name"
            )
            continue
        yield record


def _read(path: Path) -> RecordDict:
    try:
        data = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedRecordError(f"{path}: damaged ({error}); run again") from None
    if not isinstance(data, Mapping) or data.get("schema_version") != SCHEMA_VERSION:
        found = data.get("schema_version") if isinstance(data, Mapping) else None
        raise RecordError(f"{path}: record schema {found}, this version reads {SCHEMA_VERSION}")
    if missing := {"key", "status", "config", "backbone", "history"} - data.keys():
        raise DamagedRecordError(f"{path}: damaged (without {min(missing)}); run again")
    return data


def runs_frame(records: Iterable[RecordDict], labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per run.

    Columns: ``run``, ``label``, ``status``, ``target``, ``backbone``, ``method``, ``learning_rate``, ``seed``
    and the options that tell runs apart; then ``accuracy`` (test, percent), ``validation_accuracy``, for each
    measure its value (``entropy``), where it has one its drift in percent (``entropy_drift``), of entropy and
    CKA that of the last block (``entropy_drift_of_last_block``, ``cka_of_last_block``), and
    ``zero_shot_<set>`` and ``retention_<set>`` (percent; None where the backbone is not above chance, whose
    p-value is ``backbone_chance_p_<set>``). Where a rule ended any of them, ``stopped_epoch`` and
    ``stopped_step``, none for the others. Columns without a prefix are of the epoch chosen on
    validation, those with ``last_`` of the last epoch, with ``epoch1_`` of the first.
    """
    names = labels or {}
    frame = pd.DataFrame([_run_row(record, names.get(record["key"], "")) for record in records])
    kept = [column for column in frame if outcome(str(column)).kind == "retention"]
    return frame.astype(dict.fromkeys(kept, float)).copy()  # numbers also where none is measurable; one block


def _run_row(record: RecordDict, label: str) -> RowDict:
    config = record["config"]
    method, optim, data = config["method"], config["optim"], config["data"]
    losses = config.get("penalty") or ()  # absent in records older than the option
    row: RowDict = {
        "run": record["key"],
        "cell": _cell(config),
        "label": label,
        "status": record["status"],
        "target": data["target"]["name"],
        "backbone": config["model"]["name"],
        "method": method["name"],
        "learning_rate": optim["learning_rate"],
        "seed": config["seed"],
        "head": _head(config),
        "rank": method.get("rank"),
        "matrices": "+".join(method["targets"]) if "targets" in method else None,
        "train_projection": method.get("train_projection"),
        "frozen_blocks": method.get("frozen_blocks", 0),
        "tuned_blocks": method.get("blocks"),
        "penalty": "+".join(p["name"] for p in losses) or None,
        "penalty_weight": losses[0].get("weight") if losses else None,
        "other_options": _other_options(method, losses, config.get("objective"), config.get("rules")),
        "weight_decay": optim["weight_decay"],
        "epochs": optim["epochs"],
        "batch_size": optim["batch_size"],
        "protocol": data["protocol"],
        "trained_parameters": record["model"]["trained"],
        "train_images": record["target"]["images"]["train"]["count"],
        "seconds": sum(record.get("timings", {}).values()),
    }
    stop = next((one for one in record.get("remarks", ()) if one["kind"] == "stop"), None)
    if stop is not None:
        row |= {"stopped_epoch": stop["epoch"], "stopped_step": stop["step"]}
    row |= {f"backbone_{name}": values["mean"] for name, values in record["backbone"]["measures"].items()}
    row |= {f"backbone_{zero_shot_of(name)}": v for name, v in record["backbone"]["zero_shot"].items()}
    chances = _chances(record)
    row |= {chance_p_of(name): p for name, p in chances.items()}
    for prefix, moment in TIMES.items():
        if record.get(moment) is not None:
            row |= _point(record[moment], prefix, chances)
    first = next((p for p in record["history"] if p["epoch"] == 1 and p["ends_epoch"]), None)
    if first is not None:
        row |= _point(first, "epoch1_", chances)
    return row


def _head(config: Mapping[str, Any]) -> str | None:
    """What the classifier began as; None where none is trained: captions, and flyp's class texts."""
    objective = (config.get("objective") or {}).get("name", "classification")  # absent in older records
    if objective == "contrastive" or config["method"]["name"] == "flyp":
        return None
    return str(config.get("head", "linear"))


_OF_METHOD = frozenset(("name", "rank", "targets", "train_projection", "frozen_blocks", "blocks"))
"""Options of a method that have columns of their own; of the first penalty its weight has one."""
_BUILT_IN: tuple[type[MethodOptions] | type[PenaltyOptions] | type[ObjectiveOptions], ...] = (
    *methods.BUILT_IN, *penalties.BUILT_IN, *OBJECTIVES
)  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    name_of(options): {name: field.get_default() for name, field in options.model_fields.items()}
    for options in _BUILT_IN
}


def _other_options(
    method: Mapping[str, Any],
    losses: Sequence[Mapping[str, Any]],
    objective: Mapping[str, Any] | None,
    rules: Mapping[str, Any] | None,
) -> str | None:
    """Options that have no column and are not at their default, as ``alpha=4, apr.blocks=[1]``.

    Of a method or penalty of another package every option is named.
    """
    found = [f"{name}={value}" for name, value in _unusual(method, _OF_METHOD)]
    for index, penalty in enumerate(losses):
        own = frozenset(("name",) if index else ("name", "weight"))
        found += [f"{penalty['name']}.{name}={value}" for name, value in _unusual(penalty, own)]
    if objective is not None and objective["name"] != "classification":  # absent in older records
        own = frozenset(("name",))
        found += [objective["name"], *(f"{name}={value}" for name, value in _unusual(objective, own))]
    if rules is not None:  # absent where a run has none
        found += _acting(RulesConfig.model_validate(rules))
    return ", ".join(found) or None


def _acting(rules: RulesConfig) -> list[str]:
    """Rules that change a result, and their options that are not at their default."""
    usual = RulesConfig()
    return [
        f"{name}={' and '.join(value) if isinstance(value, tuple) else value}"
        for name, value in rules.acting()
        if value != getattr(usual, name)
    ]


def _unusual(part: Mapping[str, Any], own: frozenset[str]) -> Iterator[tuple[str, Any]]:
    usual = _DEFAULTS.get(part["name"], {})
    for name, value in part.items():
        if name not in own and (name not in usual or value not in (usual[name], _listed(usual[name]))):
            yield name, value["name"] if isinstance(value, Mapping) and "name" in value else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _cell(config: Mapping[str, Any]) -> str:
    """Hash a cell: the same for runs that differ only in their seed, 12 hex digits."""
    rest = {name: part for name, part in config.items() if name != "seed"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]


def cells_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, in the order of the runs: what it is, ``runs``, ``diverged``, and of every number its
    mean and, as ``<column>_sd``, its standard deviation over the seeds (n - 1; nan for one seed)."""
    if runs.empty:
        return runs
    what = ["label", "target", "backbone", "method", "learning_rate", *OPTIONS]
    skipped = {*what, "seed", "trained_parameters"}
    numbers = [c for c in runs.select_dtypes("number").columns if c not in skipped]
    groups = runs.groupby("cell", sort=False)
    table = groups[[*what, "trained_parameters"]].first()
    table["runs"] = groups.size()
    table["diverged"] = groups["status"].agg(lambda status: int((status == "diverged").sum()))
    means, spreads = groups[numbers].mean(), groups[numbers].std().add_suffix("_sd")
    return pd.concat([table, means, spreads], axis=1).reset_index()


def varied(cells: pd.DataFrame) -> list[str]:
    """The columns that tell a study's cells apart, in a fixed order; the method always.

    An option that all cells of a method share (LoRA's rank, say) goes without saying.
    """
    by_method = cells.groupby("method", sort=False)
    columns = ["target", "backbone", "method", "learning_rate", *OPTIONS]
    return [c for c in columns if c == "method" or by_method[c].nunique(dropna=False).max() > 1]


def _chances(record: RecordDict) -> dict[str, float]:
    """P-value, for each transfer set, that the backbone's zero-shot accuracy is above chance."""
    found = {}
    for name, accuracy in record["backbone"]["zero_shot"].items():
        facts = record.get("transfer", {}).get(name)
        images = facts["images"].get("test", {}).get("count", 0) if facts is not None else 0
        if images and facts is not None:
            found[name] = accuracy_p(accuracy, images, len(facts["classes"]))
    return found


def _point(point: Mapping[str, Any], prefix: str, chances: Mapping[str, float]) -> RowDict:
    row: RowDict = {
        "epoch": point["epoch"],
        "train_loss": point["train_loss"],
        "train_accuracy": point["train_accuracy"],
        "validation_accuracy": point["validation_accuracy"],
    }
    if point.get("test_accuracy") is not None:
        row["accuracy"] = point["test_accuracy"]
    for name, values in point["measures"].items():
        row[name] = values["mean"]
        if values["drift"] is not None:
            row[f"{name}_drift"] = values["drift"]
        if name == "entropy" and values["drift_blocks"]:
            row["entropy_drift_of_last_block"] = values["drift_blocks"][-1]
        if name == "cka" and values["blocks"]:
            row["cka_of_last_block"] = values["blocks"][-1]
    for name, transfer in point["transfer"].items():
        row[zero_shot_of(name)] = transfer["accuracy"]
        row[retention_of(name)] = transfer["retention"] if measurable(chances.get(name)) else None
    return {f"{prefix}{name}": value for name, value in row.items()}


def blocks_frame(records: Iterable[RecordDict], moment: str = "best") -> pd.DataFrame:
    """One row per run, measure and block (from 1): ``value`` and ``drift`` (percent; nan where none)."""

    def rows(record: RecordDict, values: Mapping[str, Mapping[str, Any]]) -> Iterator[RowDict]:
        for name, found in values.items():
            drifts = found["drift_blocks"] or [math.nan] * len(found["blocks"])
            for block, (value, drift) in enumerate(zip(found["blocks"], drifts, strict=True), start=1):
                yield {"run": record["key"], "measure": name, "block": block, "value": value, "drift": drift}

    return pd.DataFrame(
        [row for r in records if r.get(moment) is not None for row in rows(r, r[moment]["measures"])],
        columns=["run", "measure", "block", "value", "drift"],
    )


def history_frame(records: Iterable[RecordDict]) -> pd.DataFrame:
    """One row per run and moment of its training; measures as in :func:`runs_frame`."""
    return pd.DataFrame(
        [
            {"run": record["key"], "step": point["step"], "ends_epoch": point["ends_epoch"]}
            | _point(point, "", chances)
            for record in records
            for chances in (_chances(record),)
            for point in record["history"]
        ]
    )


def history_blocks_frame(records: Iterable[RecordDict], measure: str) -> pd.DataFrame:
    """One row per run, moment and block: ``value`` and ``drift`` (percent) of one measure."""
    pick: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda p: p["measures"].get(measure)  # noqa: E731
    return pd.DataFrame(
        [
            {"run": record["key"], "epoch": point["epoch"], "step": point["step"], "block": block}
            | {"value": value, "drift": found["drift_blocks"][block - 1] if found["drift_blocks"] else None}
            for record in records
            for point in record["history"]
            if (found := pick(point)) is not None
            for block, value in enumerate(found["blocks"], start=1)
        ],
        columns=["run", "epoch", "step", "block", "value", "drift"],
    )
