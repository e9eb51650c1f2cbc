"""Runs on captions from configuration to record: methods, towers, resuming, saving, choosing, reporting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_runs import config_for, settings, write_captions
from peft import PeftModel
from PIL import Image
from scipy.stats import binomtest
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
from typer.testing import CliRunner

from clipdrift.cli import app
from clipdrift.config import ConfigError, RunConfig
from clipdrift.mixing.mix import mix
from clipdrift.repair.interpolating import interpolate
from clipdrift.repair.rewinding import rewind
from clipdrift.repair.softening import soften
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.order import Order
from clipdrift.training.runner import run
from interrupted_runs import Unplugged, Unplugs, weights_of
from small_runs import Lab, toml

Folder = Callable[[], Path]


def done(lab: Lab, config: RunConfig, **options: Any) -> tuple[Record, RunFolder]:
    return run(config, options.pop("out", None) or lab.tmp(), cache=lab.cache, device="cpu", **options)


def changed_parts(lab: Lab, record: Record, folder: RunFolder) -> set[str]:
    """Which of the two towers, projections and the scale are others than the backbone's."""
    before = CLIPModel.from_pretrained(lab.model).state_dict()
    after: Any = CLIPModel.from_pretrained(
        lab.model if record.artefacts["kind"] == "adapter" else folder.path / "model"
    )
    if record.artefacts["kind"] == "adapter":
        after = PeftModel.from_pretrained(after, str(folder.path / "model")).merge_and_unload()
    return {
        name.split(".")[0]
        for name, weight in after.state_dict().items()
        if not torch.equal(weight, before[name])
    }


IMAGE, TEXT = {"vision_model", "visual_projection"}, {"text_model", "text_projection"}
SCALE = {"logit_scale"}


@pytest.mark.parametrize(("method", "towers", "changed"), [
    ("full_ft", "both", IMAGE | TEXT | SCALE),
    ("full_ft", "text", TEXT | SCALE),
    ("lora", "both", IMAGE | TEXT),
    ("lora", "image", IMAGE),
    ("dora", "text", TEXT),
    ("projections", "both", {"visual_projection", "text_projection"} | SCALE),
    ("last_blocks", "both", IMAGE | TEXT | SCALE),
    ("norm_only", "both", {"vision_model", "text_model"} | SCALE),
    ("logit_scale", "both", SCALE),
])  # fmt: skip
def test_what_is_trained_is_what_is_saved(
    lab: Lab, captioned: Path, method: str, towers: str, changed: set[str]
) -> None:
    """And nothing else, as plain transformers and peft read it."""
    config = config_for(lab.model, captioned, method, objective={"towers": towers}, optim={"epochs": 1})
    record, folder = done(lab, config)
    assert record.status == "done"
    assert changed_parts(lab, record, folder) == changed
    assert record.best is not None
    assert set(record.best.retrieval) == {"validation", "test"}
    moves = {"image", "text"} if towers == "both" else {towers}
    moves = set() if method == "logit_scale" else moves
    assert set(record.best.crossed) == ({"test", "objects-100"} if len(moves) == 2 else set())
    assert "head" not in record.artefacts
    texts = {name for name in record.best.measures if name.startswith("text_")}
    assert ("text_cka" in texts) == ("text" in moves)
    for name in ("", "text_"):
        moved = ("text" if name else "image") in moves
        weights = [v.mean for key, v in record.best.measures.items() if key.startswith(f"{name}weight_drift")]
        assert any(value > 0 for value in weights) == moved


def test_the_scale_alone_is_learnt(lab: Lab, captioned: Path) -> None:
    """Towards the one at which the loss is least, and no ranking changes."""
    config = config_for(
        lab.model, captioned, "logit_scale", optim={"learning_rate": 0.1, "weight_decay": 0.0, "epochs": 4}
    )
    record, folder = done(lab, config)
    assert record.model.trained == 1
    scales = [point.logit_scale for point in record.history]
    saved = CLIPModel.from_pretrained(folder.path / "model").logit_scale.exp().item()
    assert record.best is not None
    assert saved in [pytest.approx(scale) for scale in scales]
    losses = [point.train_loss for point in record.history]
    assert min(losses[1:]) < losses[0]
    assert len(set(scales)) == 4
    assert record.best.retrieval["test"] == record.backbone.retrieval["test"]
    assert record.best.transfer["objects-100"].retention in (100.0, None)


