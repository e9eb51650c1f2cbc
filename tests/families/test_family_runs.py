"""Whole runs on models that are no CLIP of transformers, by the command, and interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_table import FAMILIES, Family

from clipdrift.comparison.compare import compare
from clipdrift.config import RunConfig
from clipdrift.runs.store import RunFolder
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.runner import run
from commands import Say, fails, runner
from interrupted_runs import Unplugged, Unplugs, weights_of
from small_runs import Lab, config_for

REASON = "needs OpenCLIP: make test-open-clip"
RUNS = [
    ("SigLIP", {"method": {"name": "lora", "dropout": 0.3}}),
    ("SigLIP", {"method": "full_ft", "penalty": ["entropy_pull"]}),
    ("OpenCLIP", {"method": {"name": "lora", "dropout": 0.3}, "penalty": ["apr"]}),
    ("OpenCLIP", {"method": {"name": "flyp"}}),
    ("OpenCLIP", {"method": "last_blocks"}),
]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return runner(capsys)


def made(title: str, folder: Path) -> Family:
    family = next(one for one in FAMILIES if one.title == title)
    if family.open_clip:
        pytest.importorskip("open_clip", reason=REASON, exc_type=ImportError)
    folder.mkdir()
    family.make(folder)
    return family


def config_of(lab: Lab, model: Path, **changes: Any) -> RunConfig:
    return config_for(model, lab.pictures, **changes)


@pytest.mark.parametrize(("title", "changes"), RUNS, ids=lambda value: str(value))
def test_an_interrupted_run_ends_the_same(
    lab: Lab, tmp_path: Path, title: str, changes: dict[str, Any]
) -> None:
    """To the bit, from a checkpoint in the second epoch; and the run's weights are compared with BASE."""
    made(title, tmp_path / "model")
    config = config_of(lab, tmp_path / "model", **changes)
    options: dict[str, Any] = {"cache": lab.cache, "device": "cpu"}
    record, whole = run(config, tmp_path / "whole", **options)
    with pytest.raises(Unplugged):
        run(
            config,
            tmp_path / "parts",
            reporter=Unplugs(after=7),
            schedule=CheckpointSchedule(steps=1),
            **options,
        )
    again, parts = run(config, tmp_path / "parts", **options)
    one, other = weights_of(whole), weights_of(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(other[name], weight) for name, weight in one.items())
    assert again.without_times() == record.without_times()
    assert record.best is not None
    found = compare(str(tmp_path / "model"), str(whole.path), lab.pictures / "test", limit=8, device="cpu")
    wanted = record.best.measures["weight_drift"].mean
    assert found.measures["weight_drift"].value == pytest.approx(wanted, rel=1e-4)


def test_the_command_trains_a_folder(say: Say, lab: Lab, tmp_path: Path) -> None:
    """As ``model.path``; what cannot be done is one line."""
    made("SigLIP", tmp_path / "siglip")
    common = [
        "train", "--set", f"model.path={tmp_path / 'siglip'}", "--set", f"data.target={lab.pictures}",
        "--set", 'data.transfer=[{name="objects-100",per_class=1}]', "--set", "optim.epochs=1",
        "--set", "data.train_per_class=6", "--set", "data.validation_per_class=3",
        "--set", "data.probe_per_class=3",
        "--out", tmp_path / "runs", "--cache", lab.cache,
    ]  # fmt: skip
    said = say(*common, "--set", "method=lora")
    assert said.code == 0, said.err
    (folder,) = (place for place in (tmp_path / "runs").iterdir() if place.is_dir())
    assert RunFolder(folder).record().status == "done"
    line = fails(say(*common, "--set", "method=full_ft", "--set", 'penalty=[{name="apr",blocks=[1]}]'))
    assert "penalty apr: blocks cannot be chosen" in line
    line = fails(say(*common, "--set", "method.name=last_blocks", "--set", "method.blocks=3"))
    assert "method.blocks = 3: siglip has 2 blocks" in line
