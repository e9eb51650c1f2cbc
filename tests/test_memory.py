"""Too little memory: said in one line, and overcome with a batch in parts, to the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipdrift.adapt import METHODS, PENALTIES, Setting, adapt, build
from clipdrift.adapt.feed import Feed
from clipdrift.config import ConfigError, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.errors import OutOfMemoryError
from clipdrift.model.clip import load
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.reporter import Silent
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.loop import train_model
from clipdrift.training.memory import halved, is_out_of_memory, out_of_memory_guard
from clipdrift.training.observer import RunObserver
from small_runs import Lab

CPU = torch.device("cpu")


# --- a batch in parts


def weights_after(
    folder: Path, deck: Deck, config: RunConfig, micro: int | None, **changes: Any
) -> tuple[dict[str, torch.Tensor], list[float]]:
    clip = load(folder)
    features = class_features(clip, ("circle", "square"), ["a {}"])
    adapted = adapt(clip, config.method, 2, 0, ["a circle", "a square"])
    penalties = build(config.penalty, Setting(adapted, (2.5, 2.5), features))
    settings = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 7, "micro_batch": micro}
    optim = OptimConfig.model_validate(settings | changes)
    losses: list[float] = []
    for moment in train_model(
        adapted, deck, optim, seed=0, penalties=penalties, on_step=lambda _, loss: losses.append(loss)
    ):
        losses.append(moment.loss)
    return adapted.snapshot(), losses


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"flyp", "logit_scale"}))
def test_parts_add_up_to_the_batch(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Each method with every penalty: parts of one size and a rest, each by its share of the images.

    Adam divides a gradient by its size, so where that is nearly zero rounding alone decides on the sign:
    plain descent stands in for it.
    """
    monkeypatch.setattr(
        "torch.optim.AdamW", lambda groups, lr, weight_decay: torch.optim.SGD(groups, lr, momentum=0.9)
    )
    names = [] if method == "linear_probe" else list(PENALTIES)
    options = {"dropout": 0.0} if "lora" in method or method == "dora" else {}  # parts drop other units
    config = parse_config({"method": {"name": method, **options}, "penalty": names}, RunConfig)
    deck = make_deck(12)
    whole, losses = weights_after(tiny_clip_dir, deck, config, None, learning_rate=0.05)
    parts, found = weights_after(tiny_clip_dir, deck, config, 3, learning_rate=0.05)
    assert found == pytest.approx(losses, rel=1e-4)
    assert losses[-1] != losses[0]
    for name, value in whole.items():
        assert (value - parts[name]).abs().max().item() < 2e-5, name


def test_a_micro_batch_as_large_as_the_batch_is_none(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck]
) -> None:
    """To the bit: the option costs nothing where it does nothing."""
    config, deck = parse_config({"method": "lora", "penalty": "apr"}, RunConfig), make_deck(12)
    plain, losses = weights_after(tiny_clip_dir, deck, config, None)
    for micro in (7, 100):
        same, found = weights_after(tiny_clip_dir, deck, config, micro)
        assert found == losses
        assert all(torch.equal(value, same[name]) for name, value in plain.items())


def test_a_loss_that_couples_images_is_not_done_in_parts(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck]
) -> None:
    """Where the configuration is read, and in the loop for those who call it themselves."""
    data = {"method": "flyp", "optim": {"micro_batch": 8, "batch_size": 16}}
    with pytest.raises(ConfigError, match="micro_batch with method flyp: its loss contrasts the images"):
        parse_config(data, RunConfig)
    parse_config({"method": "flyp", "optim": {"micro_batch": 16, "batch_size": 16}}, RunConfig)
    config = parse_config({"method": "flyp"}, RunConfig)
    with pytest.raises(ValueError, match="couples the images of a batch"):
        weights_after(tiny_clip_dir, make_deck(12), config, 3)


# --- what is said


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_by_any_name(error: Exception, known: bool) -> None:
    """Of the device, of the machine, of a library: all that torch has for it."""
    assert is_out_of_memory(error) is known
    wanted = OutOfMemoryError if known else type(error)
    with pytest.raises(wanted), out_of_memory_guard(RunConfig(), CPU, "training"):
        raise error


