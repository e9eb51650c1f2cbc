"""Models and adapters as other people make them, and the arithmetic that paths are held against."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import CLIPModel

from clipdrift.model.quiet import quiet

VISION = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 8},
    "whole": {
        "target_modules": r"vision_model\..*(k_proj|fc1|fc2)",
        "modules_to_save": ["visual_projection"],
        "rank_pattern": {"fc1": 2},
        "alpha_pattern": {"fc2": 3},
    },
    "biased": {"bias": "lora_only"},
    "dora": {"use_dora": True},
}


def plain(folder: Path) -> Any:
    """By transformers alone; from disk once, as long as the file stays the same."""
    return copy.deepcopy(_from_disk(folder, (folder / "model.safetensors").stat().st_mtime_ns))


@cache
def _from_disk(folder: Path, _changed: int) -> Any:
    with quiet():
        return CLIPModel.from_pretrained(folder).eval()


@torch.no_grad()
def shake(model: Any, amount: float, seed: int, only: Callable[[str], bool]) -> None:
    """Add noise to every weight whose name is accepted, relative to its size."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if only(name):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += amount * parameter.std(correction=0).clamp_min(0.05) * noise


def tuned(folder: Path, to: Path, texts: bool = False, amount: float = 0.2) -> Path:
    """A folder with the image tower changed, and with ``texts`` everything."""
    shutil.copytree(folder, to)
    model = plain(folder)
    image = ("vision_model.", "visual_projection.")
    shake(model, amount, 1, lambda name: texts or name.startswith(image))
    model.save_pretrained(to)
    return to


def peft_model(folder: Path, seed: int = 3, **options: Any) -> PeftModel:
    """A model with a LoRA adapter whose every part is random, as after training."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": VISION, **options})
    model = get_peft_model(plain(folder), config)
    learnt = {n for n, p in model.named_parameters() if p.requires_grad and ".lora_A." not in n}
    shake(model, 0.3, seed, learnt.__contains__)
    return model.eval()


def adapter(folder: Path, to: Path, kind: str) -> Path:
    peft_model(folder, **ADAPTERS[kind]).save_pretrained(str(to))
    return to


def merged(folder: Path, adapter_folder: Path) -> Any:
    """The adapter in plain weights, by peft's own merge."""
    model = PeftModel.from_pretrained(plain(folder), str(adapter_folder))
    return copy.deepcopy(model).merge_and_unload().eval()


def between(one: Any, other: Any, alpha: float) -> Any:
    """A plain model with ``(1 - alpha) theta_0 + alpha theta_1`` of two plain models, in float64."""
    first, second = one.state_dict(), other.state_dict()
    mixed = {
        name: ((1 - alpha) * first[name].double() + alpha * second[name].double()).to(first[name].dtype)
        for name in first
    }
    model = copy.deepcopy(one)
    model.load_state_dict(mixed)
    return model


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def embedding(model: Any, pixels: Tensor | None = None) -> Tensor:
    """(n, E) by transformers' own forward."""
    found = model.eval().get_image_features(pixel_values=images() if pixels is None else pixels)
    return found.pooler_output


def state_copy(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def by_hand(old: NDArray[Any], new: NDArray[Any], threshold: float, top: int) -> tuple[NDArray[Any], int]:
    """``sum_i sigma_i u_i v_i^T`` over the intruders by numpy's SVD, and how many there are."""
    known = np.linalg.svd(old, full_matrices=False)[0]
    left, strength, right = np.linalg.svd(new, full_matrices=False)
    part, count = np.zeros_like(new), 0
    for i in range(min(top, len(strength))):
        if np.abs(known.T @ left[:, i]).max() < threshold:
            part += strength[i] * np.outer(left[:, i], right[i])
            count += 1
    return part, count


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
