"""Tables that people and trackers made: counted, converted, refused in words, never guessed in silence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from clipdrift.cli import main
from clipdrift.reporting import drawing
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import cells_table, questions_tables
from clipdrift.study.tables import ResultsError, Tables


def runs(bad: str = "crashed", size: float = 1) -> pd.DataFrame:
    """Two methods, three rates, three seeds; LoRA at the highest rate ended as ``bad``, numbers and all."""
    rows = []
    for method in ("full_ft", "lora"):
        for step, rate in enumerate((1e-5, 1e-4, 1e-3)):
            for seed in (1, 2, 3):
                broken = method == "lora" and rate == 1e-3
                kept = (95 - 20 * step if method == "full_ft" else 99 - 2 * step) + seed / 10
                rows.append(
                    {"run": f"{method}{rate}{seed}", "target": "t", "method": method, "learning_rate": rate,
                     "seed": seed, "status": bad if broken else "done",
                     "accuracy": (0 if broken else 60 + 10 * step + seed * (2 if broken else 1)) * size,
                     "cka": 0.9 - 0.1 * step, "entropy_drift": -5 * step - seed / 10,
                     "retention_cifar100": (1 if broken else kept) * size}
                )  # fmt: skip
    return pd.DataFrame(rows)


def opened(frame: pd.DataFrame, folder: Path, name: str = "runs.csv", **how: object) -> Tables:
    frame.to_csv(folder / name, index=False, **how)  # type: ignore[call-overload]
    return Tables.open(folder / name)


@pytest.mark.parametrize("word", ["crashed", ""])
def test_one_mask_for_the_sentence_every_test_and_every_mean(word: str, tmp_path: Path) -> None:
    """The same as the table without those rows; how many there are, and of which status, is said."""
    whole = opened(runs(word), tmp_path)
    without = opened(runs(word)[lambda frame: frame["status"] == "done"], tmp_path, "without.csv")
    asked = questions_tables(whole)
    for question, printed in questions_tables(without).items():
        rows = asked[question].frame
        assert rows.iloc[-1]["quantity"] == "runs left out"
        assert rows.iloc[-1]["note"] == f"3 {word or 'without status'}"
        pd.testing.assert_frame_equal(rows.iloc[:-1], printed.frame, check_dtype=False)
    first, *others = (s.text for s in summary(whole, asked))
    assert first.startswith(f"15 of 18 runs are finished (3 {word or 'without status'});")
    assert others == [s.text for s in summary(without, questions_tables(without))][1:]
    cells = cells_table(whole).frame.set_index("key")
    left = cells_table(without).frame.set_index("key")
    pd.testing.assert_frame_equal(cells.loc[left.index, ["accuracy", "done"]], left[["accuracy", "done"]])
    assert cells.drop(left.index)["accuracy"].isna().all()
    assert (
        whole.runs.loc[whole.runs["status"] != "done", "retention_cifar100"].isna().all()
    )  # not drawn either


@pytest.mark.parametrize("word", ["finished", "FINISHED", "completed", " Success"])
def test_other_words_for_done_count(word: str, tmp_path: Path) -> None:
    assert opened(runs().replace({"status": {"done": word}}), tmp_path).ends == {"done": 15, "crashed": 3}


def test_where_no_run_counts_the_words_that_would_are_named(tmp_path: Path) -> None:
    tables = opened(runs().assign(status="ok"), tmp_path)
    assert tables.notes == ("no run counts; those do whose status is done, finished, completed or success",)
    (sentence,) = summary(tables, questions_tables(tables))
    assert sentence.text.startswith("0 of 18 runs are finished (18 ok)")


def test_the_command_and_the_page_say_what_was_read_differently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "FIGURES", {})
    runs("KILLED", 0.01).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(SystemExit) as ended:
        main(["report", "--from", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "out")])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    page = " ".join((tmp_path / "out" / "index.html").read_text(encoding="utf-8").split())
    for text in ("column accuracy was given as fractions", "15 of 18 runs are finished (3 KILLED)"):
        assert text in said
        assert text in page


def test_a_table_without_a_status_is_one_of_finished_runs(tmp_path: Path) -> None:
    assert opened(runs().drop(columns="status"), tmp_path).ends == {"done": 18}


def test_fractions_are_converted_with_a_note(tmp_path: Path) -> None:
    """To the same numbers, column by column; what is not finished decides nothing."""
    given = opened(runs(size=0.01), tmp_path)
    wanted = opened(runs(), tmp_path, "percent.csv")
    for column in ("accuracy", "retention_cifar100"):
        assert given.prepared[column].to_numpy() == pytest.approx(wanted.prepared[column].to_numpy())
    assert [note.split(" was")[0] for note in given.notes] == ["column accuracy", "column retention_cifar100"]
    assert wanted.notes == ()


def test_percent_signs_are_read(tmp_path: Path) -> None:
    """Also below one percent, which without the sign is taken for a fraction."""
    frame = runs().assign(accuracy="0.9%")
    tables = opened(frame, tmp_path)
    assert set(tables.prepared["accuracy"]) == {0.9}
    assert tables.notes == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accuracy": "63,7"}, "line 2, column accuracy: 63,7 is no number"),
        (
            {"accuracy": ["63.7%"] * 17 + ["0.6"]},
            "column accuracy: some values have a % sign and some have none",
        ),
        ({"accuracy": True}, "line 2, column accuracy: True is no number"),
        ({"accuracy": 6370.0}, "line 2, column accuracy: 6370 is no percentage"),
        ({"accuracy": -1.0}, "line 2, column accuracy: -1 is no percentage"),
        (
            {"retention_cifar100": [0.9, 1.2] * 9},
            "column retention_cifar100: 0.9 to 1.2 may be fractions or perc",
        ),
        ({"State": "finished"}, "columns status and State may both be the status; leave one"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultsError, match=said):
        opened(runs("done").assign(**changes), tmp_path)


def test_low_values_beside_high_ones_are_named(tmp_path: Path) -> None:
    tables = opened(runs("done").assign(accuracy=[0.6, *[60.0] * 17]), tmp_path)
    assert tables.notes == ("column accuracy: 1 of 18 values lie between 0 and 1; all were taken as percent",)


def test_names_that_trackers_give_are_read(tmp_path: Path) -> None:
    """W&B's ``State``, MLflow's ``params.`` and ``metrics.``, in capitals; each is said."""
    names = {
        "status": "State",
        "learning_rate": "params.lr",
        "accuracy": "metrics.test_acc",
        "target": "Dataset",
    }
    tables = opened(runs().rename(columns=names), tmp_path)
    assert tables.ends == {"done": 15, "crashed": 3}
    assert tables.prepared["accuracy"].notna().all()
    assert tables.notes == (
        "column metrics.test_acc was read as accuracy", "column params.lr was read as learning_rate",
        "column State was read as status", "column Dataset was read as target",
    )  # fmt: skip


def test_names_of_runs_that_repeat_are_told_apart(tmp_path: Path) -> None:
    both = pd.concat([runs().assign(backbone=f"org/model-patch{size}") for size in (16, 32)])
    tables = opened(both, tmp_path)
    assert tables.notes == ("36 runs share their names and were told apart by backbone",)
    assert tables.runs["run"].is_unique
    assert tables.prepared["place"].nunique() == 2


def test_semicolons_decimal_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    tables = opened(runs(), tmp_path, sep=";", decimal=",", encoding="utf-8-sig")
    pd.testing.assert_frame_equal(tables.prepared, opened(runs(), tmp_path, "plain.csv").prepared)