def test_retrieval_is_that_of_the_saved_model(lab: Lab, captioned: Path) -> None:
    """Computed again by transformers and NumPy alone, from the files."""
    record, folder = done(lab, config_for(lab.model, captioned, seed=3))
    model = CLIPModel.from_pretrained(folder.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder.path / "model")
    processor = CLIPImageProcessor.from_pretrained(folder.path / "model")
    rows = [json.loads(line) for line in (captioned / "metadata.jsonl").read_text().splitlines()]
    assert record.best is not None
    found = record.best.retrieval["test"]
    assert (found.images, found.captions) == (12, 24)
    names = sorted({row["file_name"] for row in rows})
    images = processor([Image.open(captioned / name) for name in names], return_tensors="pt")
    texts = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        left = model.get_image_features(**images).pooler_output.double().numpy()
        right = model.get_text_features(**texts).pooler_output.double().numpy()
    tested = held_out(lab, captioned)
    assert len(tested) == 12
    left = left[[names.index(name) for name in tested]]
    right = right[[i for name in tested for i, row in enumerate(rows) if row["file_name"] == name]]
    cosine = left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)
    owner = np.repeat(np.arange(12), 2)
    for way, scores, of in (("image_to_text", cosine, owner), ("text_to_image", cosine.T, np.arange(12))):
        own = np.arange(12) if way == "image_to_text" else owner
        ranks = []
        for query, row in enumerate(scores):
            best = row[of == own[query]].max()
            ranks.append(1 + int(((row >= best) & (of != own[query])).sum()))
        recall = getattr(found, way)
        for k, value in recall.at.items():
            assert value == pytest.approx(100 * np.mean(np.array(ranks) <= k)), (way, k)
        assert recall.median_rank == np.median(ranks)
        assert recall.interval[0] <= recall.at[1] <= recall.interval[1]
    assert record.best.test_accuracy == pytest.approx(
        (found.image_to_text.at[1] + found.text_to_image.at[1]) / 2
    )


def held_out(lab: Lab, captioned: Path) -> list[str]:
    """File names of the test images, from the division alone."""
    from clipdrift.data.pairs import divide_pairs, open_pairs

    config = config_for(lab.model, captioned)
    source = open_pairs(config.data.target)
    division = divide_pairs(
        source.part, np.arange(len(source.images)), seed=0, validation=9, probe=6, test=12
    )
    return [Path(source.images.where(int(i))).name for i in division.test]


