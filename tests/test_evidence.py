"""Committed records and the pages made from them: what is printed is what the records say."""

from __future__ import annotations

import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipdrift.runs.layout import RECORD
from clipdrift.study.folder import read_manifest
from clipdrift.study.plan import load_study
from clipdrift.study.tables import Tables
from few_draws import few_draws
from generated import generated_study

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "evidence" / "photographs"


@pytest.fixture(scope="module")
def evidence() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    import evidence as tool

    yield tool
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "study"
    generated_study(folder, rates=(1e-6, 5e-5), seeds=(7, 11), epochs=2, missing=1)
    return folder


def test_records_come_back_as_they_went(evidence: ModuleType, made: Path, tmp_path: Path) -> None:
    """Packed once each, byte for byte, with all that `status`, `report` and `study run` read beside them."""
    packed, back = tmp_path / "packed", tmp_path / "back"
    assert evidence.pack(made, packed) == 15
    assert evidence.pack(made, packed) == 0
    assert evidence.unpack(packed, back) == 15
    assert evidence.unpack(packed, back) == 0
    for key in read_manifest(made).keys[:-1]:
        assert (made / key / RECORD).read_bytes() == (back / key / RECORD).read_bytes()
    assert Tables.of(back).ends == Tables.of(made).ends == {"done": 15, "planned": 1}
    pd.testing.assert_frame_equal(Tables.of(back).runs, Tables.of(made).runs)
    sizes = [f.stat().st_size for f in packed.glob("*.xz")]
    assert max(sizes) < 0.3 * (made / key / RECORD).stat().st_size


def test_a_damaged_record_is_named_and_not_put_back(evidence: ModuleType, made: Path, tmp_path: Path) -> None:
    """The others are kept; the study would do this run again, not read half of it."""
    packed, back = tmp_path / "packed", tmp_path / "back"
    evidence.pack(made, packed)
    broken = sorted(packed.glob("*.xz"))[-1]
    for content in (broken.read_bytes()[:300], lzma.compress(b'{"half": ')):
        broken.write_bytes(content)
        with pytest.raises(SystemExit, match=f"{broken.name}: damaged .*remove it"):
            evidence.unpack(packed, back)
        assert len(list(back.glob(f"*/{RECORD}"))) == 14
    broken.unlink()
    assert evidence.unpack(packed, back) == 0


