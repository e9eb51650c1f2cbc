"""A whole run, from configuration to record: that what is recorded is true of what is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from PIL import Image
from safetensors.torch import load_file
from small_runs import CLASSES, COUNTS, config_for, numbers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

import clipdrift.observe as observing
import clipdrift.runner as running
from clipdrift.adapt import Adapted, adapt, load_adapted
from clipdrift.config import ConfigError, RunConfig
from clipdrift.data.errors import DataError
from clipdrift.data.splits import balanced
from clipdrift.data.worlds import WORLDS, generate
from clipdrift.listing import MEASURES
from clipdrift.measures import MeasureError, read_internals, zero_shot_accuracy
from clipdrift.model.clip import MINI, load
from clipdrift.observe import InactiveAdapterError
from clipdrift.record import Point, Record
from clipdrift.reporter import Silent
from clipdrift.runner import run
from clipdrift.stage import prepare, resolve
from clipdrift.store import RunFolder, Store

CPU = torch.device("cpu")
METHODS = ("full_ft", "lora", "linear_probe")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.write_folder(tmp_path_factory.mktemp("pictures") / "colours")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclass(frozen=True)
class Lab:
    """Makes runs on the tiny CLIP, each in an empty folder unless one is given."""

    model: Path
    pictures: Path
    cache: Path
    tmp: Callable[[], Path]

    def config(self, method: Any = "full_ft", **changes: Any) -> RunConfig:
        return config_for(self.model, changes.pop("target", self.pictures), method=method, **changes)

    def run(self, config: RunConfig, out: Path | None = None, **options: Any) -> tuple[Record, RunFolder]:
        return run(config, out or self.tmp(), cache=self.cache, device="cpu", **options)


@pytest.fixture(scope="module")
def lab(
    tiny_clip_dir: Path, pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
    return Lab(tiny_clip_dir, pictures, cache, lambda: tmp_path_factory.mktemp("runs"))


Finished = dict[str, tuple[Record, RunFolder]]


@pytest.fixture(scope="module")
def finished(lab: Lab) -> Finished:
    """Each method once on terrain-10, with a generated and a photographed transfer set."""
    transfer = [{"name": "objects-100", "per_class": 2}, {"name": "colours", "path": str(lab.pictures)}]
    data = {"transfer": transfer, "train_per_class": 6, "validation_per_class": 3, "probe_per_class": 2}
    out = lab.tmp()
    return {m: lab.run(lab.config(m, target="terrain-10", data=data), out) for m in METHODS}


# --- independent reading: plain transformers, peft and Pillow


def plain_model(record: Record, folder: RunFolder, backbone: Path) -> CLIPModel:
    """The adapted model as somebody without clipdrift loads it."""
    weights = folder.path / record.artefacts["weights"]
    if record.artefacts["kind"] == "model":
        return CLIPModel.from_pretrained(weights).eval()
    base = CLIPModel.from_pretrained(backbone)
    if record.artefacts["kind"] == "head":
        return base.eval()
    merged = PeftModel.from_pretrained(base, weights).merge_and_unload()
    assert isinstance(merged, CLIPModel)
    return merged.eval()


@torch.no_grad()
def plain_embeddings(model: CLIPModel, pixels: list[Image.Image], processor: Path) -> Tensor:
    batch = CLIPImageProcessorPil.from_pretrained(processor)(pixels, return_tensors="pt")
    return model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output


@torch.no_grad()
def plain_zero_shot(
    model: CLIPModel, tokenizer: Path, texts: list[str], embeddings: Tensor, labels: NDArray[np.int64]
) -> float:
    tokens = AutoTokenizer.from_pretrained(tokenizer)(texts, padding=True, return_tensors="pt")
    text = model.get_text_features(**tokens).pooler_output
    guess = (normalize(embeddings, dim=-1) @ normalize(text, dim=-1).T).argmax(-1).numpy()
    return 100 * float(np.mean(guess == labels))


def as_pictures(data: NDArray[np.uint8]) -> list[Image.Image]:
    return [Image.fromarray(x) for x in data]


# --- what a record says


@pytest.mark.parametrize("method", METHODS)
def test_a_record_says_all_of_a_run(finished: Finished, lab: Lab, method: str) -> None:
    """The record must stand alone: later studies read nothing else."""
    record, folder = finished[method]
    assert (record.status, record.reason, record.key) == ("done", None, record.config.key)
    assert folder.path.name == record.key
    assert [p.epoch for p in record.history] == [1, 2]
    assert all(p.ends_epoch and p.test_accuracy is None and not p.transfer for p in record.history)
    assert [p.step for p in record.history] == [8, 16]  # 60 images in batches of 8, the last one short
    assert set(record.units) == set(MEASURES) == set(record.history[0].measures)
    assert record.units["entropy"] == "nats"
    assert set(record.backbone.zero_shot) == set(record.transfer) == {"objects-100", "colours"}
    assert record.best is not None
    assert record.last is not None
    assert record.last.epoch == 2
    for point in (record.best, record.last):
        for name, before in record.backbone.zero_shot.items():
            after = point.transfer[name]
            assert after.retention == (100 * after.accuracy / before if before else None)
    counts = {purpose: images.count for purpose, images in record.target.images.items()}
    assert counts == {"train": 60, "validation": 30, "probe": 20, "test": 1000}
    assert record.transfer["objects-100"].images["test"].count == 200
    assert record.transfer["colours"].images["test"].count == 27
    assert record.transfer["colours"].classes == CLASSES
    assert record.environment["device"] == "cpu"
    assert set(record.timings) == {"prepare", "backbone", "train", "final", "save"}


def test_a_record_counts_what_was_trained(finished: Finished, lab: Lab) -> None:
    """Numbers of parameters are compared between methods; they must be those of the plain modules."""
    plain = CLIPModel.from_pretrained(lab.model)
    tower = sum(p.numel() for p in plain.vision_model.parameters())
    projection = plain.visual_projection.weight.numel()
    head = 24 * 10 + 10
    adapters = 2 * 2 * 8 * (32 + 32)  # blocks, q and v, rank, both sides
    expected = {"full_ft": tower + projection + head, "lora": adapters + projection + head}
    for method, (record, _) in finished.items():
        facts = record.model
        assert (facts.blocks, facts.heads, facts.patches, facts.width) == (2, 2, 16, 32)
        assert facts.parameters == tower + projection
        assert facts.trained == expected.get(method, head)


def test_measures_of_an_epoch_fit_each_other(finished: Finished) -> None:
    """Means, blocks and drifts are stored side by side; a reader may use either."""
    record, _ = finished["full_ft"]
    for point in record.history:
        for name, before in record.backbone.measures.items():
            now = point.measures[name]
            assert len(now.blocks) == len(now.drift_blocks) == 2
            assert now.mean == pytest.approx(sum(now.blocks) / 2)
            assert now.drift == pytest.approx(100 * (now.mean - before.mean) / before.mean)
            for block in range(2):
                change = 100 * (now.blocks[block] - before.blocks[block]) / before.blocks[block]
                assert now.drift_blocks[block] == pytest.approx(change)
        assert point.measures["cka"].drift is None
        assert len(point.measures["weight_drift"].blocks) == 2
        assert point.measures["weight_drift"].mean > 0
        assert 0 < point.measures["embedding_drift"].mean < 1


def test_a_linear_probe_leaves_the_tower_as_it_was(finished: Finished) -> None:
    """The negative control of every measure: nothing moved, and the numbers say exactly so."""
    record, _ = finished["linear_probe"]
    for point in record.history:
        assert all(point.measures[name].drift == 0 for name in record.backbone.measures)
        assert point.measures["weight_drift"].mean == point.measures["weight_drift_projection"].mean == 0
        assert point.measures["embedding_drift"].mean == pytest.approx(0, abs=1e-12)
        assert point.measures["cka"].mean == pytest.approx(1)
    assert record.best is not None
    assert record.best.transfer["colours"].retention == 100
    assert record.history[1].train_loss < record.history[0].train_loss


def test_the_metrics_file_agrees_with_the_record(finished: Finished) -> None:
    """Whoever watches metrics.jsonl during the run must see what the record says afterwards."""
    for record, folder in finished.values():
        lines = (folder.path / "metrics.jsonl").read_text().splitlines()
        assert [Point.model_validate_json(line) for line in lines] == list(record.history)
        assert json.loads((folder.path / "config.json").read_text()) == record.config.model_dump(mode="json")
        assert folder.record() == record


# --- what is saved is what was measured


@pytest.mark.parametrize("method", METHODS)
def test_saved_weights_reproduce_the_test_accuracy(finished: Finished, lab: Lab, method: str) -> None:
    """Loaded by plain transformers and peft, the artefacts give the recorded number: decision 2."""
    record, folder = finished[method]
    model = plain_model(record, folder, lab.model)
    head = load_file(folder.path / record.artefacts["head"])
    images, labels = generate(WORLDS["terrain-10"], "test", size=16)
    embeddings = plain_embeddings(model, as_pictures(images), lab.model)
    guess = (embeddings @ head["weight"].T + head["bias"]).argmax(-1).numpy()
    assert record.best is not None
    assert record.best.test_accuracy == pytest.approx(100 * float(np.mean(guess == labels)), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_saved_weights_reproduce_the_zero_shot_accuracy(finished: Finished, lab: Lab, method: str) -> None:
    """The number that retention is made of, recomputed without any of clipdrift's model code."""
    record, folder = finished[method]
    assert record.best is not None
    images, labels = generate(WORLDS["objects-100"], "test", size=16)
    part = balanced(labels, 2, record.config.data.seed)
    files = [
        lab.pictures / "test" / name / f"im{i:02}.png" for name in CLASSES for i in range(COUNTS["test"])
    ]
    sets = {
        "objects-100": (as_pictures(images[part]), labels[part]),
        "colours": ([Image.open(f) for f in files], np.repeat(np.arange(3), COUNTS["test"])),
    }
    for name, (shown, truth) in sets.items():
        facts = record.transfer[name]
        texts = [facts.prompts[0].format(c) for c in facts.classes]
        for model, recorded in (
            (CLIPModel.from_pretrained(lab.model).eval(), record.backbone.zero_shot[name]),
            (plain_model(record, folder, lab.model), record.best.transfer[name].accuracy),
        ):
            found = plain_zero_shot(
                model, lab.model, texts, plain_embeddings(model, shown, lab.model), truth
            )
            assert recorded == pytest.approx(found, abs=1e-9)


