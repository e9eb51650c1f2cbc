"""The result as plain data: tables, words, the figure, files that read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_paths import made, step
from rich.console import Console

from clipdrift.cli.show_repaired import repaired_report
from clipdrift.figures.paths import path, write_path
from clipdrift.repair import Repaired, RepairError, read_repaired
from clipdrift.study.tables import Tables
from generated import generated_study


@pytest.fixture
def walked() -> Repaired:
    """Three points, the middle one chosen and saved."""
    steps = (
        step(0, 1.0, 100, accuracy=20.0),
        step(0.5, 0.9, 91, accuracy=85.0, test_accuracy=84.0),
        step(1, 0.4, 30, accuracy=80.0),
    )
    reason = "Chosen: alpha 0.5, the largest of the grid that keeps a retention of at least 90 %."
    return made(steps, chosen=1, reason=reason, saved="out/model", test_of="100 test images")


def shown(found: Repaired, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(repaired_report(found))
        return console.export_text()


def test_the_frame_is_tidy(walked: Repaired) -> None:
    """One row per step x measure, and with blocks one for each of those too."""
    frame = walked.to_frame()
    assert len(frame) == 3 * (1 + 2 + 4) + 1
    assert not frame.duplicated(["step", "measure", "set", "block"]).any()
    kept = frame[(frame.measure == "retention") & (frame.set == "objects-100")]
    assert kept.set_index("alpha").value.to_dict() == {0: 100, 0.5: 91, 1: 30}
    entropy = frame[(frame.measure == "entropy") & (frame.alpha == 1)].iloc[0]
    assert (entropy.before, entropy.value, entropy.drift, entropy.unit) == (2.0, 1.9, -5.0, "nats")
    assert frame[frame.chosen].step.unique().tolist() == ["alpha 0.5"]
    blocks = walked.to_frame(blocks=True)
    assert len(blocks) == len(frame) + 3 * (2 + 2 + 2)
    last = blocks[(blocks.measure == "cka") & (blocks.block == 2) & (blocks.alpha == 0.5)]
    assert last.value.tolist() == [pytest.approx(0.89)]


def test_words_say_what_was_found(walked: Repaired) -> None:
    """The ends, where accuracy is highest, the choice, and the test accuracy that took no part in it."""
    said = walked.summary()
    assert "3 points from alpha 0 to 1 between before (0) and after (1)." in said
    assert "Alpha 0: accuracy 20.0 %, retention on objects-100 100.0 %, CKA 1.000; alpha 1: " in said
    assert "is highest at alpha 0.5" in said
    assert walked.reason in said
    assert "Test accuracy of what was saved: 84.0 %, on 100 test images, read once" in said


def test_files_read_back(walked: Repaired, tmp_path: Path) -> None:
    """Equal in everything; and what is damaged or missing is named."""
    files = walked.save(tmp_path)
    assert [file.name for file in files] == ["repaired.json", "repaired.csv", "path.png"]
    assert read_repaired(tmp_path) == read_repaired(files[0]) == walked
    assert files[2].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RepairError, match="no repair here"):
        read_repaired(tmp_path / "none")
    data = json.loads(files[0].read_text())
    for content, said in (
        (files[0].read_text()[:200], "damaged"),
        (json.dumps(data | {"schema_version": 9}), "not a repair of schema 1"),
        (json.dumps(data | {"steps": [{"label": 3}]}), r"damaged at steps\.0"),
    ):
        files[0].write_text(content)
        with pytest.raises(RepairError, match=said):
            read_repaired(tmp_path)


def test_the_figure_shows_the_numbers_and_marks_the_choice(walked: Repaired) -> None:
    """Every line's heights are fields of the result; the ring sits on the chosen point."""
    figure = path(walked)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["accuracy of the head", "retention", "CKA with the backbone", "learnt against kept"]
    accuracy, retention, cka, trade = figure.axes
    assert list(accuracy.get_lines()[0].get_ydata()) == [20, 85, 80]  # type: ignore[arg-type]
    assert list(retention.get_lines()[0].get_ydata()) == [100, 91, 30]  # type: ignore[arg-type]
    assert list(cka.get_lines()[0].get_ydata()) == [1.0, 0.9, 0.4]  # type: ignore[arg-type]
    assert list(trade.get_lines()[0].get_xdata()) == [100, 91, 30]  # type: ignore[arg-type]
    for axis, height in ((accuracy, 85), (retention, 91), (cka, 0.9), (trade, 85)):
        rings = [line for line in axis.get_lines() if line.get_markersize() == 10]
        assert rings[0].get_ydata()[0] == height  # type: ignore[index]
    named = [line for line in cka.get_lines() if not str(line.get_label()).startswith("_")]
    assert (
        len({(line.get_linestyle(), line.get_marker()) for line in named}) == 2
    )  # told apart without colour


