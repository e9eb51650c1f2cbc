"""``clipdrift interpolate``, ``rewind`` and ``soften`` on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from repair_models import plain

from clipdrift.repair import read_repaired
from clipdrift.runs.store import RunFolder
from commands import Say, fails, runner
from small_runs import Lab

Runs = Callable[[str], RunFolder]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lab: Lab) -> Say:
    """Runs a command in this process, on a wide page."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(lab.cache))

    return runner(capsys)


def test_from_a_run_to_a_saved_mix(say: Say, runs: Runs, tmp_path: Path) -> None:
    """The whole command: table, words, files, and a model that loads."""
    out = tmp_path / "mixed"
    said = say("interpolate", runs("full_ft").path, "--alphas", "0:1:0.5", "--save-at", "0.25", "--out", out)
    assert (said.code, said.err) == (0, "")
    found = read_repaired(out)
    for step in found.steps:
        row = next(line for line in said.out.splitlines() if line.startswith(f"{step.label} "))
        assert f"{step.accuracy:.1f} %" in row
        assert f"{step.value('cka'):.3f}" in row
        assert f"{step.retention():.1f} %" in row
    assert [step.alpha for step in found.steps] == [0, 0.25, 0.5, 1]
    for line in found.summary().splitlines():
        assert line in said.out
    assert f"model     {out / 'model'}  (model)" in said.out
    assert f"figure    {out}/path.png" in said.out
    assert (out / "path.png").read_bytes().startswith(b"\x89PNG")
    plain(out / "model")


def test_a_wish_that_nothing_keeps_ends_with_1(
    say: Say, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script can tell, and a reader is told what comes nearest."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)
    asked = ["--alphas", "0,1", "--keep-cka", "0.999999", "--out", tmp_path / "o"]
    said = say("interpolate", runs("full_ft").path, *asked)
    assert said.code == 1
    assert "No alpha above 0 keeps a CKA of at least 0.999999." in said.out
    assert not (tmp_path / "o" / "model").exists()


def test_a_pair_is_rewound_and_softened(
    say: Say, tiny_clip_dir: Path, tuned_dir: Path, pictures: Path
) -> None:
    """Both on images of one's own, before and after side by side."""
    pair = [tiny_clip_dir, tuned_dir, "--images", pictures / "test", "--limit", "12"]
    said = say("rewind", *pair, "--blocks", "2..", "--also", "projection", "--seed", "1")
    assert (said.code, said.err) == (0, "")
    assert "block 2, projection back" in said.out
    assert "no head, so no accuracy" in said.out
    assert "note: Only 12 images were read" in said.out
    said = say("soften", *pair, "--scale", "0,0.5", "--threshold", "0.9", "--transfer", f"colours={pictures}")
    assert (said.code, said.err) == (0, "")
    assert "scale 0.5" in said.out
    assert "zero-shot" in said.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["interpolate", "RUN", "--alphas", "0:1"], "--alphas 0:1: write first:last:step"),
        (
            ["interpolate", "RUN", "--save-at", "0.5", "--keep-cka", "0.9"],
            "--save-at and --keep-cka",
        ),
        (["interpolate", "RUN", "--save-at", "0.5"], "--save-at needs --out"),
        (["interpolate", "RUN", "--images", "terrain-10"], "--images is for a pair of models"),
        (["interpolate", "RUN", "--limit", "10"], "--limit is for a pair of models"),
        (["interpolate", "no/where"], "no/where: no run; give the folder of a run"),
        (["rewind", "RUN"], "give either --blocks"),
        (["rewind", "RUN", "--blocks", "5", "--transfer", "objects-100"], "the model has blocks 1 to 2"),
        (["soften", "RUN", "--scale", "2"], "--scale 2: legal are 0"),
        (["soften", "RUN", "--scale", "half"], "--scale half: half is not a number"),
    ],
)
def test_mistakes_are_one_line(say: Say, runs: Runs, arguments: list[str], line: str) -> None:
    """With exit status 2, as everywhere."""
    run = str(runs("full_ft").path)
    assert line in fails(say(*[run if a == "RUN" else a for a in arguments]))


_WATCH = """
import sys
import clipdrift.figures.paths, clipdrift.repair
from clipdrift.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        print(end.code, sorted({"torch", "transformers", "peft"} & set(sys.modules)), file=sys.stderr)
"""


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    """Nor does reading a result or drawing its figure need it."""
    lines = ["interpolate --help", "interpolate x --alphas 0:1", "soften x --scale 2"]
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *lines],
        capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.endswith("]")]
    assert said == ["0 []", "2 []", "2 []"]


@pytest.mark.parametrize("name", ["interpolate", "rewind", "soften"])
def test_help_teaches_with_examples(say: Say, name: str) -> None:
    """Of a run and of a pair; and that nothing has to be recalibrated."""
    text = " ".join(say(name, "--help").out.split())
    assert text.count(f"clipdrift {name} ") >= 3
    assert "runs/" in text
    assert "--images photos/" in text
    assert "recalibrated" in text
