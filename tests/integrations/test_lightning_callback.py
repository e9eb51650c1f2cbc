"""The callback of Lightning, in real trainings of the tiny CLIP."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning_modules import Tuned, loader, trainer_of
from small_trainings import probe, same, weights_of

import clipdrift
from clipdrift.integrations.lightning import DriftCallback
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights
from clipdrift.monitoring import log
from clipdrift.monitoring.backbone import restore, same_weights
from clipdrift.runs.locks import claim

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*is smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*defined a `validation_step` but have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*epoch.* was already completed.*"),
]


def callback_of(**options: Any) -> DriftCallback:
    return DriftCallback(probe(), **({"every": 2, "budget": None} | options))


def steps(callback: DriftCallback) -> list[int]:
    return [row["step"] for row in callback.monitor.rows]


def test_weights_are_those_of_a_training_without_it(tiny_clip: Clip, tmp_path: Path) -> None:
    """Measuring leaves no trace: the same weights to the bit, dropout's random numbers included."""
    for layer in tiny_clip.model.vision_model.encoder.layers:
        layer.self_attn.dropout = 0.1
    plain = copy.deepcopy(tiny_clip.model)
    before = weights_of(plain)
    trainer_of(tmp_path).fit(Tuned(plain), loader(tiny_clip))
    callback = callback_of(every=1)
    trainer_of(tmp_path, callback).fit(Tuned(tiny_clip.model), loader(tiny_clip))
    assert steps(callback) == list(range(1, 9))
    assert same(weights_of(plain), weights_of(tiny_clip.model))
    assert not same(before, weights_of(plain))


def test_optimiser_steps_are_counted_and_each_row_is_logged(tiny_clip: Clip, tmp_path: Path) -> None:
    """Of four batches an epoch, two are a step; the trainer's own interval of logging leaves no row out."""
    callback = callback_of(every=1)
    logger = CSVLogger(tmp_path, "csv", "1")
    trainer = trainer_of(tmp_path, callback, logger=logger, accumulate_grad_batches=2, log_every_n_steps=50)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip))
    assert steps(callback) == [1, 2, 3, 4]
    with claim(tmp_path / "drift", 0.1):  # the training has ended, so another monitor may have the folder
        pass
    rows = csv.DictReader((tmp_path / "csv/1/metrics.csv").read_text().splitlines())
    found = {int(row["step"]): float(row["drift/cka"]) for row in rows if row["drift/cka"]}
    assert found == pytest.approx({row["step"]: row["drift/cka"] for row in callback.monitor.rows})


def test_batches_of_one_image_and_the_last_state(tiny_clip: Clip, tmp_path: Path) -> None:
    callback = callback_of(every=4)
    trainer_of(tmp_path, callback, max_steps=5).fit(Tuned(tiny_clip.model), loader(tiny_clip, batch=1))
    assert steps(callback) == [4, 5]


def test_checkpoints_and_early_stopping_follow_drift(tiny_clip: Clip, tmp_path: Path) -> None:
    """Each validation has the numbers of its step, whoever of the callbacks comes first."""
    best = ModelCheckpoint(tmp_path / "best", monitor="drift/cka", mode="max")
    stopping = EarlyStopping("drift/cka", mode="max", patience=2)
    callback = callback_of(every=100)
    trainer = trainer_of(tmp_path, stopping, best, callback, max_epochs=9)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip), loader(tiny_clip, count=4))
    assert steps(callback) == [4, 8, 12]
    found = [row["drift/cka"] for row in callback.monitor.rows]
    assert found == sorted(found, reverse=True)
    assert float(best.best_model_score) == pytest.approx(found[0])
    assert "step=4" in best.best_model_path


def test_without_validation_they_look_at_the_end_of_an_epoch(tiny_clip: Clip, tmp_path: Path) -> None:
    best = ModelCheckpoint(
        tmp_path / "best", monitor="drift/cka", mode="max", save_on_train_epoch_end=True, save_top_k=-1
    )
    callback = callback_of(every=3)
    trainer_of(tmp_path, best, callback).fit(Tuned(tiny_clip.model), loader(tiny_clip))
    assert steps(callback) == [3, 4, 7, 8]  # when due, and when a checkpoint is to be judged
    rows = {row["step"]: row["drift/cka"] for row in callback.monitor.rows}
    scores = [float(score) for score in best.best_k_models.values()]
    assert scores == pytest.approx([rows[4], rows[8]])


def test_the_sanity_check_measures_nothing(tiny_clip: Clip, tmp_path: Path) -> None:
    callback = callback_of(every=100)
    trainer = trainer_of(tmp_path, callback, num_sanity_val_steps=1, max_steps=3, max_epochs=1)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip), loader(tiny_clip, count=4))
    assert steps(callback) == [3]