def test_the_figure_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    """No head, no sets: representation alone; several sets: each, and their mean."""
    bare = made((step(0, 1.0, {}), step(1, 0.5, {})), accuracy_of="")
    assert [axis.get_title(loc="left") for axis in path(bare).axes] == ["CKA with the backbone"]
    assert write_path(bare, tmp_path / "new" / "path.png").is_file()
    sets = made((step(0, 1.0, {"a": 100, "b": 100}), step(1, 0.5, {"a": 50, "b": 10})), accuracy_of="")
    lines = path(sets).axes[0].get_lines()
    assert list(lines[2].get_ydata()) == [100, 30]  # type: ignore[arg-type]


def test_a_terminal_shows_a_row_per_alpha(walked: Repaired) -> None:
    """Within 80 columns, the chosen one marked."""
    text = shown(walked)
    assert max(len(line) for line in text.splitlines()) <= 80
    rows = [line.split() for line in text.splitlines() if line.startswith("alpha ")]
    assert " ".join(rows[1]) == "alpha 0.5 < 85.0 % 72.8 % 91.0 % 0.900 0.050 0.100 -2.5 %"
    assert "…" not in text


def test_a_terminal_shows_before_and_after_of_a_repair() -> None:
    """Measures in rows, the backbone, the tuned model and the repaired one in columns."""
    counted = [{"label": "tuned", "factor": 1.0, "intruders": {"q": 3, "k": 0}}]
    counted.append({"label": "scale 0", "factor": 0.0, "intruders": {"q": 1, "k": 0}})
    points = (step(1, 0.4, 30, accuracy=80.0), step(0.5, 0.6, 70, accuracy=75.0))
    steps = tuple(
        p.model_copy(update=more | {"alpha": None}) for p, more in zip(points, counted, strict=True)
    )
    found = made(steps, kind="soften", chosen=1)
    text = shown(found, 100)
    row = next(line.split() for line in text.splitlines() if line.startswith("intruder dimensions, q"))
    assert row[-3:] == ["0", "3", "1"]
    assert "intruder dimensions, k" not in text
    assert "after: 3 intruder dimensions before, 1 after." in text
    assert found.plot().axes[0].get_title(loc="left") == "accuracy of the head"


def test_what_failed_is_only_a_wish_that_nothing_keeps(walked: Repaired) -> None:
    """The exit status of the command line rests on it."""
    assert not walked.failed
    assert walked.model_copy(update={"chosen": None}).failed
    assert not walked.model_copy(update={"chosen": None, "reason": ""}).failed
    assert not walked.model_copy(update={"chosen": None, "kind": "soften"}).failed


def test_a_report_finds_the_paths_of_its_runs(walked: Repaired, tmp_path: Path) -> None:
    """What `clipdrift interpolate DIR/RUN --out DIR/RUN/path` leaves; of another repair nothing is taken."""
    generated_study(tmp_path, targets=("pets",), rates=(1e-5, 5e-5), seeds=(7,), epochs=1)
    assert Tables.of(tmp_path).paths.empty
    first, second, *_ = Tables.of(tmp_path).runs["run"]
    walked.save(tmp_path / first / "path")
    made((step(0, 0.9, 50),), kind="rewind").save(tmp_path / second / "path")
    paths = Tables.of(tmp_path).paths
    assert list(paths["run"]) == [first] * 3
    assert list(paths["alpha"]) == [0, 0.5, 1]
    assert list(paths["accuracy"]) == [20.0, 85.0, 80.0]
    retained = [s.transfer[name].retention for name in walked.transfer for s in walked.steps]
    columns = [f"retention_{name}" for name in walked.transfer]
    assert [value for column in columns for value in paths[column]] == retained
    rows = Tables.of(tmp_path).rows("interpolation")
    assert rows["value"].notna().any()
