"""What is guessed or not read is printed once and stands in the record, the comparison and the repair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odd_inputs import picture, put, write

from clipdrift.cli import main
from clipdrift.comparison import read_comparison
from clipdrift.runs.record import read_record

MAPPING = "001.cat = cat, 002.dog = dog"
UNREAD = "files were not read: 3 .heic in 001.cat (pip install pillow-heif"
NO_CAPTIONS = "retrieval was not tested"
CHANCE = "is not above chance"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Numbers before class names, pictures that are not read, captions of something else."""
    root = put(tmp_path / "photos", "001.cat/{}.png*8", "002.dog/{}.png*8", "001.cat/{}.heic*3")
    write(root / "metadata.csv", "file_name,text\nelsewhere.png,a cat\n")
    return root


def out_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints when it ends well."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert ended.value.code in (0, None), said.err
    return said.out


def test_train(folder: Path, tiny_clip_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        f"model={tiny_clip_dir}",
        f"data.target={folder}",
        f'data.transfer=["{folder}"]',
        "method=linear_probe",
    ]
    sets += ["optim.epochs=1", "data.probe_per_class=2", "data.validation_per_class=1"]
    options = [word for text in sets for word in ("--set", text)]
    places = ("--out", tmp_path / "runs", "--cache", tmp_path / "cache")
    out = out_of(capsys, "train", *options, *places)
    for note in (MAPPING, UNREAD, CHANCE):
        assert out.count(note) == 1  # target and transfer set are the same folder
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = read_record(path)
    for facts in (record.target, record.transfer["photos"]):
        assert facts.own_names == ("001.cat", "002.dog")
        assert facts.classes == ("cat", "dog")
        assert any(UNREAD in note for note in facts.notes)
        assert ("001.cat", ".heic", 3) in facts.passed
    assert CHANCE in record.transfer["photos"].notes[-1]
    assert "not measurable" in out


def test_test_images_that_are_training_images(
    tiny_clip_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the same bytes and of the same pixels are said and recorded, and nothing is refused."""
    root = tmp_path / "photos"
    for split, first in (("train", 0), ("test", 20)):
        for i in range(first, first + 12):
            write(root / split / ("cat", "dog")[i % 2] / f"{i}.png", picture(i))
    places = ("--out", tmp_path / "runs", "--cache", tmp_path / "cache")
    words = [f"model={tiny_clip_dir}", f"data.target={root}", "data.transfer=[]", "method=linear_probe"]
    words += ["optim.epochs=1", "data.probe_per_class=2", "data.validation_per_class=1"]
    options = [word for text in words for word in ("--set", text)]
    assert "training images too" not in out_of(capsys, "train", *options, *places)
    for i in range(12):  # some of them train, some are validation or probe images
        write(root / "test" / ("cat", "dog")[i % 2] / f"again{i}.png", picture(i))
    write(root / "test" / "cat" / "again0.png", picture(0, "BMP"))
    out = out_of(capsys, "train", *options, *places)
    (record,) = [
        found
        for path in (tmp_path / "runs").glob("*/record.json")
        if (found := read_record(path)).target.images["test"].count == 24
    ]
    count = record.target.images["train"].count
    assert out.count(f"{count} of 24 test images are training images too") == 1
    assert any("test images are training images too" in note for note in record.target.notes)


def test_compare(
    folder: Path, tiny_clip_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = out_of(
        capsys, "compare", tiny_clip_dir, tiny_clip_dir, "--images", folder, "--transfer", f"pets={folder}",
        "--no-flow", "--no-spectra", "--out", tmp_path / "out", "--cache", tmp_path / "cache",
    )  # fmt: skip
    found = read_comparison(tmp_path / "out")
    for note in (MAPPING, NO_CAPTIONS):
        assert out.count(note) == 1
        assert sum(note in one for one in found.notes) == 1
    assert "Zero-shot on pets" in out
    assert CHANCE in out
    assert ("001.cat", ".heic", 3) in found.images.passed
    assert found.transfer["pets"].retention is None
    page = (tmp_path / "out" / "index.html").read_text()
    assert MAPPING in page
    assert "not measurable" in page
    listed = json.loads((tmp_path / "out" / "comparison.json").read_text())["images"]["notes"]
    assert any(NO_CAPTIONS in note for note in listed)


def test_names_with_line_breaks_stay_in_one_line(
    tiny_clip_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = put(
        tmp_path / "set", "x\ny/images/cat/{}.png*4", "x\ny/images/dog/{}.png*4",
        "z\r\nw/images/cat/{}.png*4", "z\r\nw/images/dog/{}.png*4",
    )  # fmt: skip
    sets = ("--set", f"model={tiny_clip_dir}", "--set", f"data.target={root}")
    with pytest.raises(SystemExit) as ended:
        main(["train", *sets, "--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(said.strip().splitlines()) == 1
    assert r"x\ny, z\r\nw" in said
