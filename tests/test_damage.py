"""What is damaged is noticed, said and made again; a disk that is full costs nothing that was done."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipdrift.cli import main
from clipdrift.errors import StorageError
from clipdrift.runs.files import storage, sweep, write_text
from clipdrift.runs.manifest import damaged, write_manifest
from clipdrift.runs.record import Record
from clipdrift.runs.reporter import Silent
from clipdrift.runs.states import read_state
from clipdrift.runs.store import RunFolder
from clipdrift.study.frames import records_in
from clipdrift.training.checkpoint import CheckpointError, load_state, save_state
from clipdrift.training.course import CheckpointSchedule, Course
from clipdrift.training.preparation import resolve
from small_runs import Lab

METHOD = "norm_only"


@dataclass
class Hears(Silent):
    """A reporter that keeps warnings, and ends the run after some step."""

    until: int | None = None
    warnings: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.steps.append(step)
        if step == self.until:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(lab: Lab) -> tuple[Record, RunFolder]:
    return lab.run(lab.config(METHOD))


@pytest.fixture
def done(whole: tuple[Record, RunFolder], lab: Lab) -> tuple[Record, RunFolder]:
    """A finished run, a copy that may be damaged."""
    record, folder = whole
    copy = lab.tmp() / record.key
    shutil.copytree(folder.path, copy)
    return record, RunFolder(copy)


@pytest.fixture(scope="module")
def half_once(lab: Lab) -> Path:
    out = lab.tmp()
    with pytest.raises(KeyboardInterrupt):
        lab.run(lab.config(METHOD), out, reporter=Hears(8), schedule=CheckpointSchedule(steps=3))
    (path,) = out.iterdir()
    return path


@pytest.fixture
def half(half_once: Path, lab: Lab) -> RunFolder:
    """A run that was interrupted after step 8 of 10, its checkpoint at step 6; a copy."""
    return RunFolder(shutil.copytree(half_once, lab.tmp() / half_once.name))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(file: Path) -> None:
    """Some bytes in the middle are others, more than there are between two parts; the length is the same."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(b ^ 0x55 for b in content[middle : middle + 400])
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


# --- an unfinished run


@pytest.mark.parametrize("damage", [cut, garble, empty])
def test_a_damaged_checkpoint(
    lab: Lab, half: RunFolder, whole: tuple[Record, RunFolder], damage: Callable[[Path], None]
) -> None:
    """It is said, and the training starts again."""
    damage(half.path / "checkpoint.pt")
    hears = Hears(1 if damage is not garble else None)
    with suppress(KeyboardInterrupt):
        record, _ = lab.run(lab.config(METHOD), half.path.parent, reporter=hears)
        assert record.without_times() == whole[0].without_times()
    (said,) = hears.warnings
    assert said.startswith(f"{half.path / 'checkpoint.pt'}: damaged (")
    assert said.endswith("); the training starts again")
    assert hears.steps[0] == 1


def test_any_byte_of_a_checkpoint(tmp_path: Path) -> None:
    """torch does not look at its own checksums; a weight with a flipped bit would be trained on."""
    path = tmp_path / "state.pt"
    wanted = torch.arange(3000.0)
    save_state(path, {"weights": wanted, "step": 3})
    content = path.read_bytes()
    refused = 0
    for place in range(5, len(content), 61):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = load_state(path)
        except CheckpointError:
            refused += 1
            continue
        assert found is not None  # between the parts of the file, where nothing is read
        assert torch.equal(found["weights"], wanted)
        assert found["step"] == 3
    assert refused > 0.9 * len(range(5, len(content), 61))


