"""Inside a training script: measuring leaves no trace, and training goes on as if it had never been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from by_hand import worst
from outside import load_plain
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from clipdrift.comparison.compare import compare
from clipdrift.comparison.measuring import measure
from clipdrift.errors import ClipdriftError
from clipdrift.measures import MeasureError
from clipdrift.model.clip import Clip, ModelError, load

Work = Callable[[Any], object]


def for_training(folder: Path, peft: bool = False) -> Any:
    """In train mode with dropout on, but for parts that are kept in eval mode, as one freezes them."""
    torch.manual_seed(11)
    model: Any = CLIPModel.from_pretrained(folder)
    for tower in (model.config.vision_config, model.config.text_config):
        tower.attention_dropout = 0.2
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.2
    if peft:
        model = outside.adapt(model, lora_dropout=0.3)
    model.train()
    inner = model.get_base_model() if peft else model
    inner.text_model.encoder.layers[0].eval()
    inner.vision_model.encoder.layers[1].mlp.eval()
    inner.vision_model.post_layernorm.training = False
    for name, parameter in model.named_parameters():
        if "position_embedding" in name:
            parameter.requires_grad_(False)
    return model


class Script:
    """A short training: contrastive loss under autocast, AdamW, hooks that count and draw random numbers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.learnt = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learnt, lr=3e-3)
        self.calls = 0
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        block = inner.vision_model.encoder.layers[0]
        block.register_forward_hook(self.count)
        block.self_attn.q_proj.register_forward_pre_hook(self.count)
        block.register_forward_pre_hook(self.count_with_names, with_kwargs=True)
        inner.visual_projection.register_full_backward_hook(self.count)
        self.generator = torch.Generator().manual_seed(5)

    def count(self, *_: object) -> None:
        self.calls += 1
        torch.rand(2)  # also where measuring calls it

    def count_with_names(self, *_: object) -> None:
        self.count()

    def step(self) -> None:
        images = torch.randn(6, 3, 16, 16, generator=self.generator)
        ids = torch.randint(5, 200, (6, 7), generator=self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model(input_ids=ids, pixel_values=images, return_loss=True)
        out.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self) -> None:
        """Left lying about, as with accumulation over steps."""
        images = torch.randn(6, 3, 16, 16, generator=self.generator)
        self.model.get_image_features(pixel_values=images).pooler_output.square().sum().backward()


def clones(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.detach().clone() for name, t in tensors.items()}


def alike(one: Any, other: Any) -> bool:
    """Equal throughout: nested data whose tensors are equal bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def precision() -> dict[str, Any]:
    """All that decides how float32 is multiplied, by torch's own words."""
    backends = torch.backends
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "cuda": backends.cuda.matmul.allow_tf32,
        "reduced": backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn": (
            backends.cudnn.allow_tf32,
            backends.cudnn.enabled,
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
        ),
        "mkldnn": (backends.mkldnn.enabled, backends.mkldnn.deterministic),
        "new": [
            getattr(place, "fp32_precision", None)
            for place in (backends, backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul)  # type: ignore[attr-defined]
        ],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "default": torch.get_default_dtype(),
    }


