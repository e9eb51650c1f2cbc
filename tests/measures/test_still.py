"""Measuring leaves no trace, and half-precision weights are measured in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import SiglipModel

from clipdrift.data.deck import Prepared
from clipdrift.measures import MeasureError, read_internals
from clipdrift.measures.accuracy import embed
from clipdrift.measures.still import in_float32, still
from clipdrift.model.clip import Clip

BACKENDS = torch.backends


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)), nn.Linear(8, 2))


def interrupted(work: Callable[[], None]) -> None:
    work()
    raise KeyboardInterrupt


Measuring = Callable[[nn.Module, Callable[[], None]], None]


@pytest.fixture(params=[False, True], ids=["ends", "raises"])
def measuring(request: pytest.FixtureRequest) -> Measuring:
    """``measuring(model, work)``: does the work within, and ends well or by an exception."""

    def within(model: nn.Module, work: Callable[[], None]) -> None:
        if not request.param:
            with still(model):
                work()
            return
        with pytest.raises(KeyboardInterrupt), still(model):
            interrupted(work)

    return within


# --- nothing is left changed


def test_each_module_has_its_own_mode_back(measuring: Measuring) -> None:
    """A part that was kept in eval mode inside a model in training stays so, and the reverse."""
    model = network()
    shapes = [
        [True, True, True, True, True, True],
        [False, False, False, False, False, False],
        [True, True, False, False, True, True],
        [False, True, True, False, True, False],
    ]
    for modes in shapes:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        inside: list[bool] = []
        measuring(model, lambda inside=inside: inside.extend(m.training for m in model.modules()))  # type: ignore[misc]
        assert not any(inside)
        assert [module.training for module in model.modules()] == modes


def test_dropout_and_batch_statistics_are_off(measuring: Measuring) -> None:
    """Inputs give the same outputs, and no running mean moves."""
    model, x = network(), torch.randn(6, 4)
    before = copy.deepcopy(model.state_dict())

    def work() -> None:
        assert torch.equal(model(x), model(x))
        assert torch.allclose(model(x[:1]), model(x)[:1])

    measuring(model, work)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not torch.equal(model(x), model(x))  # dropout acts again


def test_random_numbers_go_on_where_they_were(measuring: Measuring) -> None:
    """However many were drawn, or whatever seed was set, within."""
    model = network()
    torch.manual_seed(3)
    torch.rand(5)
    state = torch.get_rng_state()
    expected = torch.rand(4)
    torch.set_rng_state(state)

    def work() -> None:
        torch.rand(100)
        torch.manual_seed(99)
        nn.Linear(4, 4)

    measuring(model, work)
    assert torch.equal(torch.rand(4), expected)


def test_gradients_are_off_and_on_again(measuring: Measuring) -> None:
    """Within, nothing is recorded; afterwards the mode is the caller's, also where that was off."""
    model = network()

    def work() -> None:
        assert not torch.is_grad_enabled()
        assert not model(torch.randn(2, 4)).requires_grad

    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            measuring(model, work)
            assert torch.is_grad_enabled() == mode


def test_autocast_is_suspended(measuring: Measuring) -> None:
    """An outer one is there again afterwards, with its dtype."""
    model, x = network(), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16

        def work() -> None:
            assert not torch.is_autocast_enabled("cpu")
            assert model(x).dtype == torch.float32

        measuring(model, work)
        assert torch.is_autocast_enabled("cpu")
        assert model(x).dtype == torch.bfloat16


# --- precision settings


