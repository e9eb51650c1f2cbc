"""Options of a run, each against the plain run, and what its key is made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import small_runs
from clipdrift.config import ConfigError, RunConfig
from clipdrift.model.clip import MINI
from clipdrift.runs.reporter import Silent
from clipdrift.training.order import Order
from clipdrift.training.preparation import prepare, resolve
from small_runs import CLASSES, Lab, config_for

CPU = torch.device("cpu")


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
        inputs = prepare(record.config, lab.cache, CPU, Silent())
        test = {x.tobytes() for x in inputs.test.data[inputs.test.rows]}
        probe = [x.tobytes() in test for x in inputs.probe.data[inputs.probe.rows]]
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


@pytest.mark.parametrize(
    ("at", "steps"),
    [("dense", [1, 2, 4, 5, 8, 10]), ([0.01, 0.35, 1.0], [1, 3, 5, 10])],
    ids=["dense", "shares"],
)
def test_looks_of_ones_own_change_nothing_else_and_may_test_zero_shot(
    lab: Lab, at: Any, steps: list[int]
) -> None:
    """Retention within epochs is that of the same weights; epochs, choice and end are as without."""
    data = {"transfer": [{"name": "colours", "path": str(lab.pictures)}]}
    tested = {"epoch_transfer_per_class": 3}
    looked, _ = lab.run(
        lab.config(data=data, evaluation={**tested, "at": at, "transfer_at": "looks"}), save=False
    )
    plain, _ = lab.run(lab.config(data=data, evaluation=tested), save=False)
    assert [p.step for p in looked.history] == steps
    assert all(set(p.transfer) == {"colours"} for p in looked.history)
    assert tuple(p for p in looked.history if p.ends_epoch) == plain.history
    assert (looked.best, looked.last) == (plain.best, plain.last)


def test_looks_in_one_spelling_and_refused_in_one_line(lab: Lab) -> None:
    """Order and repetition are no other run; what is no share is named with its key."""
    one = lab.config(evaluation={"at": [0.1, 0.02, 0.1]})
    assert one.evaluation.at == (0.02, 0.1)
    assert one.key == lab.config(evaluation={"at": [0.02, 0.1]}).key
    for wrong in ([1.5], [0], "often", [True], ["a"]):
        with pytest.raises((ConfigError, ValueError), match="shares of the training above 0"):
            lab.config(evaluation={"at": wrong})


def test_looks_by_shares_are_told_in_steps() -> None:
    """Never before the share, never before the first step; a short epoch has no more looks than steps."""
    order = Order(count=70, size=10, epochs=3)
    assert order.looks() == {7, 14, 21}
    assert order.looks(2) == {4, 7, 11, 14, 18, 21}
    assert order.looks(at=(0.01, 0.1, 0.2)) == {1, 2, 4, 7, 14, 21}
    assert order.looks(at="dense") == {1, 2, 4, 7, 8, 14, 16, 21}
    assert order.looks(99) == set(range(1, 22))


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
    monkeypatch.setattr("clipdrift.training.preparation.shipped_folder", lambda name: lab.model)
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