def test_a_saved_full_model_is_complete(finished: Finished, lab: Lab) -> None:
    """A fine-tuned folder must be of use alone: model, tokenizer and preprocessing."""
    record, folder = finished["full_ft"]
    weights = folder.path / record.artefacts["weights"]
    assert len(AutoTokenizer.from_pretrained(weights)) == len(AutoTokenizer.from_pretrained(lab.model))
    shown = as_pictures(generate(WORLDS["terrain-10"], "test", 1, 20)[0])
    model = plain_model(record, folder, lab.model)
    same = plain_embeddings(model, shown, weights), plain_embeddings(model, shown, lab.model)
    assert torch.equal(*same)
    assert load(weights).name == "model"


# --- repeating


@pytest.mark.parametrize("method", [{"name": "lora", "dropout": 0.3}, "full_ft"])
def test_a_run_repeats_to_the_bit(lab: Lab, method: Any) -> None:
    """Decision 8: the same configuration and seed give the same record but for times."""
    config = lab.config(method)
    first, folder = lab.run(config)
    second, other = lab.run(config)
    assert folder.path != other.path
    assert first.without_times() == second.without_times()
    weights = next((folder.path / "model").glob("*model.safetensors")).name
    one, two = (load_file(f.path / "model" / weights) for f in (folder, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_is_another_run(lab: Lab) -> None:
    """The positive control of the test above."""
    first, second = (lab.run(lab.config(seed=seed), save=False)[0] for seed in (1, 2))
    assert first.key != second.key
    assert first.history[0].train_loss != second.history[0].train_loss
    assert first.backbone == second.backbone  # the data seed, and so the probe set, is the same


@pytest.mark.parametrize("method", ["full_ft", "lora"])
def test_no_number_depends_on_the_evaluation_batch_size(lab: Lab, method: str) -> None:
    """Decision 5, over every number of a whole record."""
    found = []
    for size in (1, 7, 250):
        config = lab.config(method, evaluation={"batch_size": size, "epoch_transfer_per_class": 1})
        record, _ = lab.run(config, save=False)
        data = record.without_times()
        del data["config"]
        found.append((record.key, numbers(data)))
    keys = {key for key, _ in found}
    assert len(keys) == 1
    for _, values in found[1:]:
        assert values.keys() == found[0][1].keys()
        assert values == pytest.approx(found[0][1], rel=1e-5, abs=1e-5)


def test_a_finished_run_is_not_done_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saying a command twice must cost nothing, unless a repetition is asked for."""
    config, out = lab.config("linear_probe"), lab.tmp()
    record, folder = lab.run(config, out)
    before = (folder.path / "record.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(running, "prepare", lambda *_: pytest.fail("worked although done"))
        assert lab.run(config, out) == (record, folder)
    assert (folder.path / "record.json").stat().st_mtime_ns == before
    second, _ = lab.run(config, out, again=True)
    assert (folder.path / "record.json").stat().st_mtime_ns > before
    assert second.without_times() == record.without_times()


def test_an_interrupted_run_leaves_no_record_and_starts_afresh(lab: Lab) -> None:
    """Kill at any moment and nothing half-done counts."""

    class Killer(Silent):
        def point(self, point: Point) -> None:
            raise KeyboardInterrupt

    config, out = lab.config(), lab.tmp()
    with pytest.raises(KeyboardInterrupt):
        lab.run(config, out, reporter=Killer())
    (folder,) = Store(out).runs()
    assert not folder.finished
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 1
    record, again = lab.run(config, out)
    assert again == folder
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 2
    assert record.without_times() == lab.run(config)[0].without_times()


# --- the chosen epoch


@pytest.mark.parametrize(
    ("validation", "chosen"), [((40, 80, 60), 2), ((50, 70, 70), 2), ((10, 20, 30), 3), ((9, 9, 9), 1)]
)
def test_the_chosen_epoch_is_the_best_on_validation(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, validation: tuple[float, ...], chosen: int
) -> None:
    """Best and last must be two states of the model, the saved one being the best, the earliest of equals."""
    scripted, tests = iter(validation), []
    monkeypatch.setattr(observing, "accuracy", lambda *_: float(next(scripted)))
    count = running.accuracy
    monkeypatch.setattr(running, "accuracy", lambda *a: tests.append(a) or count(*a))
    record, folder = lab.run(lab.config(optim={"epochs": 3, "learning_rate": 3e-3}))
    assert record.best is not None
    assert record.last is not None
    assert (record.best.epoch, record.last.epoch) == (chosen, 3)
    assert len(tests) == 1  # the test split is read once
    assert record.best.test_accuracy is not None
    assert record.best.validation_accuracy == max(validation)
    assert record.best.measures == record.history[chosen - 1].measures
    assert record.last.measures == record.history[2].measures
    # the saved weights are those of the chosen epoch: their drift, computed here, tells the epochs apart
    drifts = [p.measures["embedding_drift"].mean for p in record.history]
    assert min(abs(drifts[0] - drifts[1]), abs(drifts[1] - drifts[2])) > 1e-5
    probe = prepare(record.config, lab.cache, CPU, Silent()).probe
    shown = as_pictures(probe.data[probe.rows])
    before, after = (
        plain_embeddings(CLIPModel.from_pretrained(place).eval(), shown, lab.model).double()
        for place in (lab.model, folder.path / "model")
    )
    drift = 1 - torch.cosine_similarity(before, after).mean().item()
    assert drift == pytest.approx(drifts[chosen - 1], abs=1e-7)


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
        monkeypatch.setattr(running, "adapt", self.adapt)
        monkeypatch.setattr(observing, "read_internals", self.read_internals)

    def adapt(self, *arguments: Any) -> Adapted:
        self.adapted = adapt(*arguments)
        return self.adapted

    def read_internals(self, *arguments: Any) -> Any:
        if self.adapted is None or self.adapted.peft is None:
            return read_internals(*arguments)
        self.read += 1
        with self.adapted.peft.disable_adapter():
            return read_internals(*arguments)


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
    stage = prepare(record.config, lab.cache, CPU, Silent())
    features, deck = stage.transfer["terrain-10"].features, stage.transfer["terrain-10"].deck
    before = read_internals(stage.clip.model, stage.probe)
    model = load_adapted(folder.path / "model", record.config.model).model
    recorded = record.best.transfer["terrain-10"].accuracy
    assert zero_shot_accuracy(model, features, deck) == pytest.approx(recorded)
    assert record.best.transfer["terrain-10"].retention != pytest.approx(100, abs=3)  # the truth
    switch(model, off=True)
    off = zero_shot_accuracy(model, features, deck)
    assert 100 * off / record.backbone.zero_shot["terrain-10"] == 100.0  # exactly: the published perfect score
    now = read_internals(model, stage.probe)
    assert torch.equal(now.embedding, before.embedding)
    switch(model, off=False)
    assert not torch.equal(read_internals(model, stage.probe).embedding, before.embedding)


def test_measuring_another_model_is_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other published fault: weights that matched nothing, so that a fresh backbone was measured."""
    fresh = load(lab.model).model
    monkeypatch.setattr(observing, "read_internals", lambda _, *rest: read_internals(fresh, *rest))
    with pytest.raises(InactiveAdapterError, match=r"weights changed but no embedding did"):
        lab.run(lab.config("full_ft"))


@pytest.mark.parametrize("frozen", [False, True])
def test_adapters_that_took_no_part_in_training_are_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Switched off from the start, adapters never move: zero drift and 100 % retention, and all of it void."""

    def inert(*arguments: Any) -> Adapted:
        adapted = adapt(*arguments)
        learnt = [p for p in adapted.clip.model.parameters() if p.requires_grad]
        switch(adapted.clip.model, off=True)
        for parameter in learnt:  # peft freezes what it switches off
            parameter.requires_grad_(not frozen)
        return adapted

    monkeypatch.setattr(running, "adapt", inert)
    with pytest.raises(InactiveAdapterError, match=r"no weight of the image tower took part"):
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


@pytest.mark.parametrize(("method", "rate"), [("full_ft", 1e30), ("lora", 1e30), ("full_ft", 1.0)])
def test_a_diverged_run_leaves_a_record(lab: Lab, method: str, rate: float) -> None:
    """A study goes on past it and knows why; at rate 1 the loss stays finite but attention does not."""
    config, out = lab.config(method, optim={"learning_rate": rate, "epochs": 6}), lab.tmp()
    record, folder = lab.run(config, out)
    assert record.status == "diverged"
    assert record.reason
    assert "\n" not in record.reason
    assert (record.best, record.last, record.artefacts) == (None, None, {})
    assert len(record.history) < 6
    assert folder.record() == record
    assert not (folder.path / "model").exists()
    assert lab.run(config, out)[0] == record  # finished, if badly


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


# --- options


def test_a_folder_and_parquet_of_the_same_images_give_the_same_run(lab: Lab, tmp_path: Path) -> None:
    """Where pictures come from must not matter; one layout is the oracle of the other."""
    target = small_runs.write_parquet(tmp_path / "colours")
    one, _ = lab.run(lab.config("lora"), save=False)
    two, _ = lab.run(lab.config("lora", target=target), save=False)
    assert (one.target.kind, two.target.kind) == ("folder", "parquet")
    assert one.target.classes == two.target.classes == CLASSES
    assert one.key != two.key  # other content on disk
    assert (one.history, one.best, one.backbone) == (two.history, two.best, two.backbone)
    assert one.best is not None
    assert one.best.test_accuracy is not None


def test_training_learns(lab: Lab) -> None:
    """The positive control of all of this: colours can be learnt, and the internals move as they are."""
    optim = {"epochs": 10, "learning_rate": 3e-3}
    record, _ = lab.run(lab.config(optim=optim, data={"train_per_class": 14}), save=False)
    assert record.best is not None
    assert record.best.test_accuracy is not None
    assert record.best.test_accuracy > 70  # chance: 33
    assert record.history[-1].train_loss < 0.7 * record.history[0].train_loss
    drifts = [p.measures["weight_drift"].mean for p in record.history]
    assert drifts[0] < drifts[4] < drifts[9]


def test_the_published_protocol_validates_on_the_test_split(lab: Lab) -> None:
    """Kept for comparison with published numbers alone, and so it must do what was published."""
    data = {"protocol": "published", "validation_per_class": None}
    published, _ = lab.run(lab.config("linear_probe", data=data), save=False)
    strict, _ = lab.run(lab.config("linear_probe"), save=False)
    images = published.target.images
    assert images["validation"] == images["test"]
    assert published.best is not None
    assert published.best.validation_accuracy == published.best.test_accuracy
    assert strict.target.images["validation"].fingerprint != strict.target.images["test"].fingerprint
    for record, inside in ((published, True), (strict, False)):
        stage = prepare(record.config, lab.cache, CPU, Silent())
        test = {x.tobytes() for x in stage.test.data[stage.test.rows]}
        probe = [x.tobytes() in test for x in stage.probe.data[stage.probe.rows]]
        assert probe == [inside] * 12


def test_dense_measuring_changes_nothing_but_the_number_of_looks(lab: Lab) -> None:
    """Looking at a model must not move it: dropout, order and flips go on as if nobody had looked."""
    method = {"name": "lora", "dropout": 0.2}
    dense, _ = lab.run(lab.config(method, evaluation={"per_epoch": 3}), save=False)
    plain, _ = lab.run(lab.config(method), save=False)
    assert [p.ends_epoch for p in dense.history] == [False, False, True] * 2
    assert [p.step for p in dense.history] == [2, 4, 5, 7, 9, 10]
    assert all((p.validation_accuracy is None) != p.ends_epoch for p in dense.history)
    assert tuple(p for p in dense.history if p.ends_epoch) == plain.history
    assert dense.best == plain.best


def test_zero_shot_after_every_epoch_on_a_part(lab: Lab) -> None:
    """Retention over epochs, on a fixed part; the final one still on all images."""
    data = {"transfer": [{"name": "colours", "path": str(lab.pictures)}]}
    config = lab.config(data=data, evaluation={"epoch_transfer_per_class": 9})
    record, _ = lab.run(config, save=False)
    assert record.best is not None
    for point in record.history:
        assert set(point.transfer) == {"colours"}
    # nine of each class are all of them, so here the part must say what the whole says
    assert record.history[record.best.epoch - 1].transfer == record.best.transfer


def test_bf16_training_runs_on_the_cpu_and_measures_in_float32(lab: Lab) -> None:
    """Precision is a matter of training alone: the backbone's numbers are the same to the bit."""
    half, _ = lab.run(lab.config(optim={"precision": "bf16"}), save=False)
    full, _ = lab.run(lab.config(optim={"precision": "fp32"}), save=False)
    auto, _ = lab.run(lab.config(), save=False)
    assert half.status == "done"
    assert half.backbone == full.backbone
    assert half.history[0].train_loss != full.history[0].train_loss
    assert half.history[0].train_loss == pytest.approx(full.history[0].train_loss, rel=0.02)
    assert auto.history == full.history  # on a CPU, auto is fp32


# --- the key


def test_names_of_folders_become_paths_with_a_fingerprint(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored must say what was used, wherever the command was given."""
    shutil.copytree(lab.model, tmp_path / "tiny")
    shutil.copytree(lab.pictures, tmp_path / "colours")
    monkeypatch.chdir(tmp_path)
    data = {"target": "colours", "transfer": [{"name": "colours"}, {"name": "objects-100"}]}
    found = resolve(RunConfig.model_validate({"model": "tiny", "data": data}))
    assert (found.model.name, found.model.path) == ("tiny", "tiny")
    assert (found.data.target.name, found.data.target.path) == ("colours", "colours")
    assert found.model.fingerprint
    assert found.data.target.fingerprint == found.data.transfer[0].fingerprint is not None
    assert found.data.transfer[1].fingerprint is None
    assert resolve(found) == found


def test_the_key_follows_content_not_place(lab: Lab, tmp_path: Path) -> None:
    """A moved model is the same run; a model trained on under the same name is another."""
    moved = tmp_path / "elsewhere" / lab.model.name
    shutil.copytree(lab.model, moved)

    def key(model: Path) -> str:
        return resolve(config_for(model, lab.pictures)).key

    assert key(moved) == key(lab.model)
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert key(moved) != key(lab.model)


def test_the_shipped_model_is_part_of_the_key_by_content(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    """A release with other shipped weights must not take the older runs for its own."""
    config = RunConfig.model_validate({"model": MINI, "data": {"target": "terrain-10", "transfer": []}})
    before = resolve(config)
    monkeypatch.setattr("clipdrift.stage.mini_folder", lambda: lab.model)
    assert before.model.path is None
    assert resolve(config).key != before.key


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("model.path", {"model": {"name": "x", "path": "/no/such"}}),
        ("data.target.path", {"data": {"target": {"name": "x", "path": "/no/such"}}}),
        ("data.transfer.0.path", {"data": {"transfer": [{"name": "x", "path": "/no/such"}]}}),
    ],
)
def test_a_path_that_is_not_there_is_named(key: str, data: dict[str, Any]) -> None:
    """The message names the key, so that it can be mended without reading the code."""
    with pytest.raises(ConfigError, match=rf"^{key} = '/no/such': no such folder$"):
        resolve(RunConfig.model_validate(data))