def told() -> tuple[Any, ...]:
    """All that torch says about its precision and cuDNN; the old settings raise where new ones contradict."""

    def ask(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except RuntimeError:
            return "contradiction"

    return (
        ask(torch.get_float32_matmul_precision),
        ask(lambda: BACKENDS.cuda.matmul.allow_tf32),
        ask(lambda: BACKENDS.cudnn.allow_tf32),
        BACKENDS.fp32_precision,  # type: ignore[attr-defined]
        BACKENDS.cuda.matmul.fp32_precision,
        BACKENDS.cudnn.fp32_precision,
        BACKENDS.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        BACKENDS.cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
        BACKENDS.mkldnn.fp32_precision,
        BACKENDS.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        BACKENDS.mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
        BACKENDS.cudnn.enabled,
        BACKENDS.cudnn.benchmark,
        BACKENDS.cudnn.deterministic,
    )


SETTINGS: dict[str, Callable[[], Any]] = {
    "as torch starts": lambda: None,
    "old: high": lambda: torch.set_float32_matmul_precision("high"),
    "old: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old: allow_tf32": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "old: cudnn": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "new: all": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "new: cuda.matmul": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "new: cudnn.conv": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    "new: mkldnn.matmul": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),  # type: ignore[attr-defined]
    "cudnn: deterministic": lambda: setattr(BACKENDS.cudnn, "deterministic", True),
    "cudnn: benchmark": lambda: setattr(BACKENDS.cudnn, "benchmark", True),
    "cudnn: off": lambda: setattr(BACKENDS.cudnn, "enabled", False),
}


@pytest.fixture
def as_torch_starts() -> Iterator[None]:
    """Settings are the process's: whatever a test made of them, the next one finds the beginning."""
    _reset()
    yield
    _reset()


def _reset() -> None:
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for place in (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv):  # type: ignore[attr-defined]
        place.fp32_precision = "none"  # type: ignore[union-attr]
    BACKENDS.cudnn.enabled, BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic = True, False, False


@pytest.mark.usefixtures("as_torch_starts")
@pytest.mark.parametrize("setting", SETTINGS)
def test_precision_is_as_the_caller_set_it(measuring: Measuring, setting: str) -> None:
    """True float32 within; afterwards every setting is what it was, by whichever of torch's two ways it was
    set, and what was unset still follows what is set above it."""
    SETTINGS[setting]()
    before, inside = told(), {}

    def work() -> None:
        inside["precision"] = torch.get_float32_matmul_precision()
        for name in ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv"):
            place, kind = name.split(".")
            inside[name] = getattr(getattr(BACKENDS, place), kind).fp32_precision
        inside["cudnn"] = (BACKENDS.cudnn.enabled, BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic)  # type: ignore[assignment]

    measuring(network(), work)
    assert inside.pop("cudnn") == before[-3:]  # cuDNN is neither switched off nor made less deterministic
    assert inside.pop("precision") == "highest"
    assert set(inside.values()) == {"ieee"}
    assert told() == before
    if setting == "as torch starts":
        BACKENDS.fp32_precision = "tf32"  # type: ignore[attr-defined]
        assert BACKENDS.cuda.matmul.fp32_precision == "tf32"


# --- half-precision weights in float32


HALVES = (torch.float16, torch.bfloat16)


class Tied(nn.Module):
    """Two names for one matrix, a buffer that acts, and a part in float32 already."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.linspace(0.3, 1.7, 5))
        self.exact = nn.Parameter(torch.full((5,), 1.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)) * self.scale).tanh() * self.exact


def tied(half: torch.dtype) -> Tied:
    torch.manual_seed(0)
    model = Tied().eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    exact = model.exact.data
    model = model.to(half)
    model.exact.data = exact  # one parameter stays in float32
    return model


@pytest.mark.parametrize("half", HALVES)
def test_half_weights_are_raised_for_one_call(half: torch.dtype) -> None:
    """The result is the converted module's; the module keeps its own tensors, bit for bit."""
    model, x = tied(half), torch.randn(6, 5)
    expected = copy.deepcopy(model).float()(x)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bits = {name: tensor.clone() for name, tensor in tensors.items()}
    found = in_float32(model, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(tensors[name], value) for name, value in bits.items())
    assert all(tensors[name].dtype == value.dtype for name, value in bits.items())
    assert model.first.weight is model.second.weight
    assert model.exact.dtype == torch.float32
    assert model(x.to(half)).isfinite().all()  # and still runs in half precision


def test_raising_fails_cleanly() -> None:
    """Weights are the module's own again after an error."""
    model = tied(torch.bfloat16)
    kept = model.first.weight
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        in_float32(model, torch.randn(6, 4))
    assert model.first.weight is kept
    assert model.second.weight is kept
    assert kept.dtype == torch.bfloat16


