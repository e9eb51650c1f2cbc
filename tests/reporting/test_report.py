"""A report from records alone: complete, traceable, and unbroken whatever is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from clipdrift.figures.registry import FIGURES
from clipdrift.pages.study import Shown
from clipdrift.reporting import Report, drawing, report
from clipdrift.reporting.printed import KEY
from clipdrift.reporting.tables import cells_table, questions_tables, runs_table
from clipdrift.runs.store import RunFolder
from clipdrift.study.plan import QUESTIONS
from clipdrift.study.tables import ResultsError, Tables
from few_draws import few_draws
from generated import generated_study
from page_reading import Element, Page


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    with few_draws():
        yield


@pytest.fixture(scope="module")
def page(reported: Report) -> Page:
    return Page.of(reported.page.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and have tests of their own."""
    shown = {n: Shown(n, e.title, e.text, None, "not asked for") for n, e in FIGURES.items()}
    monkeypatch.setattr(drawing.Drawing, "finish", lambda self, progress: (shown, []))


def sheets(found: Report) -> dict[str, pd.DataFrame]:
    """The CSV files, each row under its key, all as text."""
    files = [path for path in found.tables if path.suffix == ".csv"]
    return {f.name: pd.read_csv(f, dtype=str, keep_default_na=False).set_index(KEY) for f in files}


def agrees(text: str, value: str) -> bool:
    """Whether a printed text is this value, rounded; words must be the same but for underscores."""
    try:
        number = float(value)
    except ValueError:
        return text.replace("_", " ") == value.replace("_", " ")
    plain = text.replace("−", "-").replace(",", "").removesuffix(" %").lstrip("+")
    if plain.startswith("< "):
        return number < float(plain.removeprefix("< "))
    digits, _, power = plain.lower().partition("e")
    places = len(digits.partition(".")[2])
    return abs(float(plain) - number) <= 0.51 * 10.0 ** (int(power or 0) - places)


# --- every number is somebody's


def test_every_number_outside_tables_is_the_cell_that_it_names(page: Page, reported: Report) -> None:
    """``data-key`` is resolved in the CSV files; the sign of a mean difference is said in words."""
    tables, seen = sheets(reported), 0
    for element in page.elements:
        if not element["data-key"]:
            continue
        sheet, rest = element["data-key"].split(":", 1)
        key, column = rest.rsplit("/", 1)
        row = tables[sheet].loc[unquote(key)]
        value = row[column]
        if row.get("quantity") == "mean difference":
            value = value.removeprefix("-")
        assert agrees(element.text, value), (element["data-key"], element.text, value)
        seen += 1
    assert seen > 30


def test_every_cell_of_every_table_is_its_row_and_column(page: Page, reported: Report) -> None:
    """``data-row`` and the heading's ``data-column`` are resolved in the CSV files."""
    records = {name: sheet.to_dict("index") for name, sheet in sheets(reported).items()}
    inside: dict[int, list[Element]] = {}
    for element in page.elements:
        if element.inside:
            inside.setdefault(id(element.inside[-1]), []).append(element)
    seen, names = 0, list[str]()
    for row in (e for e in page.elements if e.tag == "tr"):
        if not row["data-row"]:
            names = [e["data-column"] for e in inside[id(row)]]
            continue
        sheet, key = row["data-row"].split(":", 1)
        record = records[sheet][unquote(key)]
        for name, cell in zip(names, inside[id(row)], strict=True):
            text = cell.text
            for part in (e for e in inside.get(id(cell), []) if e["data-column"]):
                assert agrees(part.text.removeprefix("± "), record[part["data-column"]])
                text = text.removesuffix(part.text).strip()
            if text:
                assert agrees(text, record[name]), (row["data-row"], name, text, record[name])
                seen += 1
    assert seen > 3000


def test_tables_hold_the_means_of_the_runs(study: Path) -> None:
    """Oracle: pandas on the runs themselves; the diverged run is in no mean."""
    tables = Tables.of(study)
    cells, runs = cells_table(tables).frame, tables.runs
    for row in cells.to_dict("records"):
        same = (runs["place"] == row["place"]) & (runs["variant"] == row["variant"])
        own = runs[same & (runs["learning_rate"] == row["learning_rate"]) & (runs["status"] == "done")]
        assert row["done"] == len(own)
        if len(own):
            assert row["accuracy"] == pytest.approx(own["accuracy"].mean())
        if len(own) > 1:
            assert row["retention_cifar100_sd"] == pytest.approx(own["retention_cifar100"].std(ddof=1))
    assert cells["done"].sum() == (runs["status"] == "done").sum() == len(runs) - 1


