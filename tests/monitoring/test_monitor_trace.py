"""A monitor leaves no trace: a training with it gives the bits of one without it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from peft import LoraConfig, get_peft_model
from torch import nn

from clipdrift.model.clip import Clip
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.rules import Rules

Tiny = Callable[[], Any]


def _watch(pixels: torch.Tensor, out: Path, clip: Clip | None = None, **more: Any) -> trainings.Watch:
    def make(model: Any) -> DriftMonitor:
        return DriftMonitor(
            model, pixels, every=2, out=out, on_error="raise", budget=None, processor=clip, **more
        )

    return make


def _other(watch: trainings.Watch, model: Any, _trained: Any) -> Any:
    """Watch another object than the one whose weights are trained."""
    return watch(model)


def _dropout(model: Any) -> Any:
    for config in (model.config.vision_config, model.config.text_config):
        config.attention_dropout = 0.2
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.2
    return model


def _checkpointing(model: Any) -> Any:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _lora(model: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, init_lora_weights=False)
    )


@pytest.mark.parametrize(
    ("prepare", "how"),
    [
        (lambda model: model, {}),
        (_dropout, {}),
        (lambda model: model, {"accumulate": 3}),
        (lambda model: model, {"autocast": True}),
        (lambda model: model, {"autocast": True, "scaler": True}),
        (_checkpointing, {}),
        (_lora, {}),
    ],
    ids=["plain", "dropout", "accumulation", "autocast", "scaler", "checkpointing", "lora"],
)
def test_training_with_a_monitor_gives_the_same_bits(
    tiny: Tiny,
    pixels: torch.Tensor,
    tiny_whole: Clip,
    tmp_path: Path,
    prepare: Callable[[Any], Any],
    how: dict[str, Any],
) -> None:
    alone, watched = prepare(tiny()), prepare(tiny())
    before, hooks = trainings.digest(alone), trainings.hooks(watched)
    trainings.train(alone, None, **how)
    without = trainings.digest(alone)
    texts = [f"a photo of {i} dogs" for i in range(5)]
    monitor = trainings.train(watched, _watch(pixels, tmp_path / "d", tiny_whole, texts=texts), **how)
    assert trainings.digest(watched) == without != before
    assert [row["step"] for row in monitor.rows] == [2, 4, 6]
    assert monitor.rows[-1]["drift/weight_drift"] > 0
    assert all(module.training for module in watched.modules())
    assert trainings.hooks(watched) == hooks


def test_an_averaged_model_is_watched_and_averages_the_same(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    digests, moved = [], []
    for watch in (None, _watch(pixels, tmp_path / "d")):
        model = tiny()
        average = torch.optim.swa_utils.AveragedModel(model)
        monitor = trainings.train(
            model,
            None if watch is None else partial(_other, watch, average),
            after_step=partial(average.update_parameters, model),
        )
        digests.append(trainings.digest(average))
        if monitor:
            moved = [row["drift/weight_drift"] for row in monitor.rows]
    assert digests[0] == digests[1]
    assert 0 < moved[0] < moved[-1]


def test_inference_mode_of_a_caller_leaves_tensors_that_can_be_used(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny()
    with torch.inference_mode():
        monitor = _watch(pixels, tmp_path / "d")(model)
        monitor.measure()
        assert torch.is_inference_mode_enabled()
    assert not monitor._side.internals.embedding.is_inference()
    assert not any(p.is_inference() for p in model.parameters())
    trainings.loss_of(model, *next(trainings.batches(1))).backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_modules_are_run_as_written_and_not_compiled_anew(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """Counted by a backend of our own: with a monitor as many graphs are compiled as without, no more."""
    counts, digests = [], []
    for watch in (None, _watch(pixels, tmp_path / "d")):
        torch._dynamo.reset()
        compiled: list[int] = []

        def backend(graph: Any, _inputs: Any, compiled: list[int] = compiled) -> Any:
            compiled.append(1)
            return graph.forward

        model = tiny()
        for layer in model.vision_model.encoder.layers:  # in place
            layer.compile(backend=backend)
        whole = torch.compile(model, backend=backend)  # wrapped

        def loss(module: Any, images: torch.Tensor, _ids: Any, whole: Any = whole) -> torch.Tensor:
            found: torch.Tensor = whole.get_image_features(pixel_values=images).pooler_output.square().mean()
            return found

        trainings.train(model, None if watch is None else partial(_other, watch, whole), loss=loss, rate=1e-3)
        counts.append(len(compiled))
        digests.append(trainings.digest(model))
    torch._dynamo.reset()
    assert counts[0] == counts[1] > 0
    assert digests[0] == digests[1]


def test_wrapping_after_the_monitor_was_made_is_found(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """peft and torch.compile put around it later; what is measured is what comparing two models gives."""
    from clipdrift.comparison.compare import compare

    model = tiny()
    base = copy.deepcopy(model).eval()
    monitor = DriftMonitor(model, pixels, every=1, out=tmp_path / "d", on_error="raise", budget=None)
    adapted: Any = torch.compile(_lora(model), backend="eager")
    row = monitor.measure()
    found = compare(base, adapted, pixels, flow=False, spectrum=False, shown=0).measures
    for name in ("cka", "embedding_drift", "weight_drift", "weight_drift_q", "cka_embedding"):
        assert row[f"drift/{name}"] == pytest.approx(found[name].value, rel=1e-9), name
    for name in ("entropy", "gini", "head_diversity"):
        assert row[f"drift/{name}"] == pytest.approx(found[name].drift, rel=1e-9), name
        assert row[f"measure/{name}"] == pytest.approx(found[name].after, rel=1e-9), name
        blocks = [row[f"drift/{name}/block_{i}"] for i in (1, 2)]
        assert blocks == pytest.approx(found[name].drift_blocks[:2], rel=1e-9)
    assert row["drift/cka"] < 1
    torch._dynamo.reset()


def test_the_last_good_state_of_adapters_put_on_later_is_pefts(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = tiny()
    plain = copy.deepcopy(model)
    rules = Rules(keep_best_when="embedding_drift < 10")
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", rules=rules, on_error="raise")
    adapted = _lora(model).eval()
    assert monitor.measure()["kept"] == "adapter"
    loaded = PeftModel.from_pretrained(plain, monitor.good).eval()
    images = {"pixel_values": pixels}
    with torch.no_grad():
        expected = adapted.get_image_features(**images).pooler_output
        found = loaded.get_image_features(**images).pooler_output
    assert torch.allclose(expected, found, atol=1e-6)


class _Mixed(nn.Module):
    """A model of ours that holds a CLIP among other things."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.head = nn.Linear(3, 2)


def test_a_clip_inside_a_larger_model_is_found(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    model = _Mixed(tiny())
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", on_error="raise")
    with torch.no_grad():
        model.clip.visual_projection.weight.mul_(1.5)
    assert monitor.measure()["drift/weight_drift_projection"] == pytest.approx(0.5, rel=1e-6)
