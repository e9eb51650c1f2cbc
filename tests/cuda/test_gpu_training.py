"""Training on the GPU: as on the processor in float32, every method and penalty, memory, resuming, saving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPModel

from clipdrift import accelerator
from clipdrift.adapt import METHODS, PENALTIES
from clipdrift.config import RunConfig
from clipdrift.data.pixels import normalise
from clipdrift.model.clip import load
from clipdrift.runs.record import Record
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import RunFolder
from clipdrift.training import runner
from clipdrift.training.course import CheckpointSchedule
from interrupted_runs import Unplugged, Unplugs, weights_of
from small_runs import Lab, toml

Property = Callable[[str, object], None]
COMMAND = (sys.executable, "-c", "from clipdrift.cli import main; main()")


def done(lab: Lab, config: RunConfig, device: torch.device, **options: Any) -> tuple[Record, RunFolder]:
    out = options.pop("out", None) or lab.tmp()
    return runner.run(config, out, cache=lab.cache, device=str(device), **options)


def test_a_few_steps_as_on_the_processor(lab: Lab, device: torch.device, record_property: Property) -> None:
    """In float32: losses, accuracies and measures of two epochs."""
    config = lab.config("full_ft", optim={"learning_rate": 1e-4, "precision": "fp32"})
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    one, other = (done(lab, config, place)[0] for place in (torch.device("cpu"), device))
    worst = 0.0
    for mine, theirs in zip(one.history, other.history, strict=True):
        off = abs(mine.train_loss - theirs.train_loss) / mine.train_loss
        worst = max(worst, off)
        assert off < 1e-3
        for name, values in mine.measures.items():
            assert values.mean == pytest.approx(theirs.measures[name].mean, rel=5e-3, abs=2e-4), name
    record_property("largest_relative_difference_of_loss", worst)
    assert other.environment["device"] == accelerator.name_of(device)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "logit_scale"])  # of captions
def test_one_epoch_of_each_method(lab: Lab, device: torch.device, method: str) -> None:
    record, folder = done(lab, lab.config(method, optim={"epochs": 1}), device)
    assert record.status == "done"
    assert (folder.path / "model").is_dir()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_one_epoch_of_each_penalty(lab: Lab, device: torch.device, penalty: str) -> None:
    record, _ = done(lab, lab.config("lora", penalty=[penalty], optim={"epochs": 1}), device)
    assert record.status == "done"


@pytest.mark.parametrize("method", ["full_ft", "lora"])
def test_autocast(lab: Lab, device: torch.device, method: str, record_property: Property) -> None:
    """bfloat16 trains to nearly the same loss; ``auto`` is bfloat16 on a GPU that has it."""
    losses = {}
    for precision in ("fp32", "bf16", "auto"):
        config = lab.config(method, optim={"learning_rate": 1e-4, "precision": precision})
        losses[precision] = done(lab, config, device)[0].history[-1].train_loss
    record_property("losses", losses)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["auto"] == losses["bf16" if accelerator.has_bf16(device) else "fp32"]


def test_micro_batches_are_the_batch(lab: Lab, device: torch.device) -> None:
    config = lab.config("full_ft", optim={"learning_rate": 1e-4, "precision": "fp32", "epochs": 1})
    parts = config.model_copy(update={"optim": config.optim.model_copy(update={"micro_batch": 3})})
    whole, other = (done(lab, one, device)[0].history[-1] for one in (config, parts))
    assert other.train_loss == pytest.approx(whole.train_loss, rel=1e-3)


def test_out_of_memory_is_overcome(
    lab: Lab, device: torch.device, on_gpu: bool, monkeypatch: pytest.MonkeyPatch, record_property: Property
) -> None:
    """On a GPU with the memory of a small one; without a GPU the first attempt fails as one would."""
    warned: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "warn", warned.append)
    mini = {"model": {"name": "clipdrift/mini"}, "data": {"target": "terrain-10", "transfer": []}}
    optim = {"batch_size": 512, "epochs": 1, "precision": "fp32"}
    config = (
        lab.config("full_ft", **mini, optim=optim, evaluation={"batch_size": 64})
        if on_gpu
        else lab.config("full_ft", optim={"epochs": 1})
    )
    if on_gpu:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        share = (torch.cuda.memory_reserved(device) + 900 * 2**20) / total
        torch.cuda.set_per_process_memory_fraction(share, device)
    else:
        attempt, tries = runner.attempt, iter((True,))

        def once(config: RunConfig, job: Any) -> Record:
            if next(tries, False):
                raise runner.OutOfMemoryError("out of memory", "training")
            return attempt(config, job)

        monkeypatch.setattr(runner, "attempt", once)
    try:
        record, _ = done(lab, config, device, auto_batch=True, reporter=reporter)
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert record.status == "done"
    assert any("out of memory while training; going on with" in text for text in warned)
    record_property("warned", warned)


def test_frozen_blocks_are_computed_once_to_the_same_result(lab: Lab, device: torch.device) -> None:
    """What frozen blocks make of an image is kept: the run is the one that computes it anew at every step."""
    options = {"name": "full_ft", "frozen_blocks": 1, "freeze_embeddings": True}
    (one, folder), (other, _) = (
        done(lab, lab.config(options, optim={"precision": "fp32", "keep_frozen": keep}), device)
        for keep in (True, False)
    )
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
    before, after = (
        load_file(lab.model / "model.safetensors"),
        load_file(folder.path / "model/model.safetensors"),
    )
    frozen = [name for name in before if ".layers.0." in name and name.startswith("vision_model")]
    frozen += [name for name in before if name.startswith("vision_model.embeddings") and name in after]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in before if ".layers.1." in name and name.startswith("vision_model")]
    assert any(not torch.equal(before[name], after[name]) for name in moved)


@pytest.mark.parametrize("method", ["full_ft", {"name": "lora", "dropout": 0.3}, "norm_only"], ids=str)
def test_an_interrupted_run_goes_on_to_the_bit(lab: Lab, device: torch.device, method: Any) -> None:
    """With ``--deterministic``; random numbers of the device are among what a checkpoint keeps."""
    config = lab.config(method, penalty=["ldifs"])
    whole = done(lab, config, device, deterministic=True)
    out, schedule = lab.tmp(), CheckpointSchedule(seconds=0.0)
    for after in (3, 8):
        with pytest.raises(Unplugged):
            done(lab, config, device, out=out, reporter=Unplugs(after), schedule=schedule, deterministic=True)
    again = done(lab, config, device, out=out, deterministic=True)
    assert again[0].without_times() == whole[0].without_times()
    first, second = weights_of(whole[1]), weights_of(again[1])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_the_device_goes_on_on_the_processor(lab: Lab, device: torch.device) -> None:
    """A run begun on a GPU may end without one; the record tells where it ended."""
    out, config = lab.tmp(), lab.config("full_ft")
    with pytest.raises(Unplugged):
        done(lab, config, device, out=out, reporter=Unplugs(5), schedule=CheckpointSchedule(seconds=0.0))
    record, _ = done(lab, config, torch.device("cpu"), out=out)
    assert record.status == "done"
    assert record.environment["device"] == "cpu"


@pytest.mark.parametrize("method", ["full_ft", "lora", "dora"])
def test_saved_weights_are_read_by_plain_libraries(lab: Lab, device: torch.device, method: str) -> None:
    """transformers and peft alone, on the processor, give the embeddings that clipdrift gives there."""
    _, folder = done(lab, lab.config(method, optim={"epochs": 1}), device)
    place = folder.path / "model"
    plain: Any = CLIPModel.from_pretrained(lab.model if (place / "adapter_config.json").exists() else place)
    if (place / "adapter_config.json").exists():
        plain = PeftModel.from_pretrained(plain, str(place))
    from clipdrift.adapt.saved import load_adapted

    clip = load_adapted(place, lab.config().model)
    images = normalise(torch.randint(0, 255, (5, 16, 16, 3), dtype=torch.uint8), clip.preprocess)
    backbone = load(lab.model).model
    with torch.no_grad():
        one, other, old = (
            model.get_image_features(pixel_values=images).pooler_output
            for model in (plain.eval(), clip.model, backbone)
        )
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(other, old)


def start(lab: Lab, device: torch.device, place: Path, seed: int) -> subprocess.Popen[str]:
    """A training in a process of its own."""
    data = json.loads(lab.config("full_ft", seed=seed).model_dump_json(exclude_none=True))
    data["model"].pop("fingerprint", None)
    file = place / f"run{seed}.toml"
    file.write_text(toml(data))
    command = [*COMMAND, "train", str(file), "--out", str(place / "runs")]
    command += ["--cache", str(lab.cache), "--device", str(device)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_runs_share_the_device_and_are_reported_without_it(
    lab: Lab, device: torch.device, tmp_path: Path
) -> None:
    """Two processes at once; afterwards a machine that sees no GPU reports them."""
    both = [start(lab, device, tmp_path, seed) for seed in (1, 2)]
    for process in both:
        out, _ = process.communicate(timeout=80)
        assert process.returncode == 0, out[-1500:]
    blind = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    told = subprocess.run(
        [*COMMAND, "report", str(tmp_path / "runs")],
        env=blind, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert "index.html" in told
    assert (tmp_path / "runs" / "report" / "index.html").stat().st_size > 10_000
