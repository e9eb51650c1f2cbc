"""``clipdrift figure``: a file that was asked for, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_tables import grid

from clipdrift.cli import main
from clipdrift.figures.registry import FIGURES


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, what is printed, what is printed as an error."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    found = capsys.readouterr()
    return int(ended.value.code or 0), found.out, found.err


@pytest.fixture
def study() -> Path:
    assert grid().folder is not None
    return grid().folder


def test_a_figure_is_written_where_it_is_asked_for(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name of the file, by format, or as NAME.pdf where one stands."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(capsys, "figure", "frontier", study, "--target", "pets", "--size", "3.4x2.5")
    assert (code, out) == (0, "frontier.pdf\n")
    assert (tmp_path / "frontier.pdf").read_bytes().startswith(b"%PDF")
    code, out, _ = say(capsys, "figure", "baseline", study, "--out", tmp_path / "deep" / "b.svg")
    assert code == 0
    text = (tmp_path / "deep" / "b.svg").read_text()
    assert "<svg" in text
    assert "date" not in text.lower()


def test_all_figures_go_on_where_one_cannot_be_drawn(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is said, each in a line; the rest is written."""
    few = {name: FIGURES[name] for name in ("baseline", "penalties")}
    monkeypatch.setattr("clipdrift.figures.registry.FIGURES", few)
    code, out, _ = say(capsys, "figure", "all", study, "--out", tmp_path, "--format", "png")
    assert code == 0
    assert out.splitlines() == [f"{tmp_path / 'baseline.png'}", "not drawn: penalties: no run has a penalty"]
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.png"]


def test_the_list_names_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """With what it shows; ``ls figures`` is the same list."""
    _, listed, _ = say(capsys, "figure", "--list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(FIGURES)
    assert all(entry.title in listed for entry in FIGURES.values())
    assert say(capsys, "ls", "figures")[1] == listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense", "."], "figure nonsense: unknown; legal: all, dashboard"),
        (["frontier"], "say which and of what"),
        (["frontier", "nowhere"], "nowhere: no finished run here"),
        (["frontier", ".", "--size", "big"], "size big: paper, slide, or inches"),
        (["penalties", "STUDY"], "no run has a penalty"),
        (["frontier", "STUDY", "--target", "dogs"], "no run has the target dogs; there are eurosat, pets"),
        (["baseline", "STUDY", "--format", "gif"], "no figures as gif: choose from pdf, svg, png"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, study: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    code, out, err = say(capsys, "figure", *[str(study) if a == "STUDY" else a for a in arguments])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_the_documentation_has_every_figure() -> None:
    """Name, title and how to read it, as the list says."""
    page = (Path(__file__).parents[2] / "docs" / "figures.md").read_text()
    for name, entry in FIGURES.items():
        assert f"| `{name}` | {entry.title} | {entry.text} |" in page
