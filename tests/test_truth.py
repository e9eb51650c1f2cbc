"""What a run must refuse: measuring another model than the one it trained, and going on when it is broken."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from transformers import CLIPModel

import clipdrift.training.adapting as adapting
import clipdrift.training.observer as observing
from clipdrift.adapt import Adapted, adapt, load_adapted
from clipdrift.data.errors import DataError
from clipdrift.measures import MeasureError, read_internals, zero_shot_accuracy
from clipdrift.model.clip import load
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import Store
from clipdrift.training.observer import InactiveAdapterError
from clipdrift.training.preparation import prepare
from small_runs import Lab

CPU = torch.device("cpu")


# --- the truth test


def switch(model: CLIPModel, off: bool) -> None:
    """Switch every adapter and every fully trained copy inside the model on or off, as peft does."""
    for module in model.modules():
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            module.enable_adapters(not off)


class ThroughTheBackbone:
    """What went wrong in the published study, on demand: the model is trained with its adapters active and
    then read with them switched off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.adapted: Adapted | None = None
        self.read = 0
        monkeypatch.setattr(adapting, "adapt", self.adapt)
        monkeypatch.setattr(observing, "read_internals", self.read_internals)

    def adapt(self, *arguments: Any) -> Adapted:
        self.adapted = adapt(*arguments)
        return self.adapted

    def read_internals(self, *arguments: Any, **options: Any) -> Any:
        if self.adapted is None or self.adapted.peft is None:
            return read_internals(*arguments, **options)
        self.read += 1
        with self.adapted.peft.disable_adapter():
            return read_internals(*arguments, **options)


def test_reading_with_adapters_switched_off_is_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's reason to exist: a run that measures the backbone under the adapter's name must fail."""
    fault = ThroughTheBackbone(monkeypatch)
    out = lab.tmp()
    with pytest.raises(InactiveAdapterError, match=r"weights changed but no embedding did"):
        lab.run(lab.config("lora"), out)
    assert fault.read == 1  # found at the first look, not after hours
    (folder,) = Store(out).runs()
    assert not folder.finished


def test_inactive_adapters_would_have_scored_perfectly(lab: Lab) -> None:
    """Why the error is needed: switched off, every number is flawless, and nothing else would tell."""
    data = {"transfer": ["terrain-10"]}
    config = lab.config("lora", data=data, optim={"learning_rate": 0.03, "epochs": 3})
    record, folder = lab.run(config)
    assert record.best is not None
    inputs = prepare(record.config, lab.cache, CPU, Silent())
    features, deck = inputs.transfer["terrain-10"].features, inputs.transfer["terrain-10"].deck
    before = read_internals(inputs.clip.model, inputs.probe)
    model = load_adapted(folder.path / "model", record.config.model).model
    recorded = record.best.transfer["terrain-10"].accuracy
    assert zero_shot_accuracy(model, features, deck) == pytest.approx(recorded)
    assert record.best.transfer["terrain-10"].retention != pytest.approx(100, abs=3)  # the truth
    switch(model, off=True)
    off = zero_shot_accuracy(model, features, deck)
    assert (
        100 * off / record.backbone.zero_shot["terrain-10"] == 100.0
    )  # exactly: the published perfect score
    now = read_internals(model, inputs.probe)
    assert torch.equal(now.embedding, before.embedding)
    switch(model, off=False)
    assert not torch.equal(read_internals(model, inputs.probe).embedding, before.embedding)


def test_measuring_another_model_is_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other published fault: weights that matched nothing, so that a fresh backbone was measured."""
    fresh = load(lab.model).model
    monkeypatch.setattr(
        observing, "read_internals", lambda _, *rest, **more: read_internals(fresh, *rest, **more)
    )
    with pytest.raises(InactiveAdapterError, match=r"weights changed but no embedding did"):
        lab.run(lab.config("full_ft"))


