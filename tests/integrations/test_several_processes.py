"""Two processes train one model on the CPU: one measures, both know, and both stop at the same step."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning_modules import Tuned, loader
from lightning_modules import trainer_of as lightning_trainer_of
from small_trainings import probe, trainer_of
from torch.distributed import destroy_process_group, is_initialized

import clipdrift
from clipdrift.integrations.lightning import DriftCallback as LightningCallback
from clipdrift.integrations.transformers import DriftCallback
from clipdrift.model.clip import Clip

COUNT = 2
WAIT = 120
"""Seconds after which a process that waits for the other is ended."""
RULES = clipdrift.Rules(stop_when="cka < 0.9999999", patience=2)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _child(rank: int, port: int, out: Path, work: Callable[[Path], dict[str, Any]]) -> None:
    """Do the work as one of the processes, and leave what it returns on disk."""
    status = 1
    try:
        warnings.simplefilter("ignore")
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(COUNT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        for state in (AcceleratorState, PartialState, GradientState):
            state._shared_state.clear()  # of trainings that the parent did alone
        (out / f"{rank}.json").write_text(json.dumps(work(out)))
        if is_initialized():
            destroy_process_group()
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def in_two_processes(out: Path, work: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """What the work returns in each process; forked, as importing everything again takes longer than it."""
    context = multiprocessing.get_context("fork")
    port = _free_port()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking a process that has threads
        children = [context.Process(target=_child, args=(rank, port, out, work)) for rank in range(COUNT)]
        for one in children:
            one.start()
    for one in children:
        one.join(WAIT)
    hanging = [one for one in children if one.is_alive()]
    for one in hanging:
        one.kill()
        one.join()
    assert not hanging, "one process waits for the other"
    assert [one.exitcode for one in children] == [0] * COUNT
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(COUNT)]


def test_the_trainer_stops_everywhere_and_all_know_the_best(tiny_clip: Clip, tmp_path: Path) -> None:
    """An evaluation that one process measures has its numbers in both, as both judge which is the best."""

    def work(out: Path) -> dict[str, Any]:
        trainer = trainer_of(
            tiny_clip.model,
            tiny_clip,
            out / "tuned",
            per_device_train_batch_size=2,
            num_train_epochs=4,
            eval_strategy="steps",
            eval_steps=3,
            metric_for_best_model="drift_cka",
            ddp_find_unused_parameters=True,
        )
        callback = DriftCallback(trainer, probe(), every=2, budget=None, rules=RULES)
        trainer.add_callback(callback)
        trainer.train()
        losses = [row["step"] for row in trainer.state.log_history if "loss" in row]
        return {
            "stopped": trainer.state.global_step,
            "best": trainer.state.best_metric,
            "rows": [row["step"] for row in callback.monitor.rows],
            "losses": losses,
        }

    first, second = in_two_processes(tmp_path, work)
    assert first["stopped"] == second["stopped"] == 5  # two steps after the second measurement, at the third
    assert first["best"] == second["best"]
    assert first["rows"] == [2, 3, 5]
    assert second["rows"] == []
    assert first["losses"] == second["losses"] == [1, 2, 3, 4, 5]  # all gather them together


class _Seen(Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.values.append(float(trainer.callback_metrics["drift/cka"]))


def test_lightning_stops_everywhere_and_all_know_the_numbers(tiny_clip: Clip, tmp_path: Path) -> None:
    def work(out: Path) -> dict[str, Any]:
        seen, best = _Seen(), ModelCheckpoint(out / "best", monitor="drift/cka", mode="max")
        callback = LightningCallback(probe(), every=2, budget=None, rules=RULES)
        trainer = lightning_trainer_of(
            out, seen, best, callback, devices=COUNT, strategy="ddp_find_unused_parameters_true", max_epochs=9
        )
        trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip, batch=2), loader(tiny_clip, count=4))
        return {
            "stopped": trainer.global_step,
            "seen": seen.values,
            "best": best.best_model_path,
            "rows": [row["step"] for row in callback.monitor.rows],
        }

    first, second = in_two_processes(tmp_path, work)
    assert first["stopped"] == second["stopped"] == 6  # two steps after the second measurement
    assert first["seen"] == pytest.approx(second["seen"])
    assert len(first["seen"]) >= 2
    assert first["best"] == second["best"]
    assert first["rows"][:2] == [2, 4]
    assert second["rows"] == []
