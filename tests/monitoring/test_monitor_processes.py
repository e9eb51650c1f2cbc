"""Two processes that train one model: one measures, both stop at one step, and neither waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPModel

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    """What two processes say of all kinds of training, one after the other: first and second."""
    place, kinds = tmp_path_factory.mktemp("processes"), ["ddp", "fsdp", "ddp-uneven"]
    shutil.copytree(tiny_clip_dir, place / "model")
    path = os.pathsep.join([str(ROOT / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                str(HERE / "two_processes.py"),
                str(rank),
                "2",
                str(place),
                *kinds,
            ],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=250)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    return place, {
        kind: [json.loads((place / f"{kind}-{rank}.json").read_text()) for rank in range(2)] for kind in kinds
    }


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_both_processes_stop_at_one_step_and_one_has_measured(found: tuple[Path, Found], kind: str) -> None:
    place, (first, second) = found[0], found[1][kind]
    assert first["stopped"]
    assert second["stopped"]
    assert first["steps"] == second["steps"] < 12
    assert first["rows"] == first["steps"]
    assert second["rows"] == 0
    # the decision counts two steps later, when the other process has surely heard of it
    over = next(i for i, drift in enumerate(first["drift"], start=1) if drift > 0.02)
    assert first["steps"] == over + 2
    kept = json.loads((place / kind / "good/clipdrift.json").read_text())
    assert kept["numbers"]["drift/weight_drift"] < 0.01
    CLIPModel.from_pretrained(place / kind / "good")


def test_sharded_weights_are_gathered_and_give_the_numbers_of_whole_ones(found: tuple[Path, Found]) -> None:
    """FSDP2 and DDP train alike but for the scale, a scalar, which FSDP2 leaves to each process."""
    whole, sharded = found[1]["ddp"][0], found[1]["fsdp"][0]
    assert sharded["drift"][0] == pytest.approx(whole["drift"][0], rel=1e-3)
    assert sharded["drift"] == pytest.approx(whole["drift"], rel=2e-2)


def test_processes_that_differ_in_steps_do_not_hang(found: tuple[Path, Found]) -> None:
    first, second = found[1]["ddp-uneven"]
    assert (first["steps"], second["steps"]) == (4, 6)
    assert first["rows"] == 4