@pytest.mark.parametrize("change", [
    {},
    {"objective": {"loss": "sigmoid"}, "penalty": ["ldifs", "l2_sp"]},
    {"method": {"name": "lora", "dropout": 0.3}, "optim": {"micro_batch": 3}},
    {"objective": {"towers": "image"}, "penalty": ["apr"]},
    {"method": "logit_scale", "objective": {"loss": "sigmoid"}, "optim": {"micro_batch": 3}},
    {"penalty": [{"name": name, "towers": "both"} for name in ("apr", "ldifs", "zero_shot_kl")]},
    {"method": {"name": "lora", "dropout": 0.3}, "optim": {"micro_batch": 3}, "objective": {"towers": "text"},
     "penalty": ["entropy_floor", "ldifs", {"name": "zero_shot_kl", "over": "cifar100"}]},
], ids=str)  # fmt: skip
def test_an_interrupted_run_ends_as_it_would_have(lab: Lab, captioned: Path, change: dict[str, Any]) -> None:
    """To the bit."""
    config = config_for(lab.model, captioned, change.get("method", "full_ft"), **{
        key: value for key, value in change.items() if key != "method"
    })  # fmt: skip
    whole = done(lab, config)
    out, schedule = lab.tmp(), CheckpointSchedule(seconds=0.0)
    for after in (2, 6):
        with pytest.raises(Unplugged):
            done(lab, config, out=out, reporter=Unplugs(after), schedule=schedule)
    again = done(lab, config, out=out)
    assert again[0].without_times() == whole[0].without_times()
    first, second = weights_of(whole[1]), weights_of(again[1])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sets_captions_can_be_what_is_transferred_to(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    other = write_captions(tmp_path / "other", 15)
    transfer = [
        {"name": "other", "path": str(other), "retrieval": True},
        {"name": "objects-100", "per_class": 1},
    ]
    record, folder = done(lab, config_for(lab.model, captioned, data={"transfer": transfer}))
    assert record.best is not None
    before, after = record.backbone.retrieval["other"], record.best.retrieval["other"]
    assert record.backbone.zero_shot["other"] == before.recall
    assert record.best.transfer["other"].accuracy == after.recall
    assert record.transfer["other"].captions == {"test": 30}
    kept = record.best.transfer["other"].retention
    assert kept == (pytest.approx(100 * after.recall / before.recall) if before.recall else None)
    chance = binomtest(round(before.recall * 15 / 100), 15, 1 / 15, alternative="greater").pvalue
    assert record.chance_p("other") == pytest.approx(chance)
    frame = runs_frame(records_in(folder.path.parent))
    assert frame["backbone_chance_p_other"].tolist() == [pytest.approx(chance)]


def test_a_run_on_classes_can_have_a_captioned_transfer_set(
    lab: Lab, captioned: Path, tmp_path: Path
) -> None:
    """Repair, which tests zero-shot alone, says that it is left out."""
    other = write_captions(tmp_path / "other", 15)
    sets = [{"name": "objects-100", "per_class": 1}, {"name": "o", "path": str(other), "retrieval": True}]
    record, folder = done(lab, lab.config("full_ft", data={"transfer": sets}, optim={"epochs": 1}))
    assert record.best is not None
    assert set(record.best.transfer) == {"objects-100", "o"}
    repaired = interpolate(folder.path, alphas=[0, 1], cache=lab.cache, device="cpu")
    assert any("o has captions and no classes" in note for note in repaired.notes)


def test_the_epoch_that_keeps_enough_is_chosen(lab: Lab, captioned: Path) -> None:
    """Of three epochs by the rule, from the history that the record has."""
    for least in (1.0, 1000.0):
        evaluation = {"epoch_transfer_per_class": 1, "least_retention": least}
        config = config_for(
            lab.model, captioned, evaluation=evaluation, optim={"learning_rate": 3e-3, "epochs": 3}
        )
        reporter = Unplugs()
        record, _ = done(lab, config, reporter=reporter)
        kept = {p.epoch: p.transfer["objects-100"].retention for p in record.history}
        recall = {p.epoch: p.validation_accuracy or 0.0 for p in record.history}
        enough = [epoch for epoch in kept if (kept[epoch] or 0.0) >= least]
        assert record.best is not None
        if enough:
            assert record.best.epoch == max(enough, key=lambda epoch: (recall[epoch], -epoch))
        else:
            assert record.best.epoch == max(kept, key=lambda epoch: (kept[epoch] or 0.0, -epoch))
            assert any("no epoch keeps" in warning for warning in reporter.warnings)


@pytest.mark.parametrize("method", ["full_ft", {"name": "lora", "dropout": 0.0}], ids=str)
def test_interpolation_moves_both_towers(lab: Lab, captioned: Path, tmp_path: Path, method: Any) -> None:
    """At both ends what the run itself measured; between them a model that neither end is."""
    record, folder = done(lab, config_for(lab.model, captioned, method, optim={"learning_rate": 3e-3}))
    out = tmp_path / "out"
    found = interpolate(folder.path, alphas=[0, 0.5, 1], save_at=0.5, out=out, cache=lab.cache, device="cpu")
    assert found.accuracy_of == "9 validation images of captioned, mean recall at 1 both ways"
    best = record.best
    assert best is not None
    first, middle, last = found.steps
    assert first.accuracy == pytest.approx(record.backbone.retrieval["validation"].recall)
    assert last.accuracy == pytest.approx(best.validation_accuracy)
    for step, kept in ((first, record.backbone.zero_shot), (last, None)):
        accuracy = kept["objects-100"] if kept else best.transfer["objects-100"].accuracy
        assert step.transfer["objects-100"].accuracy == pytest.approx(accuracy)
    assert middle.test_accuracy is not None
    base = CLIPModel.from_pretrained(lab.model)
    mixed: Any = CLIPModel.from_pretrained(lab.model if method != "full_ft" else out / "model")
    tuned: Any = CLIPModel.from_pretrained(lab.model if method != "full_ft" else folder.path / "model")
    if method != "full_ft":
        mixed = PeftModel.from_pretrained(mixed, str(out / "model")).merge_and_unload()
        tuned = PeftModel.from_pretrained(tuned, str(folder.path / "model")).merge_and_unload()
    ends = base.state_dict(), tuned.state_dict()
    moved = {name for name, weight in ends[0].items() if not torch.equal(weight, ends[1][name])}
    assert {name.split(".")[0] for name in moved} >= IMAGE | TEXT
    for name, weight in mixed.state_dict().items():
        torch.testing.assert_close(weight, (ends[0][name] + ends[1][name]) / 2, rtol=1e-4, atol=1e-6)


def test_blocks_are_rewound_and_adapters_softened(lab: Lab, captioned: Path) -> None:
    """The text tower stays the run's; what is tested is retrieval."""
    record, folder = done(lab, config_for(lab.model, captioned, "lora", optim={"learning_rate": 3e-3}))
    assert record.best is not None
    rewound = rewind(folder.path, blocks="2", cache=lab.cache, device="cpu")
    softened = soften(folder.path, scale=0.5, cache=lab.cache, device="cpu")
    for found in (rewound, softened):
        assert found.steps[0].accuracy == pytest.approx(record.best.validation_accuracy)
    moved = rewound.steps[1].measures["weight_drift"].value_blocks
    assert moved[0] > 0 == moved[1]


def test_runs_on_captions_are_mixed_with_their_text_towers(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """Both towers are averaged, an adapter merged; accuracy is recall, and there is no head."""
    configs = [config_for(lab.model, captioned, "full_ft"), config_for(lab.model, captioned, "lora")]
    runs = [done(lab, config) for config in configs]
    folders = [folder.path for _, folder in runs]
    found = mix(*folders, take="uniform", out=tmp_path, cache=lab.cache, device="cpu")
    for mixed, (record, _) in zip(found.runs, runs, strict=True):
        assert record.best is not None
        assert mixed.step.accuracy == pytest.approx(record.best.validation_accuracy)
    saved = tmp_path / "model"
    adapted = PeftModel.from_pretrained(CLIPModel.from_pretrained(lab.model), str(folders[1] / "model"))
    both = [CLIPModel.from_pretrained(folders[0] / "model"), adapted.merge_and_unload()]
    ends = [model.state_dict() for model in both]
    for name, weight in CLIPModel.from_pretrained(saved).state_dict().items():
        torch.testing.assert_close(weight, (ends[0][name] + ends[1][name]) / 2, rtol=1e-4, atol=1e-6)
    assert found.mixes["uniform"].step.test_accuracy is not None
    assert not (saved / "head.safetensors").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"method": "linear_probe"}, "captions have not; method projections"),
    ({"method": "flyp"}, "for captions take method full_ft"),
    ({"method": "lora", "objective": {"logit_scale": "trained"}}, "no place to keep the scale"),
    ({"method": "logit_scale", "objective": {"logit_scale": "fixed"}}, "then nothing is trained"),
    ({"method": "logit_scale", "objective": {"towers": "text"}}, "trains neither tower; leave it out"),
    ({"method": "logit_scale", "penalty": ["l2_sp"]}, "neither tower moves"),
    ({"method": "logit_scale", "objective": {"name": "classification"}}, "loss on labels has no logit scale"),
    ({"data": {"train_per_class": 5}}, "set data.train_images"),
    ({"objective": {"towers": "image"}, "penalty": [{"name": "apr", "towers": "both"}]}, "does not move"),
    ({"objective": {"loss": "sigmoid", "label_smoothing": 0.1}}, "belongs to the softmax loss"),
    ({"data": {"protocol": "published"}}, "published studies trained on classes"),
    ({"data": {"transfer": [{"name": "test", "path": "x"}]}}, "taken for the target's"),
    ({"data": {"target": {"name": "x", "classes": ["a", "b"]}}}, "captions have no classes; leave it out"),
    ({"evaluation": {"least_retention": 90}}, "set epoch_transfer_per_class too"),
])  # fmt: skip
def test_what_does_not_go_together_says_why(
    lab: Lab, captioned: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(lab.model, captioned, change.pop("method", "full_ft"), **change)


def test_a_study_of_runs_on_captions_is_reported(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """By the commands: two towers and two rates, planned, run, listed and reported."""
    base = settings(lab.model, captioned, optim={"epochs": 1})
    text = "name = 'towers'\nseeds = [1, 2]\nquestions = ['rate', 'options']\n"
    text += f"base = {toml({'x': base})[4:]}"
    text += "axes = {'objective.towers' = ['both', 'image'], 'optim.learning_rate' = [1e-4, 1e-3]}\n"
    (tmp_path / "towers.toml").write_text(text)
    runner, out = CliRunner(), str(tmp_path / "out")
    common = ["--out", out, "--cache", str(lab.cache), "--device", "cpu"]
    planned = runner.invoke(app, ["study", "plan", str(tmp_path / "towers.toml")])
    assert planned.exit_code == 0, planned.output
    ran = runner.invoke(app, ["study", "run", str(tmp_path / "towers.toml"), *common])
    assert ran.exit_code == 0, ran.output
    told = runner.invoke(app, ["report", out])
    assert told.exit_code == 0, told.output
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "contrastive, towers=image" in page


def test_another_set_is_replayed_in_every_batch(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """A quarter of each batch is of the other set; what the target holds out is not among it."""
    other = write_captions(tmp_path / "other", 70)  # the first sixty are the target's own pictures
    replay = {"path": str(other), "name": "other"}
    config = config_for(lab.model, captioned, objective={"replay": replay, "replay_share": 0.25})
    record, folder = done(lab, config)
    assert record.status == "done"
    assert record.target.images["replay"].count == 70 - (9 + 6 + 12)
    assert any("27 images are held out in the target; not replayed" in note for note in record.target.notes)
    plain, _ = done(lab, config_for(lab.model, captioned))
    assert record.history[-1].step == 2 * 6  # 33 images, six of them a batch
    assert plain.history[-1].step == 2 * 5
    whole = weights_of(folder)
    out, schedule = lab.tmp(), CheckpointSchedule(seconds=0.0)
    with pytest.raises(Unplugged):
        done(lab, config, out=out, reporter=Unplugs(7), schedule=schedule)
    again, second = done(lab, config, out=out)
    assert again.without_times() == record.without_times()
    assert all(torch.equal(one, weights_of(second)[name]) for name, one in whole.items())


def test_a_batch_holds_its_share_of_what_is_replayed() -> None:
    order = Order(count=33, size=8, epochs=2, replayed=5, share=0.25)
    batches = list(order.batches(seed=1, flip=True))
    assert [batch.ends_epoch for batch in batches].count(True) == 2
    for epoch in (1, 2):
        mine = [batch.picked for batch in batches if batch.epoch == epoch]
        own = np.concatenate([picked[picked < 33] for picked in mine])
        assert sorted(own) == list(range(33))
        others = np.concatenate([picked[picked >= 33] for picked in mine])
        assert all((picked >= 33).sum() == 2 for picked in mine)
        assert sorted(others[:5]) == [33, 34, 35, 36, 37]
    again = [batch.picked for batch in Order(33, 8, 2, 5, 0.25).batches(seed=1, flip=True)]
    assert all(np.array_equal(one, batch.picked) for one, batch in zip(again, batches, strict=True))
    assert Order(33, 8, 2).again == 0


@pytest.mark.slow
def test_the_study_that_comes_with_the_package(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """Shrunk: one rate, one seed, few images; each way to train, and each size of batches."""
    changes = [
        "seeds=[7]", "axes.optim.learning_rate=[1e-3]", "optim.epochs=1", "data.validation_images=9",
        "data.probe_images=6", f"model={{name='tiny', path='{lab.model}'}}",
        f"data.target={{name='captions', path='{captioned}'}}",
        "data.transfer=[{name='objects-100', per_class=1}]",
    ]  # fmt: skip
    out = tmp_path / "out"
    options = [word for change in changes for word in ("--set", change)]
    ran = CliRunner().invoke(
        app, ["study", "run", "captions", *options, "--out", str(out), "--cache", str(lab.cache)]
    )
    assert ran.exit_code == 0, ran.output
    frame = runs_frame(records_in(out))
    assert set(frame["status"]) == {"done"}
    assert set(frame["batch_size"]) == {32, 128, 512}
    assert frame["other_options"].nunique() == 3
    assert frame[["accuracy", "zero_shot_objects-100", "cka"]].notna().all(axis=None)