def test_a_rule_stops_the_training(tiny_clip: Clip, tmp_path: Path) -> None:
    callback = callback_of(rules=clipdrift.Rules(stop_when="cka < 0.9999999", patience=2))
    trainer = trainer_of(tmp_path, callback, max_epochs=5)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip))
    assert trainer.global_step == 4


def test_a_resumed_training_goes_on(tiny_clip: Clip, tmp_path: Path) -> None:
    """Patience, steps and backbone are those from before; two callbacks have each their own."""

    def both() -> list[DriftCallback]:
        rules = clipdrift.Rules(stop_when="cka < 0.9999999", patience=3)
        return [callback_of(rules=rules), callback_of(every=3, name="other")]

    fresh = copy.deepcopy(tiny_clip.model)
    first = both()
    trainer = trainer_of(tmp_path, *first, max_epochs=1)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    read = (tmp_path / "drift/backbone/backbone.json").stat().st_mtime_ns
    second = both()
    trainer = trainer_of(tmp_path, *second, max_epochs=4)
    trainer.fit(Tuned(fresh), loader(tiny_clip), ckpt_path=tmp_path / "one.ckpt")
    assert second[0].monitor.rows[:2] == first[0].monitor.rows
    assert steps(second[0]) == [2, 4, 6]
    assert steps(second[1])[0] == 3
    assert trainer.global_step == 6  # the third measurement in a row
    assert (tmp_path / "drift/backbone/backbone.json").stat().st_mtime_ns == read
    assert [row["step"] for row in log.read(tmp_path / "drift")[0]] == [2, 4, 6]


def test_a_checkpoint_from_before_the_callback(tiny_clip: Clip, tmp_path: Path) -> None:
    """The backbone is the module as it was made, not the checkpoint's."""
    fresh = copy.deepcopy(tiny_clip.model)
    wanted = {name: weight.clone() for name, weight in effective_weights(fresh).items()}
    trainer = trainer_of(tmp_path, max_epochs=1)
    trainer.fit(Tuned(tiny_clip.model), loader(tiny_clip))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    callback = callback_of()
    trainer_of(tmp_path, callback).fit(Tuned(fresh), loader(tiny_clip), ckpt_path=tmp_path / "one.ckpt")
    assert steps(callback) == [5, 7, 8]
    assert same_weights(restore(tmp_path / "drift").weights, wanted)


def test_a_model_that_is_made_later(tiny_clip: Clip, tmp_path: Path) -> None:
    """Where ``configure_model`` makes it, there is none before."""

    class Later(Tuned):
        def __init__(self) -> None:
            super().__init__(torch.nn.Identity())

        def configure_model(self) -> None:
            self.model = tiny_clip.model.train()

    callback = callback_of(every=4)
    trainer_of(tmp_path, callback, max_epochs=1).fit(Later(), loader(tiny_clip))
    assert callback.monitor.rows[-1]["drift/embedding_drift"] > 0


def test_rates_are_reduced(tiny_clip: Clip, tmp_path: Path) -> None:
    module = Tuned(tiny_clip.model)
    callback = callback_of(rules=clipdrift.Rules(reduce_rate_when="cka < 0.9999999", factor=0.1))
    trainer = trainer_of(tmp_path, callback, max_epochs=1)
    trainer.fit(module, loader(tiny_clip))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == pytest.approx([1e-4])


def test_another_fit_begins_its_log_anew(tiny_clip: Clip, tmp_path: Path) -> None:
    """One callback for two trainings, each with a module of its own."""
    callback = callback_of()
    for _ in range(2):
        model = copy.deepcopy(tiny_clip.model)
        trainer_of(tmp_path, callback, max_epochs=1).fit(Tuned(model), loader(tiny_clip))
        assert steps(callback) == [2, 4]
        assert callback.monitor.rows[-1]["drift/embedding_drift"] > 0
    assert (tmp_path / "drift/drift.1.jsonl").is_file()


def test_the_model_that_is_trained_is_found_or_named(tiny_clip: Clip, tmp_path: Path) -> None:
    module = Tuned(tiny_clip.model)
    module.teacher = copy.deepcopy(tiny_clip.model).requires_grad_(False).train()
    with pytest.raises(clipdrift.monitoring.errors.MonitorError, match="2 models"):
        trainer_of(tmp_path, callback_of(), max_epochs=1).fit(module, loader(tiny_clip))
    callback = callback_of(find=lambda one: one.model)
    trainer_of(tmp_path, callback, max_epochs=1).fit(module, loader(tiny_clip))
    assert torch.tensor(callback.monitor.rows[-1]["drift/weight_drift"]) > 0
