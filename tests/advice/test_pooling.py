"""Several folders advised on together: pooled where they can be compared, apart and said where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from advice_studies import runs

import clipdrift
from clipdrift.advice.plan_file import write_next
from clipdrift.advice.pooling import pooled
from clipdrift.cli import main
from clipdrift.study.tables import Tables
from generated import generated_study

FEW: dict[str, Any] = {"targets": ("eurosat",), "rates": (1e-6, 1e-5, 5e-5), "epochs": 2, "blocks": 3}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """One study whole, and its seeds in two folders, of which 7 stands in both."""
    place = tmp_path_factory.mktemp("pooled")
    for name, seeds in (("whole", (7, 11, 19)), ("one", (7, 11)), ("two", (7, 19))):
        generated_study(place / name, seeds=seeds, **FEW)
    return place / "whole", place / "one", place / "two"


def test_two_halves_are_the_whole(halves: tuple[Path, Path, Path]) -> None:
    """Oracle: the same runs in one folder."""
    whole, one, two = halves
    expected, found = clipdrift.advise(whole, keep=80), clipdrift.advise([one, two], keep=80)
    numbers = [
        {s["name"]: (s["n"], pytest.approx(s["accuracy"]), pytest.approx(s["kept"])) for s in settings}
        for advice in (expected, found)
        for settings in [advice.to_dict()["places"][0]["cells"]["settings"]]
    ]
    assert numbers[0] == numbers[1]
    assert [str(place.place) for place in found.places] == ["eurosat"]
    assert found.notes == (
        f"{two}: 6 of 12 runs stand in {one} too and count once",
        f"eurosat: pooled from 12 runs of {one}, 6 runs of {two}",
    )
    Tables.of(whole).runs.to_csv(
        whole / "runs.csv", index=False
    )  # a table made from records names their cells
    again = clipdrift.advise([one, whole / "runs.csv"], keep=80).to_dict()["places"][0]
    assert {s["name"]: (s["n"], s["accuracy"], s["kept"]) for s in again["cells"]["settings"]} == numbers[0]


def test_the_same_run_with_other_numbers_is_said(halves: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, one, two = halves
    again = Path(shutil.copytree(two, tmp_path / "again"))
    key = next(iter(Tables.of(one).runs.query("seed == 7")["run"]))
    file = again / key / "record.json"
    record = json.loads(file.read_text())
    record["best"]["test_accuracy"] += 1
    file.write_text(json.dumps(record))
    notes = " ".join(clipdrift.advise([one, again]).notes)
    assert f"count once; the numbers of 1 differ, those of {one} count" in notes


def test_what_cannot_be_compared_stands_apart(halves: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Other test images, other sets, another backbone: each said, and the numbers are those of one folder."""
    _, one, two = halves
    images = Path(shutil.copytree(two, tmp_path / "images"))
    for file in images.glob("*/record.json"):
        file.write_text(file.read_text().replace("cifar100-test", "others"))
    found = clipdrift.advise([one, images], keep=80)
    assert [str(place.place) for place in found.places] == [f"eurosat ({one})", f"eurosat ({images})"]
    assert found.notes[-1] == f"eurosat: not pooled, other test images of cifar100 in {one} than in {images}"

    more = tmp_path / "more"
    generated_study(more, seeds=(19,), transfer=("cifar100", "cifar10"), **FEW)
    found = clipdrift.advise([one, more], keep=80)
    assert len(found.places) == 2
    assert found.notes[-1].endswith("--transfer cifar100 compares them by what both have")
    (place,) = clipdrift.advise([one, more], keep=80, transfer="cifar100").places
    assert place.cells is not None
    assert {setting.n for setting in place.cells.settings} == {3}

    other = tmp_path / "other"
    generated_study(other, seeds=(19,), models=("clipdrift/mini",), **FEW)
    found = clipdrift.advise([one, other], keep=80)
    assert [place.place.backbone for place in found.places] == [
        "openai/clip-vit-base-patch32", "clipdrift/mini",
    ]  # fmt: skip
    assert f"eurosat with clipdrift/mini: no run of it in {one}" in found.notes


def test_tables_are_pooled_and_runs_of_one_name_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    frame = runs()
    frame[frame["seed"] != 19].to_csv(one, index=False)
    frame[frame["seed"] != 7].assign(run=[f"r{i}" for i in range(12)]).to_csv(two, index=False)
    found = clipdrift.advise([one, two], keep=90)
    (place,) = found.places
    assert place.cells is not None
    assert {setting.n for setting in place.cells.settings} == {3}
    assert found.notes[0] == f"{two}: 6 of 12 runs stand in {one} too and count once"
    frame.assign(backbone_zero_shot_cifar100=50.0).to_csv(one, index=False)
    frame.assign(backbone_zero_shot_cifar100=60.0, seed=1).to_csv(two, index=False)
    assert "on cifar100: 50.0 % in" in clipdrift.advise([one, two]).notes[-1]


def test_the_command_takes_several_and_writes_what_is_next(
    halves: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, one, two = halves
    with pytest.raises(SystemExit) as ended:
        main(["advise", str(one), str(two), "--keep", "80", "--next", str(tmp_path / "next.toml")])
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    assert "note: eurosat: pooled from 12 runs of " in said.out.replace("\n", " ")
    several = pooled([one, two])
    advice = clipdrift.advise([one, two], keep=80)
    planned = write_next(advice, several.folders, tmp_path / "again.toml")
    done = {key for folder in (one, two) for key in pd.unique(Tables.of(folder).runs["run"])}
    assert planned is None or not done & {run.config.key for run in planned.runs}