def test_a_float32_module_is_called_as_it_is() -> None:
    """Nothing is swapped: within the call its parameters are its own."""
    model = network().eval()
    own, seen = [id(p) for p in model.parameters()], []
    handle = model[0].register_forward_hook(lambda *_: seen.append([id(p) for p in model.parameters()]))
    found = in_float32(model, torch.ones(2, 4))
    assert seen == [own]
    handle.remove()
    assert torch.equal(found, model(torch.ones(2, 4)))


def test_arguments_go_through(tiny_clip: Clip, images: Tensor) -> None:
    """By name, too, and whatever comes back."""
    tower = tiny_clip.model.vision_model
    with torch.no_grad():
        plain = in_float32(tower, pixel_values=images, output_hidden_states=True)
        half = in_float32(copy.deepcopy(tower).bfloat16(), pixel_values=images, output_hidden_states=True)
    assert len(plain.hidden_states) == len(half.hidden_states) == 3
    assert half.hidden_states[1].dtype == torch.float32


@pytest.mark.parametrize("half", HALVES)
def test_hooks_in_nested_modules_see_float32(tiny_clip: Clip, images: Tensor, half: torch.dtype) -> None:
    """Those of the trace, deep inside, fire once each with the raised module's values."""
    model = copy.deepcopy(tiny_clip.model).to(half)
    exact = copy.deepcopy(model).float()
    caught: dict[int, list[Tensor]] = {0: [], 1: []}
    for which, one in enumerate((model, exact)):
        for block in one.vision_model.encoder.layers:
            for module in (block, block.self_attn.q_proj):
                module.register_forward_hook(
                    lambda _m, _i, out, w=which: caught[w].append(out[0] if isinstance(out, tuple) else out)
                )
    with torch.no_grad():
        in_float32(model.vision_model, pixel_values=images)
        exact.vision_model(pixel_values=images)
    assert len(caught[0]) == len(caught[1]) == 4
    for found, target in zip(caught[0], caught[1], strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, target)


def test_adapters_on_half_weights(siglip: SiglipModel, probe: Prepared) -> None:
    """Also on the pooling head, where peft swaps weights during the forward pass itself."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=r"vision_model\..*(q_proj|fc1|head\.attention)", init_lora_weights=False
    )
    model = get_peft_model(siglip.bfloat16(), config).eval()
    exact = copy.deepcopy(model).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert {str(value.dtype) for value in before.values()} >= {"torch.bfloat16"}
    found, target = (read_internals(m, probe, 7, flow=True) for m in (model, exact))
    for name in target.measures:
        assert found.blocks(name) == pytest.approx(target.blocks(name), abs=1e-6), name
    assert torch.allclose(found.embedding, target.embedding, atol=1e-6)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(after[name].dtype == value.dtype for name, value in before.items())


# --- as the readers use it


@pytest.mark.usefixtures("as_torch_starts")
def test_reading_and_embedding_in_the_middle_of_a_training_step(tiny_clip: Clip, probe: Prepared) -> None:
    """In train mode, with one block kept still, gradients pending, autocast and TF32 on: no trace, and the
    numbers are those of the model at rest."""
    model = tiny_clip.model
    expected, at_rest = read_internals(model, probe).blocks("entropy"), embed(model, probe)
    model.train()
    model.vision_model.encoder.layers[0].eval()
    BACKENDS.fp32_precision = "tf32"  # type: ignore[attr-defined]
    model.get_image_features(pixel_values=probe.images[:2]).pooler_output.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    modes, random, settings = [m.training for m in model.modules()], torch.get_rng_state(), told()
    with torch.autocast("cpu", torch.bfloat16):
        assert read_internals(model, probe).blocks("entropy") == pytest.approx(expected, abs=1e-7)
        assert torch.equal(embed(model, probe), at_rest)
        assert torch.is_autocast_enabled("cpu")
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert told() == settings
    assert gradients
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters() if p.grad is not None)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_reading_that_fails_leaves_no_trace_either(tiny_clip: Clip, probe: Prepared) -> None:
    """Hooks, modes and gradients after an error halfway through the blocks."""
    model = tiny_clip.model.train()
    with torch.no_grad():
        model.vision_model.encoder.layers[1].self_attn.q_proj.weight.fill_(float("nan"))
    for flow in (False, True):
        with pytest.raises(MeasureError, match="of block 2"):
            read_internals(model, probe, flow=flow)
        assert all(m.training for m in model.modules())
        assert torch.is_grad_enabled()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
