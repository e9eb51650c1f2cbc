"""The callback of the Hugging Face Trainer, in real trainings of the tiny CLIP."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_trainings import probe, same, trainer_of, weights_of
from transformers import CLIPForImageClassification, EarlyStoppingCallback, TrainerCallback

import clipdrift
from clipdrift.integrations.transformers import DriftCallback
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights
from clipdrift.monitoring import log
from clipdrift.monitoring.backbone import restore, same_weights
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.runs.locks import claim

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def watched(
    clip: Clip, out: Path, *, every: Any = 2, model: Any = None, **changes: Any
) -> tuple[Any, DriftCallback]:
    """A trainer with the callback added as the documentation says."""
    options = {k: changes.pop(k) for k in ("rules", "monitor", "patience", "name", "find") if k in changes}
    trainer = trainer_of(clip.model if model is None else model, clip, out, **changes)
    callback = DriftCallback(trainer, probe(), every=every, budget=None, **options)
    trainer.add_callback(callback)
    return trainer, callback


def steps(callback: DriftCallback) -> list[int]:
    return [row["step"] for row in callback.monitor.rows]


def test_weights_are_those_of_a_training_without_it(tiny_clip: Clip, tmp_path: Path) -> None:
    """Measuring leaves no trace: same weights and losses to the bit, dropout's random numbers included."""
    tiny_clip.model.vision_model.config.attention_dropout = 0.1
    for layer in tiny_clip.model.vision_model.encoder.layers:
        layer.self_attn.dropout = 0.1
    plain = copy.deepcopy(tiny_clip.model)
    alone = trainer_of(plain, tiny_clip, tmp_path / "alone")
    alone.train()
    trainer, callback = watched(tiny_clip, tmp_path / "watched", every=1)
    before = weights_of(tiny_clip.model)
    trainer.train()
    assert steps(callback) == list(range(1, 9))
    assert same(weights_of(plain), weights_of(tiny_clip.model))
    assert not same(before, weights_of(plain))
    losses = [[row["loss"] for row in one.state.log_history if "loss" in row] for one in (alone, trainer)]
    assert losses[0] == losses[1]


def test_optimiser_steps_are_counted_and_logged_in_order(tiny_clip: Clip, tmp_path: Path) -> None:
    """Of four batches an epoch, two are a step; each number stands at its step, and no loss goes missing."""
    trainer, callback = watched(tiny_clip, tmp_path, every=1, gradient_accumulation_steps=2)
    trainer.train()
    assert steps(callback) == [1, 2, 3, 4]
    with claim(tmp_path / "drift", 0.1):  # the training has ended, so another monitor may have the folder
        pass
    history = trainer.state.log_history
    assert [row["step"] for row in history] == sorted(row["step"] for row in history)
    drifts = {row["step"]: row["drift/cka"] for row in history if "drift/cka" in row}
    assert drifts == {row["step"]: row["drift/cka"] for row in callback.monitor.rows}
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4]


class _Chatty(TrainerCallback):
    """Has each step logged, and decides it before the step ends."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        control.should_log = True


def test_what_others_want_logged_is_logged(tiny_clip: Clip, tmp_path: Path) -> None:
    """Logging numbers takes back that the loss is to be logged: in one process of several, so they hang."""
    trainer, _ = watched(tiny_clip, tmp_path, callbacks=[_Chatty()], logging_strategy="no", max_steps=4)
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [1, 2, 3, 4]


def test_batches_of_one_image(tiny_clip: Clip, tmp_path: Path) -> None:
    trainer, callback = watched(tiny_clip, tmp_path, every=4, per_device_train_batch_size=1, max_steps=5)
    trainer.train()
    assert steps(callback) == [4, 5]  # the last state, too


class _Order(TrainerCallback):
    """Was there first, and looks for a metric of ours."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.seen.append(others["metrics"]["eval_drift_cka"])


