"""The fourteen findings, over generated studies: every number from a row, verdicts either way."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipdrift.replication import ClaimsError, Finding, replicate
from clipdrift.replication.page import overview, rows_of, sentence, sources
from clipdrift.study.tables import Tables
from few_draws import few_draws
from generated import generated_study

RATES, SEEDS = (1e-6, 1e-5, 5e-5, 2e-4), (7, 11, 19)


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    with few_draws():
        yield


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("claims")
    generated_study(folder, rates=RATES, seeds=SEEDS, extras=True, epochs=4, per_epoch=2, blocks=6)
    return Tables.of(folder)


@pytest.fixture(scope="module")
def found(tables: Tables) -> dict[int, Finding]:
    return {finding.number: finding for finding in replicate(tables)}


def test_all_fourteen_are_judged_by_rows_that_exist(found: dict[int, Finding]) -> None:
    assert list(found) == list(range(1, 15))
    for finding in found.values():
        assert finding.checks, finding.claim
        for check in (*finding.checks, *finding.shown):
            assert check.source.row is not None, (finding.number, check)
            assert check.tested is None or check.tested.row is not None, (finding.number, check)


def test_every_number_is_that_of_the_named_row(tables: Tables, found: dict[int, Finding]) -> None:
    """Looked up once more by a reader who has the names alone."""
    runs = tables.runs
    swept = runs.groupby("variant")["learning_rate"].transform("nunique") > 1
    parts = {"study": tables, "sweep": tables.keep(runs.loc[swept, "run"])}
    listed = rows_of(found.values())
    for row in listed.itertuples():
        answer = parts[row.part].rows(row.question)
        one = answer[
            (answer["group"] == row.group)
            & (answer["statistic"] == row.statistic)
            & (answer["test"] == row.test)
        ]
        assert len(one) == 1, row
        np.testing.assert_equal(
            [row.value, row.low, row.high, row.p_corrected],
            one[["value", "low", "high", "p_corrected"]].to_numpy(dtype=float)[0],
        )
        assert (row.n, row.unit) == (one["n"].iloc[0], one["unit"].iloc[0])


def test_cell_means_are_those_of_the_runs(tables: Tables, found: dict[int, Finding]) -> None:
    runs = tables.runs
    for check, rate in zip(found[3].checks, RATES, strict=True):
        cell = runs[
            (runs["target"] == "eurosat") & (runs["variant"] == "lora") & (runs["learning_rate"] == rate)
        ]["entropy_drift"]
        low, high = stats.t.interval(0.95, len(cell) - 1, cell.mean(), stats.sem(cell))
        assert [check.source.number(c) for c in ("value", "low", "high")] == pytest.approx(
            [cell.mean(), low, high]
        )


def test_the_mean_difference_is_that_of_pairs(tables: Tables, found: dict[int, Finding]) -> None:
    runs = tables.runs[tables.runs["target"] == "pets"]
    kept = runs.pivot_table(index=["learning_rate", "seed"], columns="variant", values="retention_cifar100")
    apart = kept["full_ft"] - kept["lora"]
    check = next(c for c in found[4].checks if c.of == "pets, matched rate")
    assert check.source.number("value") == pytest.approx(apart.mean())
    assert check.tested is not None
    assert check.tested.number("p_corrected") >= stats.ttest_1samp(apart, 0).pvalue
    assert check.source.row is not None
    assert check.source.row["n"] == str(len(RATES) * len(SEEDS))


def test_published_numbers_are_those_of_the_tables(found: dict[int, Finding]) -> None:
    assert "−1.00, p = 0.0167, n = 5" in found[1].published
    assert "+1.83, +0.41, −0.12, −3.99" in found[2].published
    assert "0.752" in found[12].published  # over 12 blocks, not the 0.694 that a false 0 pulled down
    assert "0.883" in found[12].published
    assert "12.71" not in found[10].published
    assert "40.51, 47.28, 39.35" in found[10].published  # with adapters, not the withdrawn 60.22


def test_the_generated_study_is_as_it_was_made(found: dict[int, Finding]) -> None:
    """LoRA moves less, late blocks move most: the made-up phenomenon has these built in."""
    assert found[7].verdict == "holds"
    assert found[4].checks[0].side == "for"
    assert [c.side for c in found[12].checks[:2]] == ["for", "for"]


def test_the_opposite_numbers_give_the_opposite_verdict(tables: Tables, found: dict[int, Finding]) -> None:
    """On the sweep alone, which is all that these findings are of."""
    runs = tables.runs[tables.runs["variant"].isin(["full_ft", "lora"])].reset_index(drop=True)
    runs["entropy_drift"] *= -1
    after = {finding.number: finding for finding in replicate(Tables(runs))}
    opposite = {"for": "against", "against": "for", "open": "open"}
    for number in (2, 3):
        sides = [check.side for check in found[number].checks]
        assert set(sides) - {"open"}
        assert [check.side for check in after[number].checks] == [opposite[side] for side in sides]
    assert "against" not in {check.side for check in found[1].checks}
    assert {check.side for check in after[1].checks} == {"against"}


def test_of_half_a_study_the_rest_cannot_be_told(tables: Tables) -> None:
    only = tables.runs[(tables.runs["variant"] == "full_ft") & (tables.runs["target"] == "eurosat")]
    found = {finding.number: finding for finding in replicate(Tables(only.reset_index(drop=True)))}
    assert list(found) == list(range(1, 15))
    for number in (3, 4, 5):
        assert found[number].verdict == "cannot be told", number
    for number in (9, 10, 11):  # of options, which no run has
        assert not found[number].checks, number
        assert found[number].verdict == "cannot be told", number
    for finding, line in zip(found.values(), _rows(found.values()), strict=True):
        here = line.split(" | ")[3]
        if not finding.checks:
            assert here == "no such runs"
            continue
        for check, told in zip(finding.checks, here.split("<br>"), strict=True):
            if math.isnan(check.source.number("value")):
                assert told == f"{check.of}: no such runs"
            else:
                assert told == sentence(check).replace("|", "\\|")
                assert re.search(r"\d", told.removeprefix(check.of)), told


def test_options_and_penalties_are_judged_by_what_their_runs_did(tables: Tables) -> None:
    """Findings 9 to 11, with entropy and accuracy set by hand, each way round."""
    runs = tables.runs[(tables.runs["target"] == "eurosat") & (tables.runs["learning_rate"] == 1e-5)].copy()
    usual = runs["variant"].isin(["full_ft", "lora"])
    noise = runs["seed"].map(dict(zip(SEEDS, (0.0, 0.02, -0.02), strict=True)))
    extra = ~usual
    penalised, frozen = extra & runs["penalty"].notna(), extra & (runs["frozen_blocks"] > 0)
    ranks = extra & (runs["method"] == "lora") & runs["rank"].isin([4, 16]) & (runs["matrices"] == "q+v")
    wide = extra & (runs["matrices"] == "q+k+v+out")
    assert min(part.sum() for part in (usual, penalised, frozen, ranks, wide)) > 0

    def judged(
        lift: float, cost: float, by_rank: float, by_width: float, freeze: float
    ) -> dict[int, Finding]:
        made = runs.copy()
        made[["entropy_drift", "accuracy"]] = (-5.0, 80.0)
        made.loc[penalised, "entropy_drift"] += lift
        made.loc[penalised, "accuracy"] += cost
        made.loc[ranks, "entropy_drift"] += by_rank * np.sign(8 - runs.loc[ranks, "rank"])
        made.loc[wide, "entropy_drift"] += by_width
        made.loc[frozen, ["entropy_drift", "accuracy"]] += freeze
        made.loc[extra, "entropy_drift"] += noise[extra]
        made.loc[extra, "accuracy"] += noise[extra]
        return {finding.number: finding for finding in replicate(Tables(made.reset_index(drop=True)))}

    def sides(finding: Finding, words: str) -> set[str]:
        found: set[str] = {check.side for check in finding.checks if words in check.of}
        assert found, (finding.number, words)
        return found

    published = judged(lift=2, cost=0, by_rank=1, by_width=0, freeze=0)
    assert sides(published[9], ", entropy") == sides(published[9], ", accuracy") == {"for"}
    assert published[10].verdict == published[11].verdict == "holds"

    reverse = judged(lift=-2, cost=-5, by_rank=-1, by_width=3, freeze=-4)
    assert sides(reverse[9], ", entropy") == sides(reverse[9], ", accuracy") == {"against"}
    assert reverse[10].verdict == reverse[11].verdict == "does not hold"


def _rows(found: object) -> list[str]:
    return overview(list(found)).splitlines()[2:]  # type: ignore[call-overload]


def test_the_page_has_a_row_for_each(found: dict[int, Finding]) -> None:
    lines = _rows(found.values())
    assert len(lines) == 14
    for line, finding in zip(lines, found.values(), strict=True):
        assert line.endswith(f"| **{finding.verdict}** |")
        assert len(line.replace("\\|", "").split("|")) == 7
    text = sources(list(found.values()))
    assert text.count("### ") == 14
    for finding in found.values():
        assert finding.rule in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": ["a", "b"]}, "several backbones"),
        ({"retention_cifar100": None}, "no retention"),
    ],
)
def test_studies_that_cannot_be_judged(tables: Tables, change: dict[str, object], message: str) -> None:
    runs = tables.runs.copy()
    for name, value in change.items():
        if value is None:
            runs = runs.drop(columns=[c for c in runs if str(c).endswith(name)])
        else:
            runs[name] = np.resize(np.array(value, dtype=object), len(runs))
    with pytest.raises(ClaimsError, match=message):
        replicate(Tables(pd.DataFrame(runs)))


def test_a_target_that_no_run_has(tables: Tables) -> None:
    with pytest.raises(ClaimsError, match="no run has the target birds; there are eurosat, pets"):
        replicate(tables, fine="birds")


def test_the_command_with_targets_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clipdrift.cli import main

    generated_study(tmp_path / "study", rates=RATES[1:], seeds=(7, 11), epochs=2)
    out, csv = tmp_path / "found.md", tmp_path / "found.csv"
    places = ["--land-use", "pets", "--fine", "eurosat"]
    with pytest.raises(SystemExit) as end:
        main(["replicate", str(tmp_path / "study"), *places, "--out", str(out), "--csv", str(csv)])
    assert not end.value.code
    printed = capsys.readouterr().out
    assert out.read_text().count("### ") == 14
    rows = pd.read_csv(csv)
    verdicts = rows.drop_duplicates("finding").set_index("finding")["verdict"]
    listed = re.findall(
        r"\*\*(holds|holds in part|does not hold|cannot be told)\*\* \|$", out.read_text(), re.M
    )
    assert len(listed) == 14
    for number, verdict in enumerate(listed, 1):
        assert verdicts.get(number, "cannot be told") == verdict
    words = " ".join(re.sub(r"[^a-z ]", " ", printed).split())  # of a table whose cells are broken into lines
    assert words.count("cannot") >= listed.count("cannot be told") > 0
    assert set(rows["finding"]) == set(range(1, 15)) - {9, 10, 11}  # of options, which no run has
    assert rows.loc[rows["finding"] == 3, "group"].str.startswith("pets").all()
    assert rows.loc[rows["finding"] == 5, "group"].str.contains("eurosat").all()
