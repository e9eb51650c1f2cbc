"""Models and adapters as other people make them: plain transformers and peft, nothing of clipdrift."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModelWithProjection

from clipdrift.model.quiet import quiet

VISION = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj|out_proj)"
"""Matrices of the image tower of a whole CLIPModel."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "bare": {"kind": CLIPVisionModelWithProjection, "targets": ["q_proj", "v_proj"]},
    "rslora": {"use_rslora": True, "r": 8},
    "dora": {"use_dora": True},
    "bare dora": {
        "kind": CLIPVisionModelWithProjection,
        "targets": ["q_proj", "v_proj"],
        "use_dora": True,
    },
    "everything": {
        "targets": r"vision_model\..*(k_proj|fc1|fc2)",
        "modules_to_save": ["visual_projection"],
        "rank_pattern": {"fc1": 2},
        "alpha_pattern": {"fc2": 3},
    },
}
"""On a whole CLIPModel by pattern, on its image half by bare names, so that its keys lack the text tower."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Adapter:
    """One adapter made with plain peft: its folder, and the same merged into a plain model."""

    folder: Path
    merged: Path


def load_plain(folder: Path, kind: Any = CLIPModel) -> Any:
    """By transformers alone, with its own eager attention."""
    more = {}
    if kind is CLIPVisionModelWithProjection:  # which has a field of its own for it
        more["projection_dim"] = json.loads((folder / "config.json").read_text())["projection_dim"]
    with quiet():
        return kind.from_pretrained(folder, attn_implementation="eager", **more).eval()


@torch.no_grad()
def shake(
    model: nn.Module, amount: float, seed: int = 0, only: Callable[[str], bool] = lambda _: True
) -> None:
    """Add noise to every weight whose name is accepted, relative to its size."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if only(name):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += amount * parameter.std(correction=0).clamp_min(0.05) * noise  # type: ignore[misc]


def of_image(name: str) -> bool:
    return name.startswith(("vision_model.", "visual_projection."))


def tuned_copy(
    folder: Path,
    to: Path,
    amount: float = 0.1,
    seed: int = 1,
    texts: bool = False,
    kind: Any = CLIPModel,
) -> Path:
    """A folder with the model's image tower changed; its tokenizer and preprocessing are copied."""
    shutil.copytree(folder, to)
    model = load_plain(folder, kind)
    shake(model, amount, seed, (lambda _: True) if texts else of_image)
    model.save_pretrained(to)
    return to


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def peft_model(
    folder: Path, kind: Any = CLIPModel, targets: Any = VISION, seed: int = 3, **options: Any
) -> PeftModel:
    """A model with a LoRA adapter whose two factors are random, as after training."""
    return adapt(load_plain(folder, kind), targets, seed, **options)


def adapt(
    plain: Any, targets: Any = VISION, seed: int = 3, trained: bool = True, **options: Any
) -> PeftModel:
    """The same on a model that is there already, which peft changes."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": targets, **options})
    model = get_peft_model(plain, config)
    learnt = (".lora_B.", "magnitude", "modules_to_save") if trained else ()
    shake(model, 0.3, seed, lambda name: any(part in name for part in learnt))
    return model.eval()


def copy_folder(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def pickle_weights(folder: Path) -> None:
    """As older releases of peft saved them."""
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()


def write_adapter(to: Path, folder: Path, **options: Any) -> Path:
    """What ``PeftModel.save_pretrained`` leaves."""
    peft_model(folder, **options).save_pretrained(str(to))
    return to


def merged(model: PeftModel, to: Path, like: Path) -> Path:
    """The adapter merged into the weights and saved as a plain CLIPModel, beside the files of ``like``."""
    shutil.copytree(like, to)
    plain = copy.deepcopy(model).merge_and_unload()
    if not isinstance(plain, CLIPModel):
        whole = load_plain(like)
        whole.vision_model.load_state_dict(plain.vision_model.state_dict())
        whole.visual_projection.load_state_dict(plain.visual_projection.state_dict())
        plain = whole
    plain.save_pretrained(to)
    return to


def in_hub_cache(hub: Path, name: str, folder: Path) -> None:
    """Lay a folder into a hub cache as a download leaves it."""
    repo = hub / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    for part in (repo / "refs", repo / "blobs", snapshot):
        part.mkdir(parents=True)
    (repo / "refs/main").write_text(COMMIT)
    for index, file in enumerate(sorted(f for f in folder.iterdir() if f.is_file())):
        blob = repo / "blobs" / f"{index:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