def test_the_best_checkpoint_is_chosen_by_drift(
    tiny_clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation has the numbers of its step, for callbacks that were there before, too."""
    first = _Order()
    trainer, callback = watched(
        tiny_clip,
        tmp_path,
        every=100,
        callbacks=[first, EarlyStoppingCallback(early_stopping_patience=2)],
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="drift_cka",
        max_steps=8,
    )
    trainer.train()
    assert steps(callback) == [2, 4, 6]  # early stopping had patience for two that are worse
    seen = list(first.seen)
    assert seen == [row["drift/cka"] for row in callback.monitor.rows]
    assert trainer.state.best_metric == max(seen)
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"
    assert "is disabled" not in caplog.text
    # the best weights were loaded: their drift, not that of the last step, and no further row of the training
    assert trainer.evaluate()["eval_drift_cka"] == pytest.approx(seen[0], abs=1e-9)
    assert seen[0] != pytest.approx(seen[-1], abs=1e-6)
    assert steps(callback) == [2, 4, 6]


def test_a_guess_that_keeps_the_worst_checkpoint_is_said(
    tiny_clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps"}
    settings |= {"save_steps": 4, "load_best_model_at_end": True, "max_steps": 4}
    trainer, _ = watched(tiny_clip, tmp_path, metric_for_best_model="drift_embedding_drift", **settings)
    trainer.train()
    assert "say greater_is_better=False" in caplog.text
    caplog.clear()
    trainer, _ = watched(tiny_clip, tmp_path / "b", metric_for_best_model="drift_cka", **settings)
    trainer.train()
    assert "greater_is_better" not in caplog.text


def test_a_metric_that_could_not_be_measured_is_never_the_best(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that fails is said, and the training goes on."""
    trainer, callback = watched(
        tiny_clip,
        tmp_path,
        every=100,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="drift_cka",
        max_steps=4,
    )

    def broken(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(DriftMonitor, "_row", broken)
    trainer.train()
    assert trainer.state.global_step == 4
    assert math.isnan(trainer.evaluate()["eval_drift_cka"])
    assert "no memory" in callback.monitor.said[0]


def test_a_rule_stops_the_training_and_the_state_is_saved(tiny_clip: Clip, tmp_path: Path) -> None:
    rules = clipdrift.Rules(stop_when="cka < 0.9999999", patience=2)
    trainer, callback = watched(tiny_clip, tmp_path, rules=rules, save_strategy="steps", save_steps=100)
    trainer.train()
    assert trainer.state.global_step == 4
    assert steps(callback) == [2, 4]
    assert (tmp_path / "checkpoint-4").is_dir()


@pytest.mark.parametrize("restores", [False, True])
def test_a_resumed_training_goes_on(tiny_clip: Clip, tmp_path: Path, restores: bool) -> None:
    """Patience, steps and backbone are those from before, whether or not the Trainer restores callbacks."""
    rules = clipdrift.Rules(stop_when="cka < 0.9999999", patience=3)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "every": 2, "rules": rules}
    settings["restore_callback_states_from_checkpoint"] = restores
    fresh = copy.deepcopy(tiny_clip.model)
    trainer, first = watched(tiny_clip, tmp_path, max_steps=4, **settings)
    trainer.train()
    read = (tmp_path / "drift/backbone/backbone.json").stat().st_mtime_ns
    other, second = watched(tiny_clip, tmp_path, model=fresh, max_steps=8, **settings)
    other.train(resume_from_checkpoint=True)
    assert second in other.callback_handler.callbacks
    assert second.monitor.rows[:2] == first.monitor.rows
    assert steps(second) == [2, 4, 6]
    assert other.state.global_step == 6  # the third measurement in a row
    assert (tmp_path / "drift/backbone/backbone.json").stat().st_mtime_ns == read
    assert second.monitor.rows[-1]["drift/weight_drift"] > first.monitor.rows[0]["drift/weight_drift"]
    assert [row["step"] for row in log.read(tmp_path / "drift")[0]] == [2, 4, 6]


def test_a_checkpoint_from_before_the_callback(tiny_clip: Clip, tmp_path: Path) -> None:
    """The backbone is the model as it was made, not the checkpoint's, and saving goes on."""
    fresh = copy.deepcopy(tiny_clip.model)
    wanted = {name: weight.clone() for name, weight in effective_weights(fresh).items()}
    trainer_of(tiny_clip.model, tiny_clip, tmp_path, save_strategy="steps", save_steps=4, max_steps=4).train()
    trainer, callback = watched(tiny_clip, tmp_path, model=fresh, save_strategy="steps", save_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert steps(callback) == [5, 7, 8]
    assert same_weights(restore(tmp_path / "drift").weights, wanted)
    assert (tmp_path / "checkpoint-8").is_dir()


def test_two_trainings_of_one_trainer(tiny_clip: Clip, tmp_path: Path) -> None:
    """A training that begins anew begins its log anew, and is measured against the same backbone."""
    made: list[Any] = []

    def build() -> Any:
        made.append(copy.deepcopy(tiny_clip.model))
        return made[-1]

    trainer, callback = watched(tiny_clip, tmp_path, model_init=build, max_steps=2)
    trainer.train()
    trainer.train()
    assert len(made) == 3  # each with a model of its own, the one of the Trainer's construction aside
    assert [row["step"] for row in log.read(tmp_path / "drift")[0]] == [2]
    assert (tmp_path / "drift/drift.1.jsonl").is_file()
    assert callback.monitor.rows[-1]["drift/embedding_drift"] > 0


def test_rates_are_reduced_in_optimiser_and_schedule(tiny_clip: Clip, tmp_path: Path) -> None:
    rules = clipdrift.Rules(reduce_rate_when="cka < 0.9999999", factor=0.1)
    trainer, _ = watched(tiny_clip, tmp_path, rules=rules, max_steps=4, lr_scheduler_type="constant")
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_two_callbacks_of_one_training(
    tiny_clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has its folder and, where the Trainer restores callbacks, its own state."""
    for limit in (4, 8):
        model = copy.deepcopy(tiny_clip.model)
        trainer = trainer_of(
            model,
            tiny_clip,
            tmp_path,
            max_steps=limit,
            save_strategy="steps",
            save_steps=2,
            restore_callback_states_from_checkpoint=True,
        )
        both = [
            DriftCallback(trainer, probe(), every=n, name=name) for n, name in ((2, "drift"), (3, "other"))
        ]
        for one in both:
            trainer.add_callback(one)
        trainer.train(resume_from_checkpoint=limit == 8)
    assert steps(both[0]) == [2, 4, 6, 8]
    assert steps(both[1])[0] == 3
    assert steps(both[1])[-1] == 8
    assert (tmp_path / "other/drift.jsonl").is_file()
    assert "already one" not in caplog.text


def test_an_adapter_is_measured_as_it_acts(tiny_clip: Clip, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(tiny_clip.model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    rules = clipdrift.Rules(keep_best_when="cka > 0")
    trainer, callback = watched(
        tiny_clip, tmp_path, model=adapted, rules=rules, learning_rate=1e-2, label_names=["input_ids"]
    )
    trainer.train()
    assert callback.monitor.rows[-1]["drift/weight_drift"] > 0
    assert (callback.monitor.good / "adapter_model.safetensors").is_file()


def test_a_classifier_is_measured(tiny_clip: Clip, tmp_path: Path) -> None:
    """Only its image tower is CLIP's; the head is none of ours."""
    tiny_clip.model.config.num_labels = 2
    model = CLIPForImageClassification(tiny_clip.model.config)
    trainer, callback = watched(tiny_clip, tmp_path, model=model, max_steps=2)
    trainer.data_collator = lambda rows: {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.arange(len(rows)) % 2,
    }
    trainer.train()
    assert callback.monitor.rows[-1]["drift/weight_drift"] > 0


def test_of_several_models_the_one_that_is_trained_is_named(tiny_clip: Clip, tmp_path: Path) -> None:
    class Distilled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = copy.deepcopy(tiny_clip.model).requires_grad_(False)
            self.student = tiny_clip.model

        def forward(self, **batch: Any) -> Any:
            return self.student(**batch)

    model = Distilled()
    with pytest.raises(clipdrift.monitoring.errors.MonitorError, match="2 models"):
        watched(tiny_clip, tmp_path, model=model)
    trainer, callback = watched(tiny_clip, tmp_path, model=model, max_steps=2, find=lambda one: one.student)
    trainer.train()
    assert callback.monitor.rows[-1]["drift/weight_drift"] > 0


def test_values_reach_tensorboard(tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever watches there sees them, at the step they belong to."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    trainer, callback = watched(tiny_clip, tmp_path, max_steps=4, report_to="tensorboard")
    trainer.train()
    found = EventAccumulator(str(tmp_path / "tb"))
    found.Reload()
    rows = [(one.step, one.value) for one in found.Scalars("train/drift/cka")]
    assert [step for step, _ in rows] == [2, 4]
    assert rows[-1][1] == pytest.approx(callback.monitor.rows[-1]["drift/cka"], abs=1e-6)
