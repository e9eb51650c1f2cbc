"""Studies that are half done, degenerate, or somebody else's: every row has a number or a reason."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from made_studies import everything, sound, study

from clipdrift.analysis import analyse
from clipdrift.analysis.runs import prepared
from clipdrift.replication.against import against_published


def small(**changes) -> pd.DataFrame:
    return study(**{"targets": ("pets",), "seeds": (1, 2), **changes})


@pytest.mark.parametrize(
    "runs",
    [
        small().iloc[:1], small().iloc[:0], small(seeds=(7,)), small(rates=(1e-5,)), small(noise=0),
        small().assign(entropy_drift=1.0, weight_drift=0.0), small().assign(retention_cifar100=np.nan),
        small(methods=("lora",)), small().drop(index=range(3)),
        small()[["target", "method", "learning_rate"]],
        small().drop(columns=["cka", "weight_drift", "accuracy", "validation_accuracy", "penalty"]),
        small().assign(entropy_drift=[np.inf, *[0.1] * 15]), small().assign(learning_rate=0.0),
        small().assign(backbone=None, seed=None, penalty="apr"), small().assign(status="diverged"),
    ],
    ids=["one run", "none", "one seed", "one rate", "no noise", "constant", "nan", "one method",
         "missing cell", "bare", "few columns", "infinite", "rate 0", "without backbone", "all diverged"],
)  # fmt: skip
def test_degenerate_studies(runs: pd.DataFrame) -> None:
    """Nothing breaks, and every row has a number or a reason."""
    sound(everything(runs.reset_index(drop=True)))


@pytest.mark.parametrize("gone", range(9))
def test_any_run_may_be_missing(gone: int) -> None:
    """A study half done is analysed as far as it goes: whichever run is not there."""
    runs = pd.concat([small(rates=(1e-6, 1e-5)), small(rates=(1e-5,), seeds=(1,), methods=("full_ft",),
                                                       penalty="apr")])  # fmt: skip
    assert len(runs) == 9
    sound(everything(runs.drop(index=runs.index[gone]).reset_index(drop=True)))


def test_diverged_runs_are_left_out_and_counted() -> None:
    """Their nan and their numbers touch nothing; each table says how many there were and why."""
    runs = small().assign(status="done")
    broken = runs.head(3).assign(
        run=["x", "y", "z"], status=["diverged", "diverged", "failed"], weight_drift=[np.nan, np.inf, 1e30]
    )
    tables, without = analyse(pd.concat([runs, broken])), analyse(runs)
    for name, table in tables.items():
        last = table.iloc[-1]
        assert (last.statistic, last.value, last.n) == ("runs left out", 3, "19")
        assert last.note == "2 diverged, 1 failed"
        pd.testing.assert_frame_equal(table.iloc[:-1], without[name], check_dtype=False)


def test_someone_elses_table(tmp_path) -> None:
    """Through a CSV file, with rates as text, other columns, and no options."""
    path = tmp_path / "runs.csv"
    small().drop(columns=["run", "backbone", "penalty", "penalty_weight"]).assign(remark="fine").to_csv(path)
    table = analyse(pd.read_csv(path), ["rate", "methods"])
    sound(table)
    assert table["methods"].value.notna().any()
    one, other = (analyse(frame, ["rate"])["rate"].value for frame in (small(), pd.read_csv(path)))
    assert one.to_numpy() == pytest.approx(other.to_numpy(), nan_ok=True)


def test_arms_are_told_apart_by_what_varies() -> None:
    """An option is named where it is not the usual one of its method and target; backbones are places."""
    runs = study(targets=("pets",), methods=("lora",), rates=(1e-5,), seeds=(1, 2, 3, 4))
    runs = runs.assign(
        rank=[4, 4, 8, 8], epochs=30, backbone=["a", "a", "a", "b"], penalty=[*[None] * 3, "apr"]
    )
    ready = prepared(runs)
    assert list(ready.variant) == ["lora", "lora", "lora rank=8", "lora penalty=apr"]
    even = prepared(runs.assign(backbone="a"))  # two of each: none is the usual one
    assert list(even.variant) == ["lora rank=4", "lora rank=4", "lora rank=8", "lora rank=8 penalty=apr"]
    assert list(ready.place) == ["pets, a"] * 3 + ["pets, b"]
    assert ready.cell.nunique() == 3


def test_hundreds_of_columns() -> None:
    """A table put together column by column, of which pandas warns, and here a warning is an error."""
    runs = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(150):
            runs[f"remark {i}"] = float(i)
    sound(analyse(runs, ["methods", "choosing"]))
    assert (against_published(runs).comparable != "").all()