def test_pages_are_written_between_their_markers(
    evidence: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    evidence.pack(made, packed)
    for name in ("PAGE", "README", "REPORT"):
        page = tmp_path / f"{name}.md"
        page.write_text(f"before\n{evidence.START}\nstale words\n{evidence.END}\nafter\n")
        monkeypatch.setattr(evidence, name, page)
    monkeypatch.setattr(evidence, "NUMBERS", tmp_path / "numbers.csv")
    monkeypatch.setattr(evidence, "PICTURES", tmp_path)
    monkeypatch.setattr(evidence, "FIGURES", ("frontier", "penalties"))
    done = {"page": "x", "sentences": ("Something was found.",)}
    monkeypatch.setattr(evidence, "report", lambda study, out: type("Done", (), done))
    with few_draws():
        evidence.write_pages(packed)
    page, readme, short = ((tmp_path / f"{name}.md").read_text() for name in ("PAGE", "README", "REPORT"))  # type: ignore[assignment]
    for made in (page, readme, short):  # type: ignore[assignment]
        assert made.startswith("before\n")  # type: ignore[attr-defined]
        assert made.endswith("\nafter\n")  # type: ignore[attr-defined]
        assert "stale words" not in made  # type: ignore[operator]
    assert page.count("\n### ") == 14  # type: ignore[attr-defined]
    assert "lora" in readme
    assert "- Something was found." in short
    assert "images/photographs_frontier.png" in short
    assert "not drawn; no run has a penalty." in short
    assert len(pd.read_csv(tmp_path / "numbers.csv")) > 20
    assert (tmp_path / "photographs_frontier.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", ["no marks", "<a> open", "<b> turned round <a>", "<a> x <b> <a> y <b>"])
def test_a_page_without_its_marks_is_not_written(evidence: ModuleType, page: str) -> None:
    """Else the rest of the page would be lost, or the text stand at its end."""
    assert evidence.between("x <a> old <b> y", "<a>", "<b>", "new") == "x <a>\nnew\n<b> y"
    with pytest.raises(ValueError, match="once each and in this order"):
        evidence.between(page, "<a>", "<b>", "new")


def test_without_records_nothing_is_written(evidence: ModuleType, tmp_path: Path) -> None:
    """One line that names the folder, not a traceback about a temporary one."""
    with pytest.raises(SystemExit, match=r"nowhere: no packed records here; `make evidence"):
        evidence.write_pages(tmp_path / "nowhere")


needs_records = pytest.mark.skipif(not EVIDENCE.is_dir(), reason="no records in evidence/photographs")


@pytest.fixture(scope="module")
def runs(evidence: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("evidence") / "photographs"
    evidence.unpack(EVIDENCE, folder)
    return Tables.of(folder).runs


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return pd.read_csv(ROOT / "docs" / "evidence.csv", keep_default_na=False, na_values=[""])


@needs_records
def test_the_records_are_of_the_study_as_it_is_planned(runs: pd.DataFrame) -> None:
    """Trained, not generated; every planned run once; no folder of any machine in them."""
    study = load_study("photographs")
    assert len(study.runs) == 198
    assert len(runs) == runs["run"].nunique()
    cells = {
        (r.config.data.target.name, r.config.method.name, r.config.optim.learning_rate) for r in study.runs
    }
    assert set(zip(runs["target"], runs["method"], runs["learning_rate"], strict=True)) <= cells
    assert set(runs["backbone"]) == {"clipdrift/mini-photo"}
    assert set(runs["protocol"]) == {"strict"}
    done = (runs["status"] == "done").sum()
    assert f"\n{done} of 198 runs are finished" in (ROOT / "docs" / "evidence.md").read_text()


@needs_records
def test_the_page_prints_the_numbers_of_its_table(numbers: pd.DataFrame) -> None:
    """Every row of docs/evidence.csv that the page shows stands there with its number."""
    from clipdrift.texts import number

    page = (ROOT / "docs" / "evidence.md").read_text()
    for finding, part in numbers.groupby("finding"):
        section = page.split(f"\n### {finding}. ")[1].split("\n### ")[0]
        shown = part[~part["test"].isin(["paired t", "Welch t"])].dropna(subset=["value"])
        for row in shown.itertuples():
            assert f"`{row.statistic}`".replace("|", "\\|") in section
            assert number(row.value) in section, row
        assert f"**{part['verdict'].iloc[0]}**" in page


@needs_records
def test_cell_means_and_differences_are_those_of_the_records(
    runs: pd.DataFrame, numbers: pd.DataFrame
) -> None:
    """Worked out again from the records with pandas and SciPy: value, interval, n."""
    checked = 0
    for row in numbers.dropna(subset=["value"]).itertuples():
        outcome = str(row.statistic).split(" of ")[-1]
        if row.statistic.startswith("mean of "):
            place, variant, rate = re.fullmatch(r"(.+): (.+), rate (.+)", row.group).groups()  # type: ignore[union-attr]
            cell = runs[
                (runs["target"] == place)
                & (runs["variant"] == variant)
                & np.isclose(runs["learning_rate"], float(rate))
            ]
            values = _signal(cell, outcome)
        elif row.statistic.startswith("mean difference of ") and row.group.endswith(", matched rate"):
            place, first, second = re.fullmatch(r"(.+): (.+) - (.+), matched rate", row.group).groups()  # type: ignore[union-attr]
            here = runs[runs["target"] == place]
            base = "full_ft" if second == "none" else second
            sides = [
                _signal(here[here["variant"] == name].set_index(["learning_rate", "seed"]), outcome)
                for name in (first, base)
            ]
            values = (sides[0] - sides[1]).dropna()
        else:
            continue
        assert int(row.n) == len(values)
        low = high = np.nan  # one value, or all the same: no interval
        if len(values) > 1 and np.ptp(values) > 0:
            low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        expected = pytest.approx((values.mean(), low, high), rel=1e-6, nan_ok=True)
        assert (row.value, row.low, row.high) == expected, row
        checked += 1
    assert checked >= 20


@needs_records
def test_the_readmes_table_is_that_of_the_records(evidence: ModuleType, runs: pd.DataFrame) -> None:
    """Means and deviations by pandas, as many decimals as are printed; then the dearest accuracy in words."""
    text = (ROOT / "README.md").read_text().split(evidence.START)[1].split(evidence.END)[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    lines = [[part.strip() for part in row.split("|")[1:-1]] for row in rows]
    assert [cell.split(",")[0] for cell in lines[0]] == [
        "method", "rate", "accuracy", "kept of cifar100", "CKA", "entropy drift",
    ]  # fmt: skip
    assert len(lines) == 2 + 10
    land = runs[runs["target"] == "land-use-7"].groupby(["variant", "learning_rate"])
    for variant, rate, *printed in lines[2:]:
        cell = land.get_group((variant, float(rate)))
        for name, both in zip(
            ("accuracy", "retention_cifar100", "cka", "entropy_drift"), printed, strict=True
        ):
            mean, spread = both.replace(" %", "").replace("−", "-").split(" ± ")
            for value, one in ((cell[name].mean(), mean), (cell[name].std(ddof=1), spread)):
                half = 0.51 * 10.0 ** -len(one.partition(".")[2])
                assert float(one) == pytest.approx(value, abs=half), (variant, rate, both)
    for variant in ("full_ft", "lora"):
        means = runs[(runs["target"] == "land-use-7") & (runs["variant"] == variant)]
        means = means.groupby("learning_rate")[["accuracy", "retention_cifar100"]].mean()
        rate = means["accuracy"].idxmax()
        accuracy, kept = means.loc[rate]
        found = re.search(rf"{variant} ([\d.]+) % at (\S+), with ([\d.]+) % kept", text)
        assert found
        assert [float(part) for part in found.groups()] == pytest.approx([accuracy, rate, kept], abs=0.051)
        assert float(found[2]) == rate


@needs_records
def test_the_readmes_verdicts_are_those_of_the_page(evidence: ModuleType) -> None:
    text = (ROOT / "README.md").read_text().split(evidence.START)[1].split(evidence.END)[0]
    page = (ROOT / "docs" / "evidence.md").read_text()
    verdicts = dict(re.findall(r"^\| (\d+) \|.*\| \*\*(.+)\*\* \|$", page, flags=re.MULTILINE))
    said = re.findall(r"(\d+) ([a-z ]+) \(([\d, ]+)\)", text)
    assert len(verdicts) == 14
    several = {"holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold"}
    expected = {number: several.get(name, name) for number, name in verdicts.items()}
    assert {number: name for _, name, which in said for number in which.split(", ")} == expected
    assert all(int(count) == len(which.split(", ")) for count, _, which in said)


def _signal(runs: pd.DataFrame, name: str) -> pd.Series:
    return 1 - runs["cka"] if name == "representation_drift" else runs[name]


@needs_records
def test_the_correlations_over_cells_are_those_of_the_records(
    runs: pd.DataFrame, numbers: pd.DataFrame
) -> None:
    """Entropy with receptive field and Gini over cell means, by SciPy."""
    swept = runs.groupby(["target", "variant"])["learning_rate"].transform("nunique") > 1
    cells = runs[swept].groupby("cell")[["entropy_drift", "erf95_drift", "gini_drift"]].mean()
    for other in ("erf95_drift", "gini_drift"):
        row = numbers[numbers["statistic"] == f"Pearson of entropy_drift with {other}"].iloc[0]
        assert int(row["n"]) == len(cells)
        assert row["value"] == pytest.approx(
            stats.pearsonr(cells["entropy_drift"], cells[other])[0], rel=1e-6
        )
