"""Two processes that train one model: one measures, both stop at one step, and neither waits for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import two_processes
from transformers import CLIPModel

Found = dict[str, list[dict[str, Any]]]


def _child(rank: int, place: Path, kinds: list[str]) -> None:
    status = 1
    try:
        warnings.simplefilter("ignore")
        two_processes.main(rank, 2, place, kinds)
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def found(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    """What two processes say of all kinds of training, one after the other: first and second."""
    place, kinds = tmp_path_factory.mktemp("processes"), ["ddp", "fsdp", "ddp-uneven"]
    shutil.copytree(tiny_clip_dir, place / "model")
    # forked, as importing everything again takes longer than all of it
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking a process that has threads
        running = [context.Process(target=_child, args=(rank, place, kinds)) for rank in range(2)]
        for process in running:
            process.start()
    for process in running:
        process.join(200)
    hanging = [process for process in running if process.is_alive()]
    for process in hanging:
        process.kill()
        process.join()
    assert not hanging, "one process waits for the other"
    assert [process.exitcode for process in running] == [0, 0]
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