# --- the page


def test_the_page_stands_alone_and_is_sound(page: Page, reported: Report) -> None:
    """No tag out of place, no id twice, nothing loaded from anywhere, every link leads somewhere."""
    assert page.errors == []
    ids = [e["id"] for e in page.elements if e["id"]]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        source = element["src"] or ""
        assert source == "" or source.startswith("data:image/")
        assert element.tag not in ("iframe", "object", "embed")
        if element.tag == "a" and element["href"].startswith("#"):
            assert element["href"][1:] in ids
    text = reported.page.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_every_figure_is_shown_or_says_why(page: Page, reported: Report) -> None:
    drawn = {e["data-figure"] for e in page.elements if e["data-figure"]}
    undrawn = {e["data-undrawn"] for e in page.elements if e["data-undrawn"]}
    assert drawn == {"matched_rates", "frontier", "attention"}
    assert undrawn == set(reported.undrawn) == {"interpolation"}
    assert all((reported.page.parent / "figures" / f"{name}.png").is_file() for name in drawn)


def test_the_page_says_that_records_were_generated(page: Page) -> None:
    assert "generated" in page.id("notes").text


def test_a_name_cannot_become_markup(tmp_path: Path, undrawn: None) -> None:
    """From a table made elsewhere anything may come."""
    evil = "<script>alert(1)</script>"
    frame = pd.DataFrame(
        {"target": [evil] * 4, "method": ["lora", "a & b"] * 2, "learning_rate": [1e-5, 1e-5, 1e-4, 1e-4]}
    )
    frame.assign(accuracy=[1.0, 2.0, 3.0, 4.0], run=[f"{evil}{i}" for i in range(4)]).to_csv(
        tmp_path / "runs.csv", index=False
    )
    found = report(tmp_path / "runs.csv")
    text = found.page.read_text(encoding="utf-8")
    assert evil not in text
    assert Page.of(text).errors == []


# --- files


def test_tables_come_as_csv_markdown_and_latex(reported: Report) -> None:
    """LaTeX has booktabs' rules and nothing unescaped; Markdown as many lines as the table has rows."""
    names = {path.stem for path in reported.tables}
    rest = {"cells", "runs", "published", "history", "blocks", "advice"}
    assert {*rest, *(f"tests_{q}" for q in QUESTIONS)} == names
    for table in ("cells", "runs", "tests_methods", "tests_depth", "published"):
        folder = reported.page.parent / "tables"
        rows = len(pd.read_csv(folder / f"{table}.csv"))
        latex = (folder / f"{table}.tex").read_text(encoding="utf-8")
        body = [line for line in latex.splitlines() if line.endswith(r"\\")]
        assert len(body) == rows + 1
        assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
        columns = body[0].count("&")
        assert all(line.replace(r"\&", "").count("&") == columns for line in body)
        assert not [line for line in body if "_" in line.replace(r"\_", "") or "%" in line.replace(r"\%", "")]
        markdown = (folder / f"{table}.md").read_text(encoding="utf-8")
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        assert len(lines) == rows + 2
        assert {line.replace(r"\|", "").count("|") for line in lines} == {columns + 2}  # |drift| is a name


def test_figures_come_in_the_formats_asked_for(
    little: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "FIGURES", {"matched_rates": FIGURES["matched_rates"]})
    found = report(little, tmp_path, formats=("pdf", "svg"))
    assert {path.name for path in found.figures} == {
        f"matched_rates.{kind}" for kind in ("png", "pdf", "svg")
    }


# --- whatever is missing