@pytest.mark.parametrize("what", ["a torn line", "lines beyond", "a damaged line", "nothing"])
def test_metrics_of_an_unfinished_run(half: RunFolder, whole: tuple[Record, RunFolder], what: str) -> None:
    """No line twice and none torn; only what a kill cannot have done is called damage."""
    file = half.path / "metrics.jsonl"
    first = file.read_bytes()
    if what == "a torn line":
        file.write_bytes(first + first[:100])
    elif what == "lines beyond":
        file.write_bytes(first + first.replace(b'"epoch":1', b'"epoch":2'))
    elif what == "a damaged line":
        garble(file)
    else:
        file.unlink()
    course = Course.read(half.path / "checkpoint.pt", half.path.name)
    assert course is not None
    said = half.go_on(course.history)
    lines = (whole[1].path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert file.read_bytes() == lines[0]
    harmless = what in ("a torn line", "lines beyond")
    assert said == (None if harmless else f"{file}: damaged; written again")


def test_a_damaged_configuration(lab: Lab, half: RunFolder, whole: tuple[Record, RunFolder]) -> None:
    """It is written again; the checkpoint still counts."""
    cut(half.path / "config.json")
    assert half.state().epochs == 0
    hears = Hears()
    record, _ = lab.run(lab.config(METHOD), half.path.parent, reporter=hears)
    assert hears.warnings == [f"{half.path / 'config.json'}: damaged; written again"]
    assert json.loads((half.path / "config.json").read_text()) == record.config.model_dump(mode="json")
    assert record.without_times() == whole[0].without_times()


def test_what_killed_writers_left_is_swept_up(lab: Lab, half: RunFolder) -> None:
    """A checkpoint that was being written may be as large as the disk has room."""
    left = half.path / ".checkpoint.pt.123.tmp"
    left.write_bytes(b"half")
    part = half.path / ".model.part"
    part.mkdir()
    lab.run(lab.config(METHOD), half.path.parent)  # and this takes up the checkpoint
    assert not left.exists()
    assert not part.exists()


# --- a finished run


@pytest.mark.parametrize(
    ("name", "damage"),
    [("record.json", cut), ("model/model.safetensors", garble), ("model/head.safetensors", empty)],
)
def test_what_only_a_repetition_can_mend(
    lab: Lab, done: tuple[Record, RunFolder], damage: Callable[[Path], None], name: str
) -> None:
    """Record and weights: the run is repeated, to the same."""
    record, folder = done
    before = (folder.path / name).read_bytes()
    damage(folder.path / name)
    hears = Hears()
    again, _ = lab.run(lab.config(METHOD), folder.path.parent, reporter=hears)
    (said,) = hears.warnings
    assert said.startswith(f"{folder.path / name}: damaged")
    assert said.endswith("; the run is repeated")
    assert again.without_times() == record.without_times()
    if name != "record.json":
        assert (folder.path / name).read_bytes() == before
    assert lab.run(lab.config(METHOD), folder.path.parent)[0] == again


def test_what_the_record_can_mend(
    lab: Lab, done: tuple[Record, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration and metrics are written from it; nothing is trained."""
    monkeypatch.setattr("clipdrift.training.runner.attempt", lambda *_: pytest.fail("trained"))
    record, folder = done
    for name in ("config.json", "metrics.jsonl"):
        before = (folder.path / name).read_bytes()
        cut(folder.path / name)
        hears = Hears()
        assert lab.run(lab.config(METHOD), folder.path.parent, reporter=hears)[0] == record
        assert hears.warnings == [f"{folder.path / name}: damaged; written again from the record"]
        assert (folder.path / name).read_bytes() == before


def test_weights_that_were_copied_or_removed_are_not_damaged(
    lab: Lab, done: tuple[Record, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another time of change is looked into; a folder that is gone was removed to save room."""
    monkeypatch.setattr("clipdrift.training.runner.attempt", lambda *_: pytest.fail("trained"))
    record, folder = done
    os.utime(folder.path / "model" / "model.safetensors", (1, 1))
    assert lab.run(lab.config(METHOD), folder.path.parent)[0] == record
    shutil.rmtree(folder.path / "model")
    assert lab.run(lab.config(METHOD), folder.path.parent)[0] == record


def test_a_file_missing_among_the_weights(tmp_path: Path) -> None:
    """Half a model is worse than none."""
    folder, manifest = tmp_path / "model", tmp_path / "weights.json"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    assert damaged(manifest, folder) is None
    write_manifest(manifest, folder)
    assert damaged(manifest, folder) is None
    (folder / "b").unlink()
    assert damaged(manifest, folder) == f"{folder / 'b'}: missing"
    manifest.write_text("[")
    assert "cannot be read" in str(damaged(manifest, folder))


@pytest.mark.slow
def test_a_damaged_pixel_file_is_said(lab: Lab, tmp_path: Path, whole: tuple[Record, RunFolder]) -> None:
    """The cache mends itself, but a disk that alters files is worth knowing of."""
    lab = Lab(lab.model, lab.pictures, tmp_path / "cache", lab.tmp)
    lab.run(lab.config(METHOD), tmp_path / "first", save=False)
    files = sorted((tmp_path / "cache" / "pixels").glob("*.npy"))
    for file in files:
        garble(file)
    hears = Hears()
    record, _ = lab.run(lab.config(METHOD), tmp_path / "second", reporter=hears, save=False)
    assert sorted(hears.warnings) == [f"{file}: damaged; decoded again" for file in files]
    assert record.history == whole[0].history


# --- disks


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Inside, no file can grow above ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "what"), [(30_000, "checkpoint.pt"), (200, "owner.json|config.json")])
def test_no_room(
    lab: Lab, whole: tuple[Record, RunFolder], size: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file; with room again the same call goes on, to the same end."""
    config, out = lab.config(METHOD), lab.tmp()
    said = rf"/({what}): cannot be written \(File too large\); .*the same command goes on$"
    with room_for(size), pytest.raises(StorageError, match=said):
        lab.run(config, out, schedule=CheckpointSchedule(steps=3))
    (path,) = out.iterdir()
    assert not list(path.glob(".*"))
    assert RunFolder(path).state().kind in ("failed", "planned", "interrupted")
    record, folder = lab.run(config, out)
    assert record.without_times() == whole[0].without_times()
    assert not (folder.path / "failure.json").exists()


def test_no_room_for_the_weights(lab: Lab, whole: tuple[Record, RunFolder]) -> None:
    """The library that writes them words its errors in its own way; the training is not repeated."""
    config, out = lab.config(METHOD), lab.tmp()
    steps: list[int] = []

    class Counts(Silent):
        def stage(self, text: str) -> None:
            if text == "saving":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

        def step(self, step: int, steps_: int, loss: float) -> None:
            steps.append(step)

    with pytest.raises(StorageError, match=r"model.*cannot be written"), room_for(2**40):
        lab.run(config, out, reporter=Counts(), schedule=CheckpointSchedule(steps=1))
    assert steps == list(range(1, 11))
    (path,) = out.iterdir()
    assert not (path / "model").exists()

    class Plain(Silent):
        def step(self, step: int, steps_: int, loss: float) -> None:
            pytest.fail("trained again")

    record, folder = lab.run(config, out, reporter=Plain())
    assert record.without_times() == whole[0].without_times()
    assert folder.damaged_weights() is None


def test_the_words_of_a_disk(tmp_path: Path) -> None:
    """By number where there is one, by Rust's words where a library hides it; other errors pass."""
    with (
        pytest.raises(StorageError, match=r"x: cannot be written .No space left on device"),
        storage(Path("x")),
    ):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(StorageError, match=r"y: cannot be written .Read-only"), storage(Path("x")):
        raise OSError(errno.EROFS, "no", "y")
    with pytest.raises(StorageError, match="No space left"), storage(Path("x")):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    for error in (ValueError("os error 28"), OSError(errno.ENOENT, "not there"), RuntimeError("nan")):
        with pytest.raises(type(error)) as caught, storage(Path("x")):
            raise error
        assert caught.value is error


def test_a_full_disk_says_so_in_the_words_of_safetensors(tmp_path: Path) -> None:
    """If these change, a full disk while weights are saved would be a traceback."""
    with pytest.raises(StorageError, match="cannot be written"), storage(tmp_path), room_for(1000):
        save_file({"x": torch.zeros(10_000)}, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists() or not _readable(tmp_path / "x.safetensors")


def _readable(file: Path) -> bool:
    try:
        load_file(file)
    except Exception:
        return False
    return True


def test_a_failed_checkpoint_leaves_the_older_one(tmp_path: Path) -> None:
    """Whatever torch makes of the disk's error, it is the disk's error that is told."""
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    for size in (0, 100, 5_000, 39_000):
        with room_for(size), pytest.raises(StorageError, match=r"state\.pt: cannot be written"):
            save_state(path, {"step": 2, "weights": torch.zeros(10_000)})
        assert load_state(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_sweeping_takes_temporary_files_alone(tmp_path: Path) -> None:
    """Whoever has the folder is alone in it, but not all hidden files are ours."""
    for name in (".record.json.7.tmp", ".hidden", "a.tmp"):
        write_text(tmp_path / name, "x")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.tmp"]


def test_a_failure_is_noted_and_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong stands in the folder until the run is tried again."""
    config, out = lab.config(METHOD), lab.tmp()

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("something is wrong\nhere")

    with monkeypatch.context() as patch:
        patch.setattr("clipdrift.training.attempt.prepare", broken)
        with pytest.raises(ValueError, match="something is wrong"):
            lab.run(config, out)
    (path,) = out.iterdir()
    said = json.loads((path / "failure.json").read_text())
    assert (said["error"], said["kind"]) == ("something is wrong here", "ValueError")
    assert said["host"]
    assert RunFolder(path).state().kind == "failed"
    with pytest.raises(KeyboardInterrupt):
        lab.run(config, out, reporter=Hears(1))
    assert not (path / "failure.json").exists()
    assert RunFolder(path).state().kind == "interrupted"


def test_another_runs_record_is_no_result_of_this_one(
    lab: Lab, done: tuple[Record, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied there by hand, or by a script that went wrong: it is named, and the run is done."""
    record, folder = done
    other = resolve(lab.config(METHOD, seed=7))
    copy = folder.path.parent / other.key
    shutil.copytree(folder.path, copy)
    state = read_state(copy)
    assert (state.kind, record.key in (state.reason or "")) == ("interrupted", True)
    with pytest.raises(SystemExit):
        main(["status", str(folder.path.parent)])
    listed = capsys.readouterr().out
    assert re.search(rf"{other.key} +damaged: .*the record of another run \({record.key}\)", listed)
    assert re.search(rf"^{record.key} +done", listed, re.M)
    problems: list[str] = []
    assert [r["key"] for r in records_in(folder.path.parent, problem=problems.append)] == [record.key]
    assert len(problems) == 1
    assert str(copy) in problems[0]

    hears = Hears()
    made, where = lab.run(other, folder.path.parent, reporter=hears)
    assert (made.key, where.path) == (other.key, copy)
    assert any("the record of another run" in text and str(copy) in text for text in hears.warnings)
    assert made.config.seed == 7
    assert read_state(copy).kind == "done"
    assert read_state(folder.path).kind == "done"  # the other is as it was
