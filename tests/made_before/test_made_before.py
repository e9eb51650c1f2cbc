"""Folders that an earlier version wrote are read, reported and resumed to the numbers that it gave.

``runs.tar.xz`` was made by version c207953 on two Xeon cores (torch 2.13): a study of eight tiny runs and its
report's tables; a run with its images, stopped after two of six epochs, and its finished record; a
comparison; a repair.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipdrift.analysis.runs import prepared
from clipdrift.comparison import read_comparison
from clipdrift.config import RunConfig
from clipdrift.repair import read_repaired
from clipdrift.reporting.courses import blocks_table
from clipdrift.reporting.tables import cells_table, questions_tables, runs_table
from clipdrift.runs.record import read_record
from clipdrift.runs.states import read_state
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.study.tables import Tables
from clipdrift.training.runner import run

KEY = "980612845846ca69"
TEST = ("question", "group", "statistic", "unit", "test", "family")
TABLES = {
    "blocks": ("run", "block"),
    "cells": ("place", "variant", "learning_rate"),
    "runs": ("run",),
    **{
        f"tests_{question}": TEST
        for question in ("choosing", "convergence", "depth", "measures", "methods", "predictors", "rate")
    },
}
"""Each table and the columns that together name a row of it."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).parent / "runs.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def reported(before: Path) -> Path:
    """A report's tables; its figures would take seconds and are tested elsewhere."""
    tables, folder = Tables.open(before / "study"), before / "report"
    for printed in (cells_table(tables), runs_table(tables), *questions_tables(tables).values()):
        printed.write(folder)
    blocks_table(tables).to_csv(folder / "blocks.csv", index=False)
    return folder


ROUNDED = ["measures-139", "measures-147", "measures-153"]
"""Bounds of four cells each. They took resamples that are the sample itself for smaller or larger ones, by
how one kind of processor rounds; on others they were never so."""


def test_records_are_read_as_done_runs(before: Path) -> None:
    records = list(records_in(before / "study"))
    assert len(records) == 8
    for path in (before / "study").glob("*/record.json"):
        record = read_record(path)
        assert (record.key, record.status) == (path.parent.name, "done")
        assert read_state(path.parent).kind == "done"


@pytest.mark.parametrize("name", TABLES)
def test_a_report_gives_the_same_numbers(before: Path, reported: Path, name: str) -> None:
    """Every old row is there with every old value; columns and rows may have been added since."""
    names = list(TABLES[name])
    old, new = (
        pd.read_csv(file, keep_default_na=False, na_values=[""])
        .fillna(dict.fromkeys(names, ""))
        .set_index(names)
        for file in (before / "expected" / "tables" / f"{name}.csv", reported / f"{name}.csv")
    )
    assert len(old)
    assert not old.index.duplicated().any()
    assert not new.index.duplicated().any()
    assert set(old) <= set(new)
    assert not (missing := old.index.difference(new.index)).size, missing.tolist()
    if "key" in old:
        old = old[~old["key"].isin(ROUNDED)]
    new = new.loc[old.index]
    for column in old.columns.drop("key", errors="ignore"):
        theirs, ours = old[column], new[column]
        if pd.api.types.is_numeric_dtype(theirs):
            np.testing.assert_allclose(ours.astype(float), theirs, rtol=1e-9, atol=1e-12, err_msg=column)
        else:
            assert ours.fillna("").tolist() == theirs.fillna("").tolist(), column


def test_an_interrupted_run_goes_on_to_the_record_that_it_would_have_had(before: Path) -> None:
    expected = read_record(before / "expected" / "finished.json")
    folder = before / "interrupted" / KEY
    assert read_state(folder).kind == "interrupted"
    told = len((folder / "metrics.jsonl").read_text().splitlines())
    assert told == 2
    config = expected.config.model_dump()
    config["data"]["target"]["path"] = str(before / "colours")
    record, where = run(
        RunConfig.model_validate(config), before / "interrupted", cache=before / "cache", device="cpu"
    )
    assert (where.path, record.key) == (folder, KEY)
    assert [p.step for p in record.history] == [p.step for p in expected.history]
    # the old part is taken over to the bit; the rest is computed here, on another machine perhaps
    assert record.history[:told] == expected.history[:told]
    assert record.best.epoch == expected.best.epoch
    for name in ("cka", "entropy", "embedding_drift"):
        found, wanted = record.last.measures[name], expected.last.measures[name]
        assert found.mean == pytest.approx(wanted.mean, rel=2e-3)
    assert record.best.test_accuracy == pytest.approx(expected.best.test_accuracy, abs=0.5)


def test_comparisons_and_repairs_give_the_same_tables(before: Path) -> None:
    for made, table in (
        (read_comparison(before / "compared").to_frame(), before / "compared" / "comparison.csv"),
        (read_repaired(before / "repaired").to_frame(blocks=True), before / "repaired" / "repaired.csv"),
    ):
        text = made.to_csv(index=False)
        assert text == table.read_text()


def test_options_without_a_column_tell_arms_apart(before: Path) -> None:
    """LoRA at two values of alpha, or a penalty on other blocks, is not one arm."""
    usual, *_ = (dict(record) for record in records_in(before / "study"))
    changed = []
    for number, change in enumerate(
        (
            {"method": usual["config"]["method"] | {"alpha": 4.0}},
            {"penalty": [{"name": "apr", "weight": 0.1, "blocks": [1, 2]}]},
            {"penalty": [{"name": "apr", "weight": 0.1}, {"name": "l2_sp", "weight": 0.5}]},
            {"method": {"name": "of_elsewhere", "size": 3}},
        )
    ):
        changed.append(usual | {"key": f"k{number}", "config": usual["config"] | change})
    frame = runs_frame([usual, *changed])
    assert frame["other_options"].fillna("").tolist() == [
        "", "alpha=4.0", "apr.blocks=[1, 2]", "l2_sp.weight=0.5", "size=3",
    ]  # fmt: skip
    assert prepared(frame)["arm"].nunique() == len(frame)
