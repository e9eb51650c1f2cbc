"""Tests for a GPU, run by ``make gpu-check``; its rehearsal runs the same ones on the processor.

They are left out of the other suites: every test here is marked ``cuda``. ``CLIPDRIFT_GPU_DEVICE`` names the
device, ``CLIPDRIFT_GPU_RESULTS`` the JSON file to which each outcome is written as soon as it is known.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from clipdrift.training.preparation import pick_device

if TYPE_CHECKING:
    from partly import Results

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)


def pytest_configure(config: pytest.Config) -> None:
    """Write each outcome as soon as it is known, where that is asked for; of several processes one does."""
    place = os.environ.get("CLIPDRIFT_GPU_RESULTS")
    if place is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        from partly import Results  # beside the check that sets the variable

        config.pluginmanager.register(Outcomes(Results(Path(place))))


@dataclass
class Outcomes:
    """Plugin that keeps what became of every test."""

    results: Results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.results.put(report.nodeid.rpartition("/")[2], outcome_of(report))


def outcome_of(report: pytest.TestReport) -> dict[str, Any]:
    """One test's result as data."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    return {
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        "said": said.strip()[-1500:],
        "measured": dict(report.user_properties),
    }


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or what the rehearsal has in its place."""
    return pick_device(os.environ.get("CLIPDRIFT_GPU_DEVICE", "cuda"))


@pytest.fixture(scope="session")
def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


@pytest.fixture
def needs_gpu(on_gpu: bool) -> None:
    if not on_gpu:
        pytest.skip("holds for a GPU alone")


@pytest.fixture(scope="session")
def base() -> CLIPModel:
    """A random image tower of ViT-B/32's width and depth on small pictures, its attention uneven."""
    torch.manual_seed(0)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {"vocab_size": 10, "bos_token_id": 8, "eos_token_id": 9, "pad_token_id": 9}
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 96, "patch_size": 16,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=text | ends, vision_config=vision, projection_dim=512, attn_implementation="sdpa"
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.mul_(4)
            block.self_attn.k_proj.weight.mul_(4)
    return model