def test_a_real_one() -> None:
    """More than any machine has."""
    with pytest.raises(OutOfMemoryError), out_of_memory_guard(RunConfig(), CPU, "training"):
        torch.empty(2**60)


@pytest.mark.parametrize(
    ("data", "part", "said"),
    [
        (
            {},
            "training",
            r"optim\.batch_size = 64; set optim\.micro_batch=32 \(the result stays\), or --auto",
        ),
        ({"optim": {"micro_batch": 5}}, "training", r"64 in parts of 5; set optim\.micro_batch=3 "),
        ({"optim": {"batch_size": 1}}, "training", "not even one image at a time fits"),
        ({"method": "flyp"}, "training", r"contrasts the images of a batch.*smaller optim\.batch_size"),
        ({}, "measuring", r"set evaluation\.batch_size=64"),
        ({"evaluation": {"batch_size": 9}}, "measuring", r"9 images per pass; set evaluation\.batch_size=4"),
        ({"evaluation": {"batch_size": 1}}, "measuring", "use a machine with more memory"),
    ],
)
def test_what_to_set(data: dict[str, Any], part: Any, said: str) -> None:
    """The key and a value that is worth trying; in one line."""
    with (
        pytest.raises(OutOfMemoryError, match=said) as caught,
        out_of_memory_guard(parse_config(data, RunConfig), CPU, part),
    ):
        raise MemoryError
    assert "\n" not in str(caught.value)
    assert f"out of memory on cpu while {part}" in str(caught.value)
    assert caught.value.part == part


def test_halving_ends_and_never_changes_the_run() -> None:
    """64, 32, ... 1: the key of the run stays, and so does its batch."""
    config: RunConfig | None = RunConfig()
    sizes = []
    while config is not None:
        assert config.key == RunConfig().key
        assert config.optim.batch_size == 64
        sizes.append(config.optim.micro_batch)
        config = halved(config, "training")
    assert sizes == [None, 32, 16, 8, 4, 2, 1]


# --- a run


class Hears(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[int] = []

    def step(self, step: int, steps: int, loss: float) -> None:
        self.steps.append(step)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_run_that_does_not_fit_is_done_in_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last checkpoint on; without being asked to, it ends in one line that says how."""
    config, out, wide = lab.config("norm_only"), lab.tmp(), [1] * 4
    forward = Feed.forward

    def narrow(self: Feed, picked: Any, mirrored: Any, rows: bool = False) -> Any:
        """A device that is shared: after some passes there is room for four images alone."""
        if len(picked) > 4:
            if not wide:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            wide.pop()
        return forward(self, picked, mirrored, rows)

    monkeypatch.setattr(Feed, "forward", narrow)
    with pytest.raises(OutOfMemoryError, match=r"set optim\.micro_batch=4"):
        lab.run(config, out, schedule=CheckpointSchedule(steps=1), save=False)
    (path,) = out.iterdir()
    assert '"kind": "OutOfMemoryError"' in (path / "failure.json").read_text()
    hears = Hears()
    record, _ = lab.run(
        config, out, schedule=CheckpointSchedule(steps=1), save=False, auto_batch=True, reporter=hears
    )
    assert hears.warnings == ["out of memory while training; going on with 4 images at a time"]
    assert hears.steps == [6, 7, 8, 9, 10]
    assert record.config.optim.micro_batch == 4
    assert record.key == path.name
    assert record.status == "done"


def test_measuring_that_does_not_fit_is_done_with_fewer_images(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option for measuring is another one, and no number depends on it."""
    of, seen = RunObserver.of, []

    def narrow(inputs: Any, config: RunConfig) -> Any:
        seen.append(config.evaluation.batch_size)
        if config.evaluation.batch_size != 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return of(inputs, config)

    monkeypatch.setattr(RunObserver, "of", narrow)
    hears = Hears()
    config = lab.config("norm_only", evaluation={"batch_size": 64})
    record, _ = lab.run(config, save=False, auto_batch=True, reporter=hears)
    assert seen == [64, 32]
    assert hears.warnings[-1] == "out of memory while measuring; going on with 32 images at a time"
    assert record.status == "done"
