"""What holds for a GPU alone, driven through a double of torch's CUDA functions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from clipdrift import accelerator
from clipdrift.config import ConfigError
from clipdrift.errors import OutOfMemoryError
from clipdrift.runs.record import Record
from clipdrift.training import runner
from clipdrift.training.memory import out_of_memory_guard
from clipdrift.training.preparation import pick_device
from small_runs import Lab


@dataclass
class FakeCuda:
    """Two GPUs of 80 GiB, the second with a random generator that is kept; calls are written down."""

    count: int = 2
    initialized: bool = False
    calls: list[str] = field(default_factory=list)
    states: dict[str, torch.Tensor] = field(default_factory=dict)

    def is_available(self) -> bool:
        return self.count > 0

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        return self.count

    def get_device_name(self, device: torch.device) -> str:
        return f"Fake {device.index or 0}"

    def is_bf16_supported(self) -> bool:
        return True

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return self.states.get(str(device), torch.arange(4, dtype=torch.uint8))

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.states[str(device)] = state

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(f"synchronize {device}")

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 3 * 2**30, 80 * 2**30

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.calls.append(f"reset {device}")

    def max_memory_allocated(self, device: torch.device) -> int:
        return 7


CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda"), torch.device("cuda:1")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    found = FakeCuda()
    monkeypatch.setattr(accelerator, "cuda", found)
    return found


@pytest.mark.parametrize(("name", "why"), [
    ("cuda:2", "torch sees cuda:0 to cuda:1"),
    ("mps", "computes on cpu, cuda or cuda:N, not on mps"),
    ("meta", "not on meta"),
    ("nonsense", "unknown; legal: auto, cpu, cuda, cuda:N"),
    ("cuda:x", "unknown; legal"),
])  # fmt: skip
def test_devices_that_are_not_there_are_refused(fake: FakeCuda, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {name}: .*{why}"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_are_there(fake: FakeCuda, name: str) -> None:
    assert str(pick_device(name)) == name


def test_auto_is_a_gpu_where_there_is_one(fake: FakeCuda) -> None:
    assert pick_device("auto") == FIRST
    fake.count = 0
    assert pick_device("auto") == CPU
    with pytest.raises(ConfigError, match="torch sees no CUDA device here"):
        pick_device("cuda")
    fake.count = 1
    with pytest.raises(ConfigError, match="only cuda:0"):
        pick_device("cuda:7")


def test_each_function_asks_the_gpu_and_leaves_the_processor_alone(fake: FakeCuda) -> None:
    assert (accelerator.name_of(SECOND), accelerator.name_of(CPU)) == ("Fake 1", "cpu")
    assert accelerator.processor_of(SECOND) == "Fake 1"
    assert accelerator.processor_of(CPU).startswith("cpu ")
    assert (accelerator.has_bf16(FIRST), accelerator.has_bf16(CPU)) == (True, False)
    assert (accelerator.forked_devices(FIRST), accelerator.forked_devices(CPU)) == ([FIRST], [])
    assert accelerator.memory_of(FIRST) == "3.0 of 80.0 GiB are free"
    assert (accelerator.memory_of(CPU), accelerator.peak_memory(CPU), accelerator.peak_memory(FIRST)) == (
        None,
        None,
        7,
    )
    for work in (accelerator.release_memory, accelerator.wait, accelerator.forget_peak):
        work(CPU)
    assert fake.calls == []
    for work in (accelerator.release_memory, accelerator.wait, accelerator.forget_peak):
        work(SECOND)
    assert fake.calls == ["empty_cache", "synchronize cuda:1", "reset cuda:1"]


def test_a_gpus_random_numbers_are_kept_and_restored(fake: FakeCuda) -> None:
    assert accelerator.random_state(CPU) is None
    kept = accelerator.random_state(SECOND)
    assert kept is not None
    accelerator.set_random_state(SECOND, kept + 1)
    accelerator.set_random_state(CPU, kept)
    accelerator.set_random_state(FIRST, None)
    assert list(fake.states) == ["cuda:1"]
    assert torch.equal(fake.get_rng_state(SECOND), torch.arange(1, 5, dtype=torch.uint8))


def test_the_message_of_a_full_gpu_says_what_is_free(fake: FakeCuda, lab: Lab) -> None:
    config = lab.config()
    message = r"out of memory on cuda \(3\.0 of 80\.0 GiB are free\) while training"
    with pytest.raises(OutOfMemoryError, match=message), out_of_memory_guard(config, FIRST, "training"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_nothing_else_names_torchs_cuda_functions() -> None:
    """What holds for a GPU alone would otherwise be run there for the first time."""
    package = Path(accelerator.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "torch.cuda" in path.read_text()]
    assert found == ["accelerator.py"]


def test_determinism_is_put_back() -> None:
    before = dict(os.environ)
    with accelerator.deterministic(False, CPU):
        assert not torch.are_deterministic_algorithms_enabled()
    with accelerator.deterministic(True, CPU):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert dict(os.environ) == before


def test_determinism_on_a_gpu_has_to_begin_before_its_first_product(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "taken out again")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with accelerator.deterministic(True, FIRST):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        fake.initialized = True
    with accelerator.deterministic(True, FIRST):  # the next run of a study
        assert torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with (
        pytest.raises(RuntimeError, match=r"deterministic.*CUBLAS_WORKSPACE_CONFIG=:4096:8 before") as caught,
        accelerator.deterministic(True, FIRST),
    ):
        pass
    assert accelerator.lacks_determinism(caught.value)
    assert not torch.are_deterministic_algorithms_enabled()


class OnGpu(torch.Tensor):
    """A tensor that says of itself to lie on a GPU, whose sums would have no deterministic form there."""

    device = FIRST

    def cumsum(self, *_: Any, **__: Any) -> torch.Tensor:  # type: ignore[override]
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_running_sums_have_a_deterministic_form(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(3, 5, dtype=torch.float64)
    assert torch.equal(accelerator.running_sum(values), values.cumsum(-1))
    with pytest.raises(RuntimeError, match="cumsum_cuda_kernel"):
        accelerator.running_sum(values.as_subclass(OnGpu))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert torch.equal(accelerator.running_sum(values.as_subclass(OnGpu)), values.cumsum(-1))


def test_a_deterministic_run_says_so_and_is_the_same(lab: Lab, tmp_path: Path) -> None:
    """On the processor every run is deterministic already; the record tells who asked for it."""
    records: list[Record] = []
    for wanted in (True, False):
        record, _ = runner.run(
            lab.config(), tmp_path / str(wanted), cache=lab.cache, device="cpu", deterministic=wanted
        )
        records.append(record)
    assert records[0].environment["deterministic"] is True
    assert "deterministic" not in records[1].environment
    assert records[0].without_times() == records[1].without_times()


def test_an_operation_without_a_deterministic_form_is_named(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("cumsum_cuda does not have a deterministic implementation")

    monkeypatch.setattr(runner, "attempt", fails)
    with pytest.raises(ConfigError, match=r"--deterministic: not possible on cpu.*cumsum_cuda"):
        runner.run(lab.config(), tmp_path, cache=lab.cache, device="cpu", deterministic=True)
    with pytest.raises(RuntimeError, match="cumsum_cuda"):
        runner.run(lab.config(), tmp_path, cache=lab.cache, device="cpu")
