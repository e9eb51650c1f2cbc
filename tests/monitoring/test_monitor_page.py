"""The page of a watched training: its words, and that its numbers are those of the log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from browser import looked_at, needs_browser
from clipdrift.figures.source import NotDrawnError
from clipdrift.figures.watched import FIGURES, blocks, curves, panels_of
from clipdrift.monitoring.course import read_course
from clipdrift.monitoring.errors import MonitorError
from clipdrift.reporting import monitoring
from clipdrift.reporting.monitoring import write_report
from clipdrift.reporting.watched_words import sentences
from clipdrift.views import view
from made_logs import made_about, made_log, made_row
from page_reading import Page, agrees


def _page(out: Path) -> Page:
    page = Page.of(write_report(out).read_text(encoding="utf-8"))
    assert page.errors == []
    return page


def _words(out: Path) -> str:
    return "\n".join(sentence.text for sentence in sentences(read_course(out)))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with both towers, a warning, a kept state, and its page."""
    out = made_log(tmp_path_factory.mktemp("logs") / "mine", texts=True, good=25, config={"lr": 1e-5})
    write_report(out)
    return out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a page, and say nothing of its words."""
    monkeypatch.setattr(monitoring, "FIGURES", {name: lambda course: Figure((1, 1)) for name in FIGURES})


def test_every_number_of_the_page_is_one_of_the_log(watched: Path) -> None:
    page = Page.of((watched / "index.html").read_text(encoding="utf-8"))
    assert page.errors == []
    rows = [json.loads(line) for line in (watched / "drift.jsonl").read_text().splitlines()]
    keyed = [element for element in page.elements if element["data-key"]]
    assert len(keyed) > 80
    for element in keyed:
        row, key = element["data-key"].removeprefix("drift.jsonl:").split("/", 1)
        assert agrees(element.text, rows[int(row) - 1][unquote(key)]), element["data-key"]
    named = {unquote(element["data-key"].split("/", 1)[1]) for element in keyed}
    assert {key for key in rows[-1] if "/" in key and "block_" not in key} <= named


def test_the_page_is_one_file_that_runs_nothing(watched: Path) -> None:
    text = (watched / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert 'http-equiv="refresh"' not in text
    assert text.count("data:image/png;base64,") == 2
    assert {file.name for file in (watched / "figures").iterdir()} == {"curves.png", "blocks.png"}
    assert "config: lr" in text
    for image in Page.of(text).all("img"):
        assert image["alt"]


def test_a_page_of_a_living_training_is_loaded_again(tmp_path: Path, undrawn: None) -> None:
    out = made_log(tmp_path / "alive", [5])
    assert '<meta http-equiv="refresh" content="7">' in write_report(out, refresh=7).read_text()


def test_the_monitor_asks_for_this_page() -> None:
    assert view("DriftMonitor.report") is write_report


def test_the_words_say_where_it_stands(watched: Path) -> None:
    lines = _words(watched).splitlines()
    before = "After step 40 the model keeps 60.0 % of the backbone's zero-shot accuracy on objects"
    assert lines[0] == f"{before} (60.0 → 36.0 %)."
    assert lines[1].startswith("CKA with the backbone is 0.800 (1: same), embedding drift 0.400")
    assert lines[2] == "Block 3 moved most (CKA 0.700), block 1 least (0.900)."
    assert lines[3].startswith("The text tower is trained too: CKA 0.920")
    assert lines[4] == "Rules warned once at step 30: drift/embedding_drift is 0.3 (yours)."
    assert "of step 25" in lines[5]
    assert "an adapter" in lines[5]
    assert lines[5].endswith("none of the 3 measurements since then was good.")


def test_rules_stand_beside_their_numbers(watched: Path) -> None:
    page = Page.of((watched / "index.html").read_text(encoding="utf-8"))
    cells = [e.text for e in page.all("td") if any(p["id"] == "rules-table" for p in e.inside)]
    assert [cells[start : start + 4] for start in range(0, len(cells), 4)] == [
        ["warn", "embedding_drift >= 0.28", "0.400", "yes"],
        ["warn", "retention < 80 %", "60.0 %", "yes"],
        ["stop", "retention/objects < 20 %", "60.0 %", "no"],
        ["reduce the rate", "a_function_of_mine", "", "a function; only the training can ask it"],
        ["keep as good", "embedding_drift < 0.28", "0.400", "no"],
    ]


def _values(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata(), dtype=float)]


def test_bounds_and_marks_are_drawn(watched: Path) -> None:
    course = read_course(watched)
    figure = curves(course)
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.axison}
    drift = axes["embedding drift, 1 − cos"]
    lines = [_values(line) for line in drift.lines]
    assert [line for line in lines if set(line) == {0.28}] == [[0.28, 0.28]] * 2  # warned of, no longer kept
    assert course.series("drift/embedding_drift") in lines
    kept = axes["zero-shot kept, %"]
    assert {80.0, 20.0, 100.0} <= {_values(line)[0] for line in kept.lines}
    heat = blocks(course).axes[0].images[0].get_array()
    assert heat.shape == (3, 8)
    assert heat[2, 7] == course.last["drift/cka/block_3"]


def test_a_bound_on_anything_else_gets_a_panel(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine")
    about = made_about()
    about["rules"] = {"warn_when": ["cka/block_2 < 0.9", "entropy < 2"]}
    (out / "monitor.json").write_text(json.dumps(about))
    titles = [panel.title for panel in panels_of(read_course(out))]
    assert set(titles[-2:]) == {"entropy, nats", "CKA (1: same), block 2"}


@pytest.mark.parametrize("texts", [False, True])
def test_one_row_is_enough(tmp_path: Path, texts: bool) -> None:
    page = _page(made_log(tmp_path / "one", [5], texts=texts))
    assert "1 measurement at step 5" in page.elements[0].text
    assert "Nothing so far." in page.id("said").text
    assert "No state was kept, as none was good by the rules." in page.id("summary").text


def test_without_transfer_sets(tmp_path: Path) -> None:
    out = made_log(tmp_path / "none", sets=False)
    assert "nothing is known of zero-shot ability, as no transfer set is tested" in _words(out)
    assert "not measured" in _page(out).id("rules-table").text


def test_a_set_whose_backbone_is_at_chance(tmp_path: Path) -> None:
    out = made_log(tmp_path / "chance", [5])
    row = made_row(5)
    del row["retention/objects"]
    (out / "drift.jsonl").write_text(json.dumps(row) + "\n")
    assert "What is kept of objects cannot be said: the backbone itself is not above chance" in _words(out)
    _page(out)


def test_nan_is_said_and_drawn_as_nothing(tmp_path: Path) -> None:
    nan = float("nan")
    broken = made_row(45) | {"drift/cka": nan, "drift/cka/block_2": nan, "retention/objects": nan}
    out = made_log(tmp_path / "nan", ends=json.dumps(broken) + "\n")
    page = _page(out)
    assert "no number (nan or infinite): drift/cka (1), retention/objects (1)" in page.id("notes").text
    assert "accuracy on objects is no number" in _words(out)
    assert "CKA with the backbone is no number" in _words(out)


def test_nothing_but_nan(tmp_path: Path) -> None:
    out = made_log(tmp_path / "nan", [5])
    row = {key: float("nan") if "/" in key else value for key, value in made_row(5).items()}
    (out / "drift.jsonl").write_text(json.dumps(row) + "\n")
    assert "Not drawn: no measurement has numbers by block" in _page(out).id("blocks").text


def test_damaged_lines_are_counted(tmp_path: Path, undrawn: None) -> None:
    out = made_log(tmp_path / "odd", ends='{"step": 4\nwhat?\n')
    assert "2 lines of drift.jsonl cannot be read and are left out." in _page(out).id("notes").text
    (out / "monitor.json").write_text("[]")
    (out / "good").mkdir()
    (out / "good" / "clipdrift.json").write_text("{}")
    page = _page(out)
    assert "monitor.json cannot be read (no table)" in page.id("notes").text
    assert "of an unknown step" in page.id("summary").text


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    out = made_log(tmp_path / "live", ends='{"step": 45, "drift/c')
    assert read_course(out).damaged == 0
    assert len(read_course(out).rows) == 8


def test_names_cannot_become_markup(tmp_path: Path, undrawn: None) -> None:
    out = made_log(tmp_path / "a<b>&c", [5], config={"note": "<script>alert(1)</script>"})
    text = write_report(out).read_text()
    assert "<script>alert" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_without_a_row_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match=r"no drift\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "drift.jsonl").touch()
    with pytest.raises(NotDrawnError, match="no whole row yet"):
        write_report(tmp_path)


def test_a_long_log_is_shortened_in_the_table_alone(tmp_path: Path) -> None:
    out = made_log(tmp_path / "long", list(range(1, 400)))
    page = _page(out)
    assert "The last 300 of 399 rows; all are in drift.jsonl." in page.id("rows").text
    rows = [e for e in page.all("tr") if e["data-row"]]
    assert [rows[0]["data-row"], rows[-1]["data-row"], len(rows)] == ["100", "399", 300]


def test_the_page_needs_no_torch(tmp_path: Path) -> None:
    made_log(tmp_path / "one", [5, 10])
    code = (
        "import sys; from clipdrift.reporting.monitoring import write_report; "
        f"write_report({str(tmp_path / 'one')!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_browser
def test_a_browser_has_nothing_to_complain_of(watched: Path, tmp_path: Path) -> None:
    page, complaints = looked_at(watched / "index.html", tmp_path)
    assert complaints == []
    assert "After step 40" in page.id("summary").text