def state(script: Script) -> dict[str, Any]:
    """Everything that measuring might touch."""
    model = script.model
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    hook_kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hook_kinds += ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")  # type: ignore[assignment]
    return {
        "modes": {name: module.training for name, module in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "hooks": {(n, k): dict(getattr(m, k)) for n, m in modules.items() for k in hook_kinds},
        "forwards": {name: "forward" in vars(module) for name, module in modules.items()},
        "weights": clones(dict(model.state_dict())),
        "buffers": clones(dict(model.named_buffers())),
        "places": {n: (id(p), p.data_ptr(), p.dtype, p.requires_grad) for n, p in parameters.items()},
        "versions": {name: p._version for name, p in parameters.items()},
        "gradients": clones({name: p.grad for name, p in parameters.items()}),
        "gradient places": {n: None if p.grad is None else p.grad.data_ptr() for n, p in parameters.items()},
        "optimizer": clones_of(script.optimizer.state_dict()),
        # not Python's own: the checks of types, which are on in these tests alone, draw from it
        "random": (torch.get_rng_state().clone(), np.random.get_state()),
        "precision": precision(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "config": model.config.to_dict() if hasattr(model.config, "to_dict") else None,
    }


def clones_of(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: clones_of(value) for key, value in data.items()}
    if isinstance(data, list):
        return [clones_of(value) for value in data]
    return data.detach().clone() if isinstance(data, Tensor) else data


@contextmanager
def as_in_a_script() -> Iterator[None]:
    """Settings of a script that trains fast, put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def unchanged(script: Script, work: Work, error: type[BaseException] | None = None) -> None:
    """Do the work in the middle of a script, and find all as it was."""
    np.random.seed(4)
    torch.manual_seed(9)
    torch.rand(3)
    before = state(script)
    if error is None:
        work(script.model)
    else:
        with pytest.raises(error):
            work(script.model)
    after = state(script)
    for name, value in before.items():
        assert alike(value, after[name]), name


@pytest.fixture
def works(tiny_clip_dir: Path, photos: list[Image.Image], pixels: Tensor, pictures: Path) -> dict[str, Work]:
    """What one might ask for in the middle of a training."""
    clip = load(tiny_clip_dir)
    return {
        "measure": lambda model: measure(model, pixels, heads=True),
        "measure pictures": lambda model: measure(model, photos, preprocess=clip.preprocess),
        "compare": lambda model: compare(tiny_clip_dir, model, photos, transfer=f"colours={pictures}"),
        "compare with a Clip": lambda model: compare(clip, model, pixels, transfer=pictures),
        "as BASE": lambda model: compare(model, clip, pixels, transfer=pictures),
    }


WORKS = ("measure", "measure pictures", "compare", "compare with a Clip", "as BASE")


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("peft", [False, True])
def test_nothing_is_changed(works: dict[str, Work], tiny_clip_dir: Path, name: str, peft: bool) -> None:
    """Modes of every module, hooks, weights, gradients, optimizer, random numbers, precision settings."""
    assert set(works) == set(WORKS)
    with as_in_a_script():
        script = Script(for_training(tiny_clip_dir, peft))
        script.step()
        script.gradients()
        assert any(p.grad is not None for p in script.model.parameters())
        with torch.autocast("cpu", torch.bfloat16):
            unchanged(script, works[name])


@pytest.mark.parametrize("peft", [False, True])
def test_training_goes_on_bit_for_bit(works: dict[str, Work], tiny_clip_dir: Path, peft: bool) -> None:
    """The same script without measuring ends at the same weights; with dropout, every draw counts."""

    def train(measured: bool) -> dict[str, Tensor]:
        with as_in_a_script():
            script = Script(for_training(tiny_clip_dir, peft))
            torch.manual_seed(1)
            for step in range(4):
                script.step()
                if measured:
                    with torch.autocast("cpu", torch.bfloat16):
                        works[WORKS[step + 1]](script.model)
            return dict(script.model.state_dict())

    plain, measured, start = train(False), train(True), for_training(tiny_clip_dir, peft).state_dict()
    assert alike(plain, measured)
    assert not alike(plain, dict(start))


def test_dropout_and_autocast_have_no_part_in_the_numbers(
    works: dict[str, Work], tiny_clip_dir: Path, tmp_path: Path, pixels: Tensor, pictures: Path
) -> None:
    """In the middle of a training the numbers are those of its checkpoint, loaded afterwards."""
    script, clip = Script(for_training(tiny_clip_dir)), load(tiny_clip_dir)
    script.step()
    with as_in_a_script(), torch.autocast("cpu", torch.bfloat16):
        found = compare(clip, script.model, pixels, transfer=pictures)
        again = compare(clip, script.model, pixels, transfer=pictures)
    place = outside.copy_folder(tiny_clip_dir, tmp_path / "checkpoint")
    script.model.save_pretrained(place)
    expected = compare(tiny_clip_dir, place, pixels, transfer=pictures)
    assert worst(found, again) == 0
    assert worst(found, expected) < 1e-6
    assert found.transfer == again.transfer


# --- when it fails


@pytest.mark.parametrize("peft", [False, True])
def test_nothing_is_changed_when_measuring_fails(tiny_clip_dir: Path, pixels: Tensor, peft: bool) -> None:
    """Images with nan, a model that broke, a hook of the user's, an interruption, an impossible option."""
    clip = load(tiny_clip_dir)
    script = Script(for_training(tiny_clip_dir, peft))
    script.step()
    script.gradients()
    bad = torch.full_like(pixels, float("nan"))

    def interrupted(model: Any) -> None:
        class Impatient:
            def __getattr__(self, _: str) -> Any:
                return lambda *_: None

            def advance(self, *_: object) -> None:
                raise KeyboardInterrupt

        measure(model, pixels, batch_size=2, reporter=Impatient())  # type: ignore[arg-type]

    def hooked(model: Any) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("the user's own")

        inner = model.get_base_model() if peft else model
        handle = inner.vision_model.encoder.layers[1].register_forward_hook(broken)
        try:
            measure(model, pixels)
        finally:
            handle.remove()

    with as_in_a_script(), torch.autocast("cpu", torch.bfloat16):
        unchanged(script, lambda m: measure(m, bad), MeasureError)
        unchanged(script, lambda m: compare(clip, m, bad), MeasureError)
        unchanged(script, lambda m: measure(m, pixels, masses=(1.5,)), MeasureError)
        unchanged(script, lambda m: compare(clip, m, pixels, transfer="no-such"), ClipdriftError)
        unchanged(script, lambda m: compare(m, clip, pixels[:2]), ClipdriftError)
        unchanged(script, interrupted, KeyboardInterrupt)
        unchanged(script, hooked, RuntimeError)


def test_a_model_that_broke_is_told_by_block(tiny_clip: Clip, pixels: Tensor) -> None:
    """Weights so large that a block's output is no number; weights that are nan are named before."""
    weight = tiny_clip.model.vision_model.encoder.layers[1].mlp.fc2.weight
    with torch.no_grad():
        weight[0] = 3e38
    with pytest.raises(MeasureError, match=r"after block 2 contains? nan or inf|block 2"):
        measure(tiny_clip, pixels)
    with torch.no_grad():
        weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.fc2\.weight \(64 nan of 2048 values\)"):
        measure(tiny_clip, pixels)


# --- other settings of a script


def test_newer_precision_settings_are_kept(tiny_clip: Clip, pixels: Tensor) -> None:
    """Those of torch 2.9 and later, by which old ones cannot even be asked for; transformers sets them."""
    places = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    if not all(hasattr(place, "fp32_precision") for place in places):
        pytest.skip("this torch has none")
    before = [place.fp32_precision for place in places]
    expected = measure(tiny_clip, pixels, flow=False).mean("entropy")
    try:
        for value in ("tf32", "ieee"):
            for place in places[:2]:
                place.fp32_precision = value
            kept = [place.fp32_precision for place in places]
            assert measure(tiny_clip, pixels, flow=False).mean("entropy") == expected
            assert [place.fp32_precision for place in places] == kept
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def test_in_inference_mode(tiny_clip: Clip, pixels: Tensor) -> None:
    """As evaluation loops are written."""
    expected = measure(tiny_clip, pixels)
    with torch.inference_mode():
        found = measure(tiny_clip, pixels)
        compare(tiny_clip, load_plain(Path(tiny_clip.model.name_or_path)), pixels)
    assert np.array_equal(found.internals.attention["entropy"], expected.internals.attention["entropy"])


def test_a_users_hook_that_changes_the_model_is_seen(tiny_clip: Clip, pixels: Tensor) -> None:
    """Hooks are part of the model as it runs: what steers it is measured."""
    plain = measure(tiny_clip, pixels).mean("entropy")
    block = tiny_clip.model.vision_model.encoder.layers[0]
    handle = block.register_forward_hook(lambda _m, _i, out: out.roll(1, -1))
    steered = measure(tiny_clip, pixels)
    handle.remove()
    assert abs(steered.mean("entropy") - plain) > 1e-3
    assert measure(tiny_clip, pixels).mean("entropy") == plain
