"""Records and the folders they lie in: complete or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pydantic import ValidationError

from clipdrift.config import RunConfig
from clipdrift.listing import MEASURES
from clipdrift.runs.files import write_atomically, write_text
from clipdrift.runs.record import (
    Backbone,
    DataFacts,
    ImageCounts,
    ModelFacts,
    Point,
    Record,
    RecordError,
    Remark,
    Transfer,
    Values,
    environment,
    read_record,
)
from clipdrift.runs.store import RunFolder, Store


def values(mean: float) -> Values:
    return Values(mean=mean, blocks=(mean - 0.1, mean + 0.1), drift=-1.25, drift_blocks=(-2.5, 1 / 3))


def point(epoch: int, **changes: Any) -> Point:
    found = Point(
        epoch=epoch,
        step=10 * epoch,
        ends_epoch=True,
        learning_rate=1e-5 / 3,
        train_loss=2 / epoch,
        train_accuracy=50.0,
        validation_accuracy=61.5,
        measures={"entropy": values(2.25), "cka": Values(mean=0.1 + 0.2, blocks=(0.3, 0.30000000000000004))},
        transfer={"objects-100": Transfer(accuracy=12.0, retention=1200 / 95), "x": Transfer(accuracy=1.0)},
    )
    return found.model_copy(update=changes)


@pytest.fixture
def record() -> Record:
    config = RunConfig.model_validate({"method": "lora", "data": {"target": {"name": "prés", "path": "/é"}}})
    images = {"test": ImageCounts(count=9, fingerprint="ab", bad=(("dir/a.png", "truncated"),))}
    facts = DataFacts(kind="folder", classes=("champ de blé", "forêt"), prompts=("une {}",), images=images)
    return Record(
        key=config.key,
        status="done",
        config=config,
        environment=environment("cpu"),
        model=ModelFacts(blocks=2, heads=2, patches=16, width=32, parameters=1000, trained=10),
        target=facts,
        transfer={"x": facts},
        units={name: entry.unit for name, entry in MEASURES.items()},
        backbone=Backbone(measures={"entropy": values(2.3)}, zero_shot={"objects-100": 95.0}),
        history=(point(1), point(2)),
        best=point(2, test_accuracy=60.0),
        last=point(2),
        artefacts={"kind": "adapter", "weights": "model"},
        timings={"train": 1.5},
    )


# --- the record


def test_a_record_survives_its_file(record: Record, tmp_path: Path) -> None:
    """Every float to the last bit, every name in its own letters."""
    path = tmp_path / "record.json"
    write_text(path, record.to_json())
    assert read_record(path) == record
    assert "forêt" in path.read_text(encoding="utf-8")
    assert read_record(path).to_json() == record.to_json()


def test_what_a_repetition_must_reproduce_holds_all_but_time_and_place(record: Record) -> None:
    """Nothing else may be left out of the comparison, or repeatability means little."""
    remark = Remark(kind="stop", epoch=1, step=2, text="too far")
    assert set(Record.model_fields) - set(record.without_times()) == {"timings", "environment", "remarks"}
    ruled = record.model_copy(update={"remarks": (remark,)})
    assert set(Record.model_fields) - set(ruled.without_times()) == {"timings", "environment"}
    assert Record.model_validate_json(ruled.to_json()).stopped == remark


@pytest.mark.parametrize("step", [37])
def test_a_record_cut_off_anywhere_is_refused_in_one_line(record: Record, tmp_path: Path, step: int) -> None:
    """A file cut by a full disk must never pass for a shorter run."""
    path = tmp_path / "record.json"
    content = record.to_json().encode()
    for length in [*range(0, len(content) - 2, step), len(content) - 2]:  # the last byte is a line's end
        path.write_bytes(content[:length])
        with pytest.raises(RecordError) as caught:
            read_record(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "record schema None"),
        (b"null", "record schema None"),
        (b"{}", "record schema None"),
        (b'{"schema_version": 2}', r"record schema 2, this version of clipdrift reads 1"),
        (b'{"schema_version": 1}', "damaged at key"),
    ],
)
def test_what_is_no_record_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    """Another schema is told from damage: one asks for another version, the other for another run."""
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["extra", "missing", "type", "status", "nan"])
def test_a_record_that_was_edited_is_refused_by_key(record: Record, tmp_path: Path, change: str) -> None:
    """The schema is strict: a key too many is as wrong as one too few."""
    data = json.loads(record.to_json())
    if change == "extra":
        data["history"][0]["surprise"] = 1
    elif change == "missing":
        del data["history"][0]["surprise" if False else "step"]
    elif change == "type":
        data["history"][0]["step"] = "many"
    elif change == "status":
        data["status"] = "fine"
    else:
        data["history"][0]["train_loss"] = float("nan")
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    key = {"extra": "surprise", "nan": "train_loss", "status": "status"}.get(change, "step")
    with pytest.raises(RecordError, match=rf"damaged at [\w.]*{key}"):
        read_record(path)


def test_a_missing_record_says_that_the_run_is_not_finished(tmp_path: Path) -> None:
    """The most frequent case has its own words."""
    with pytest.raises(RecordError, match="the run has not finished"):
        read_record(tmp_path / "record.json")


def test_a_record_takes_no_nan(record: Record) -> None:
    """A number that is none must not get as far as a table."""
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Values(mean=number)


def test_the_environment_names_what_a_number_came_from() -> None:
    """Cause beside result: versions, device, commit."""
    found = environment("a device")
    assert found["device"] == "a device"
    assert {"torch", "transformers", "peft", "clipdrift", "numpy"} <= found["packages"].keys()
    assert "unknown" not in found["packages"].values()
    assert (found["commit"] is None) == (found["dirty"] is None)
    json.dumps(found)


# --- files


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Interrupted in the middle of writing: the older file stays, no rubbish beside it."""
    path = tmp_path / "some" / "file.bin"
    write_text(path, "old")

    def fails(stream: BinaryIO) -> None:
        stream.write(b"half of the n")
        stream.flush()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.bin"]