@pytest.mark.parametrize("frozen", [False, True])
def test_adapters_that_took_no_part_in_training_are_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Switched off from the start, adapters never move: zero drift, 100 % retention, all of it void."""

    def inert(*arguments: Any) -> Adapted:
        adapted = adapt(*arguments)
        learnt = [p for p in adapted.clip.model.parameters() if p.requires_grad]
        switch(adapted.clip.model, off=True)
        for parameter in learnt:  # peft freezes what it switches off
            parameter.requires_grad_(not frozen)
        return adapted

    monkeypatch.setattr(adapting, "adapt", inert)
    with pytest.raises(InactiveAdapterError, match=r"no weight of the model took part"):
        lab.run(lab.config("lora"))


def test_weights_that_stand_still_while_embeddings_move_are_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reverse: a probe that measures something else than the weights it reports on."""
    frozen = load(lab.model)
    weights = observing.effective_weights(frozen.model)
    monkeypatch.setattr(observing, "effective_weights", lambda _: weights)
    with pytest.raises(InactiveAdapterError, match=r"did not change but embeddings did"):
        lab.run(lab.config("lora"))


@pytest.mark.parametrize("method", ["full_ft", "lora"])
@pytest.mark.parametrize("rate", [1e-9, 1e-12])
def test_the_truth_test_raises_no_false_alarm_at_tiny_rates(lab: Lab, method: str, rate: float) -> None:
    """Steps below float32's resolution leave embeddings as they were, and that is no fault."""
    optim = {"learning_rate": rate, "epochs": 1}
    record, _ = lab.run(lab.config(method, optim=optim), save=False)
    assert record.status == "done"


# --- failing


@pytest.mark.parametrize("method", ["full_ft", "lora", "linear_probe"])
def test_a_diverged_run_leaves_a_record(lab: Lab, method: str) -> None:
    """A study goes on past it and knows why."""
    config, out = lab.config(method, optim={"learning_rate": 1e30, "epochs": 6}), lab.tmp()
    record, folder = lab.run(config, out)
    assert record.status == "diverged"
    assert record.reason
    assert "\n" not in record.reason
    assert (record.best, record.last, record.artefacts) == (None, None, {})
    assert len(record.history) < 6
    assert folder.record() == record
    assert not (folder.path / "model").exists()
    assert lab.run(config, out)[0] == record  # finished, if badly


def test_a_model_that_can_no_longer_be_measured_has_diverged(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At high rates attention or embeddings break down while the loss is still finite: a result as well."""
    looks = []

    def breaks(*arguments: Any, **options: Any) -> Any:
        looks.append(arguments)
        if len(looks) == 3:  # the backbone, the first epoch, the second
            raise MeasureError("entropy of block 2: attention weights of a row sum to zero")
        return read_internals(*arguments, **options)

    monkeypatch.setattr(observing, "read_internals", breaks)
    record, folder = replace(lab, cache=lab.tmp()).run(lab.config(optim={"epochs": 3}))
    assert (record.status, record.best, record.last) == ("diverged", None, None)
    assert record.reason == "entropy of block 2: attention weights of a row sum to zero"
    assert [p.epoch for p in record.history] == [1]
    assert folder.record() == record


def test_a_probe_set_too_small_is_an_error_before_training(lab: Lab) -> None:
    """What cannot be measured on the backbone either is a mistake of the configuration, no divergence."""
    out = lab.tmp()
    with pytest.raises(MeasureError, match=r"cka of block 1: cka needs at least 4 images, got 3"):
        lab.run(lab.config(data={"probe_per_class": 1}), out)
    assert not any(folder.finished for folder in Store(out).runs())


def test_an_unreadable_image_stops_the_run_or_is_listed(lab: Lab, tmp_path: Path) -> None:
    """By default an error that names the file; with skip_bad_images it is counted and listed."""
    shutil.copytree(lab.pictures, tmp_path / "colours")
    bad = tmp_path / "colours" / "test" / "green" / "im03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    target = tmp_path / "colours"
    with pytest.raises(DataError, match=r"im03\.png"):
        lab.run(lab.config(target=target))
    config = lab.config("linear_probe", target=target, data={"skip_bad_images": True})
    record, folder = lab.run(config)
    images = record.target.images["test"]
    assert images.count == 26
    ((where, reason),) = images.bad
    assert where == str(bad)
    assert reason
    assert not record.target.images["train"].bad
    assert folder.record().target.images["test"].bad == images.bad
