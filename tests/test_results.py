"""The tables of a study: read when asked for, once, and true to the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipdrift.study.frames import history_frame, records_in, runs_frame
from clipdrift.study.tables import ResultsError, Tables
from generated import attention_of, generated_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    options = {"rates": (1e-5, 5e-5), "seeds": (7, 11), "epochs": 2, "blocks": 4, "maps": 1, "paths": True}
    generated_study(folder, extras=True, diverged=1, failed=1, missing=1, **options)  # type: ignore[arg-type]
    return folder


def test_tables_hold_what_the_records_say(study: Path) -> None:
    """The runs in the plan's order, with their history, blocks, backbone and paths."""
    tables = Tables.of(study)
    frame = runs_frame(records_in(study))
    columns = [c for c in frame if c != "label"]
    left = tables.runs.set_index("run").sort_index()
    pd.testing.assert_frame_equal(left[columns[1:]], frame.set_index("run").sort_index()[columns[1:]])
    assert tables.manifest is not None
    assert list(tables.runs["run"]) == [key for key in tables.manifest.keys if key in set(frame["run"])]
    assert len(tables.history) == len(history_frame(records_in(study)))
    assert set(tables.blocks["block"]) == {1, 2, 3, 4}
    assert tables.backbone_blocks["run"].nunique() == 2  # one for each target
    assert set(tables.paths["run"]) <= set(frame["run"])
    assert len(tables.cells) == frame["cell"].nunique()
    assert tables.history is tables.history
    assert tables.history_blocks("gini") is tables.history_blocks("gini")


def test_how_runs_ended_counts_the_whole_plan(study: Path) -> None:
    """Also of one target alone; what has not begun belongs to any."""
    tables = Tables.of(study)
    assert tables.ends == {"done": len(tables.runs) - 1, "diverged": 1, "failed": 1, "planned": 1}
    assert tables.manifest is not None
    assert sum(tables.ends.values()) == len(tables.manifest.runs)
    alone = tables.only("eurosat")
    assert set(alone.runs["target"]) == {"eurosat"}
    assert sum(alone.ends.values()) < sum(tables.ends.values())
    with pytest.raises(ResultsError, match="no run has the target dogs; there are"):
        tables.only("dogs")


def test_plain_runs_are_those_of_the_methods_as_such(study: Path) -> None:
    """Not those with penalties, frozen blocks or another rank, though they are of the same method."""
    runs = Tables.of(study).runs
    plain = runs[runs["plain"]]
    assert plain["penalty"].isna().all()
    assert (plain["frozen_blocks"] == 0).all()
    assert set(plain.loc[plain["method"] == "lora", "rank"]) == {8}
    assert set(plain["weight_decay"]) == {0.01}
    assert set(plain["method"]) == {"full_ft", "lora", "linear_probe"}
    assert (runs["place"] == runs["target"]).all()  # one backbone goes without saying
    named = runs.assign(backbone=["a/one", "b/two"] * (len(runs) // 2) + ["a/one"] * (len(runs) % 2))
    assert set(Tables(named).runs["place"]) >= {"eurosat, one", "eurosat, two"}


def test_answers_are_kept_and_those_of_the_analysis(study: Path) -> None:
    """A question is analysed once, of all runs, with the tables that it needs."""
    tables = Tables.of(study)
    assert tables.rows("onset") is tables.rows("onset")
    assert len(tables.rows("interpolation").dropna(subset=["value"])) > 0
    assert set(tables.rows("choosing")["question"]) == {"choosing"}


def test_attention_is_that_of_the_run(study: Path) -> None:
    """To the precision in which it is kept."""
    tables = Tables.of(study)
    kept = [run for run in tables.runs["run"] if tables.maps(run) is not None]
    (run,) = kept
    found = tables.maps(run)
    assert found is not None
    images, before, _ = attention_of(4, 0.3)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_allclose(found.before, before, atol=1e-3)
    assert found.grid == (7, 7)


def test_a_table_made_elsewhere(tmp_path: Path) -> None:
    """Three columns are enough; what is not there is empty, not wrong."""
    file = tmp_path / "runs.csv"
    pd.DataFrame({"target": "t", "method": "m", "learning_rate": [1e-5, 1e-4]}).to_csv(file, index=False)
    tables = Tables.open(file)
    assert list(tables.runs["run"]) == ["run 1", "run 2"]
    assert tables.runs["plain"].all()
    assert tables.history.empty
    assert tables.blocks.empty
    assert tables.paths.empty
    assert tables.maps("run 1") is None
    assert tables.ends == {"done": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target,method\na,b\n", "no column learning_rate"),
        ("target,method,learning_rate\n", "no run in this table"),
        ("target,method,learning_rate\na,b,1e-3\na,b,fast\n", "line 3, column learning_rate: fast is no"),
        (
            "target,method,learning_rate\na,b,0\n",
            "line 2, column learning_rate: 0 is no learning rate above 0",
        ),
        ("target,method,learning_rate\na,b,-1e-3\n", "-0.001 is no learning rate above 0"),
        ("target,method,learning_rate,accuracy\na,b,1e-3,good\n", "column accuracy: good is no number"),
        (
            "target,method,learning_rate,last_x_drift\na,b,1e-3,much\n",
            "column last_x_drift: much is no number",
        ),
        ("", "no table of runs"),
    ],
)
def test_what_is_no_table_of_runs_is_said(text: str, said: str, tmp_path: Path) -> None:
    """One line that names the file and the column."""
    file = tmp_path / "runs.csv"
    file.write_text(text)
    with pytest.raises(ResultsError, match=said):
        Tables.open(file)


def test_a_folder_without_runs_is_said(tmp_path: Path, study: Path) -> None:
    """And a damaged record is left out and named."""
    with pytest.raises(ResultsError, match="no finished run here"):
        Tables.of(tmp_path)
    run = tmp_path / "0123456789abcdef"
    run.mkdir()
    (run / "record.json").write_text("{")
    with pytest.raises(ResultsError, match="damaged"):
        Tables.of(tmp_path)