def test_removing_any_run_breaks_nothing(little: Path, tmp_path: Path, undrawn: None) -> None:
    """A study half done is reported as far as it goes."""
    runs = [path for path in sorted(little.iterdir()) if path.is_dir()]
    assert len(runs) == 4
    for missing in runs[:2]:  # all 80 of the matched study in the slow test below
        moved = missing.rename(tmp_path / "aside")
        text = report(little).page.read_text(encoding="utf-8")
        assert Page.of(text).errors == []
        assert "3 of 4 runs are finished (1 planned)" in text
        moved.rename(missing)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_removing_any_run_of_the_matched_study_breaks_nothing(tmp_path: Path, undrawn: None) -> None:
    """All 80, one at a time."""
    generated_study(tmp_path / "whole", epochs=2)
    for missing in [path for path in sorted((tmp_path / "whole").iterdir()) if path.is_dir()]:
        if missing.name == "report":
            continue
        moved = missing.rename(tmp_path / "aside")
        assert Page.of(report(tmp_path / "whole").page.read_text(encoding="utf-8")).errors == []
        moved.rename(missing)


def test_one_run_alone_is_reported(tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures too: each is drawn or says why not."""
    some = ("matched_rates", "predictors", "statistics", "penalties", "frontier")
    monkeypatch.setattr(drawing, "FIGURES", {name: FIGURES[name] for name in some})
    first = next(p for p in sorted(study.iterdir()) if RunFolder(p).state().kind == "done")
    shutil.copytree(first, tmp_path / first.name)
    found = report(tmp_path)
    assert found.sentences[0] == "The only run is finished."
    assert {"penalties"} <= set(found.undrawn) < set(some)
    assert all("\n" not in reason for reason in found.undrawn.values())


def test_a_table_made_elsewhere_is_reported(tmp_path: Path, undrawn: None) -> None:
    """Needed columns and three more; questions that need others say so."""
    rows = [
        {
            "target": "birds",
            "method": m,
            "learning_rate": r,
            "seed": s,
            "accuracy": 80 + 5 * (m == "lora") + s,
        }
        for m in ("full_ft", "lora")
        for r in (1e-5, 1e-4)
        for s in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    found = report(tmp_path / "mine.csv")
    assert found.page == tmp_path / "mine-report" / "index.html"
    tests = pd.read_csv(found.page.parent / "tables" / "tests_predictors.csv")
    assert tests["value"].isna().all()
    assert tests["note"].str.contains("no").all()
    assert "made elsewhere" in Page.of(found.page.read_text(encoding="utf-8")).id("notes").text
    methods = pd.read_csv(found.page.parent / "tables" / "tests_methods.csv")
    assert methods["value"].notna().any()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no table of runs"),
        ("a,b\n1,2\n", "no column target"),
        ("target,method,learning_rate\n", "no run in this table"),
        ("target,method,learning_rate\na,b,fast\n", "column learning_rate: fast is no learning rate"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ResultsError, match=said) as caught:
        report(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no finished run"):
        report(tmp_path)


def test_a_damaged_record_is_named_on_the_page(little: Path, undrawn: None) -> None:
    record = next(little.glob("*/record.json"))
    record.write_text(record.read_text()[:500])
    notes = Page.of(report(little).page.read_text(encoding="utf-8")).id("notes").text
    assert record.parent.name in notes
    assert "damaged" in notes


def test_what_is_printed_of_a_run_is_its_record(study: Path) -> None:
    """From record.json by hand to the printed table."""
    printed = runs_table(Tables.of(study))
    texts = printed.texts().set_index("run")
    for file in sorted(study.glob("*/record.json"))[:5]:
        record = json.loads(file.read_text())
        if record["status"] == "done":
            row = texts.loc[record["key"]]
            assert row["accuracy, %"] == f"{record['best']['test_accuracy']:.1f}"
            assert row["kept of cifar100, %"] == f"{record['best']['transfer']['cifar100']['retention']:.1f}"


def test_keys_name_one_row_each(tables: Tables) -> None:
    for printed in (cells_table(tables), runs_table(tables), *questions_tables(tables).values()):
        assert printed.frame[KEY].is_unique
        assert printed.frame.columns[0] == KEY


def test_a_report_loads_no_torch(little: Path, tmp_path: Path) -> None:
    """So that it runs anywhere, and starts at once."""
    code = (
        "import sys; from clipdrift.analysis.draws import Draws;"
        "from clipdrift.reporting import drawing, report;"
        "Draws.__init__.__defaults__ = (99, 50);"
        "drawing.FIGURES = {'matched_rates': drawing.FIGURES['matched_rates']};"
        f"report({str(little)!r}, {str(tmp_path)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