def test_the_new_file_is_whole_before_it_has_its_name(tmp_path: Path) -> None:
    """While the writer is at work a reader sees the old file."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    seen = []

    def write(stream: BinaryIO) -> None:
        stream.write(b"new")
        stream.flush()
        seen.append(path.read_text())

    write_atomically(path, write)
    assert seen == ["old"]
    assert path.read_text() == "new"


# --- the store


def test_a_run_is_finished_when_its_record_is_there(record: Record, tmp_path: Path) -> None:
    """The order of a run's life: configuration, metrics one by one, the record last."""
    store = Store(tmp_path / "runs")
    assert list(store.runs()) == []
    folder = store.folder(record.key)
    assert not folder.finished
    folder.begin(record.config)
    assert list(store.runs()) == [folder]
    assert RunConfig.model_validate_json((folder.path / "config.json").read_text()) == record.config
    for number, moment in enumerate(record.history, start=1):
        folder.note(moment)
        lines = (folder.path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == number
        assert Point.model_validate_json(lines[-1]) == moment
    assert not folder.finished
    with pytest.raises(RecordError, match="not finished"):
        folder.record()
    folder.finish(record)
    assert folder.finished
    assert folder.record() == record


def test_beginning_again_takes_the_old_record_away(record: Record, tmp_path: Path) -> None:
    """Otherwise a repetition that is killed would leave old numbers beside new metrics."""
    folder = RunFolder(tmp_path / record.key)
    folder.begin(record.config)
    folder.note(record.history[0])
    folder.finish(record)
    folder.begin(record.config)
    assert not folder.finished
    assert (folder.path / "metrics.jsonl").read_text() == ""


def test_runs_are_listed_by_key_and_other_folders_ignored(record: Record, tmp_path: Path) -> None:
    """A store may lie beside a report, notes and hidden folders."""
    store = Store(tmp_path)
    for key in ("b", "a", "c"):
        store.folder(key).begin(record.config)
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    assert [folder.path.name for folder in store.runs()] == ["a", "b", "c"]
