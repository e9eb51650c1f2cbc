"""A whole run, from configuration to record: that what is recorded is true of what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

import clipdrift
import clipdrift.training.attempt as attempting
import small_runs
from clipdrift.data.splits import balanced
from clipdrift.data.worlds import WORLDS, generate
from clipdrift.listing import MEASURES
from clipdrift.measures import FLOW
from clipdrift.model.clip import load
from clipdrift.runs.layout import MAPS
from clipdrift.runs.maps import read_maps
from clipdrift.runs.record import Point, Record, RecordError
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import RunFolder, Store
from clipdrift.training.abilities import Abilities
from clipdrift.training.preparation import prepare
from small_runs import CLASSES, COUNTS, Lab, numbers

CPU = torch.device("cpu")
METHODS = ("full_ft", "lora", "linear_probe")


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
    assert set(record.units) == set(MEASURES) > set(record.history[0].measures)
    assert record.best is not None
    assert set(record.best.measures) == set(record.history[0].measures) | set(FLOW)
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
            if name in FLOW:  # at the end only
                continue
            now = point.measures[name]
            assert len(now.blocks) == len(now.drift_blocks) == 2
            assert now.mean == pytest.approx(sum(now.blocks) / 2)
            if now.absolute:  # no patch of this model stands out
                assert name == "sink_patches"
                assert now.drift_blocks == pytest.approx(np.subtract(now.blocks, before.blocks))
                continue
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
        assert all(point.measures[name].drift == 0 for name in set(record.backbone.measures) - set(FLOW))
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
@torch.no_grad()
def test_kept_attention_is_that_of_the_saved_model(finished: Finished, lab: Lab, method: str) -> None:
    """Oracle: transformers' eager attention of backbone and saved weights on the images that were kept."""
    record, folder = finished[method]
    maps = read_maps(folder.path / MAPS)
    assert len(maps.images) == len(set(maps.titles)) == 4
    assert set(maps.titles) <= set(record.target.classes)
    processor = CLIPImageProcessorPil.from_pretrained(lab.model)
    pixels = processor(as_pictures(maps.images), return_tensors="pt")["pixel_values"]
    models = (CLIPModel.from_pretrained(lab.model), plain_model(record, folder, lab.model))
    for model, kept in zip(models, (maps.before, maps.after), strict=True):
        model.set_attn_implementation("eager")
        seen = model.eval().vision_model(pixels, output_attentions=True).attentions
        rows = torch.stack(seen, 1)[:, :, :, 0, 1:]
        assert np.allclose(kept, (rows / rows.sum(-1, keepdim=True)).numpy(), atol=2e-3)
    assert np.array_equal(maps.before, maps.after) == (method == "linear_probe")


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
            found = plain_zero_shot(model, lab.model, texts, plain_embeddings(model, shown, lab.model), truth)  # type: ignore[arg-type]
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
        config = lab.config(
            method, optim={"epochs": 1}, evaluation={"batch_size": size, "epoch_transfer_per_class": 1}
        )
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
        patch.setattr(attempting, "prepare", lambda *_: pytest.fail("worked although done"))
        assert lab.run(config, out) == (record, folder)
    assert (folder.path / "record.json").stat().st_mtime_ns == before
    second, _ = lab.run(config, out, again=True)
    assert (folder.path / "record.json").stat().st_mtime_ns > before
    assert second.without_times() == record.without_times()


def test_a_damaged_record_is_no_record(lab: Lab) -> None:
    """A record cut off by a full disk must not end a study; one of another schema is not overwritten."""
    config, out = lab.config("linear_probe"), lab.tmp()
    record, folder = lab.run(config, out)
    file = folder.path / "record.json"
    file.write_text(file.read_text()[:1000])
    assert lab.run(config, out)[0].without_times() == record.without_times()
    file.write_text(file.read_text().replace('"schema_version":1', '"schema_version":99'))
    with pytest.raises(RecordError, match="schema 99"):
        lab.run(config, out)


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


def test_the_python_call_is_the_same_run(lab: Lab, tmp_path: Path) -> None:
    """Library and command line are twins: a file, its content or a RunConfig give one record."""
    plain = small_runs.settings(lab.model, lab.pictures, method="linear_probe")
    (tmp_path / "run.toml").write_text(small_runs.toml(plain))
    record, _ = lab.run(lab.config("linear_probe"))
    for number, given in enumerate((tmp_path / "run.toml", plain, lab.config("linear_probe"))):
        out = tmp_path / str(number)
        found = clipdrift.train(given, out, cache=lab.cache, device="cpu")  # type: ignore[arg-type]
        assert found.without_times() == record.without_times()
        assert RunFolder(out / found.key).record() == found


# --- the chosen epoch


@pytest.mark.parametrize(
    ("validation", "chosen"), [((40, 80, 60), 2), ((50, 70, 70), 2), ((10, 20, 30), 3), ((9, 9, 9), 1)]
)
def test_the_chosen_epoch_is_the_best_on_validation(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, validation: tuple[float, ...], chosen: int
) -> None:
    """Best and last must be two states of the model, the saved one being the best, the earliest of equals."""
    scripted, tests, tested = iter(validation), [], Abilities.test
    monkeypatch.setattr(Abilities, "validation", lambda *_: (float(next(scripted)), {}))
    monkeypatch.setattr(Abilities, "test", lambda *a: tests.append(a) or tested(*a))  # type: ignore[func-returns-value]
    record, folder = lab.run(lab.config(optim={"epochs": 3, "learning_rate": 3e-3}))
    assert record.best is not None
    assert record.last is not None
    assert (record.best.epoch, record.last.epoch) == (chosen, 3)
    assert len(tests) == 1  # the test split is read once
    assert record.best.test_accuracy is not None
    assert record.best.validation_accuracy == max(validation)
    for point, epoch in ((record.best, chosen), (record.last, 3)):
        cheap = {name: values for name, values in point.measures.items() if name not in FLOW}
        assert cheap == record.history[epoch - 1].measures
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
