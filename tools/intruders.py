"""`clipdrift soften` beside peft's `reduce_intruder_dimension`, and the direction of its mitigation_lambda.

    python tools/intruders.py [RUN ...]

Adapters with random factors on clipdrift/mini, made by plain peft, and those of LoRA runs that are named. A
row for each adapter and factor (peft's mitigation_lambda, our --scale). Every number is a Frobenius norm over
the weights of both towers, relative to what the adapter itself changed: how far peft, and how far soften,
moved the adapted model, and how far apart their results are. No network, no training; a minute on two cores.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import Tensor

import clipdrift
from clipdrift.model.weights import effective_weights, text_weights

BASE, FACTORS = "clipdrift/mini", (1.0, 0.75, 0.25, 0.0)
BLOCKS = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
CASES: dict[str, dict[str, Any]] = {
    "LoRA, q and v": {},
    "rsLoRA": {"use_rslora": True},
    "and the projection": {"target_modules": rf"{BLOCKS}|visual_projection"},
    "and both towers": {"target_modules": r".*\.self_attn\.(q_proj|v_proj)"},
    "projection in full": {"modules_to_save": ["visual_projection"]},
    "DoRA": {"use_dora": True},
}
STRENGTH = 0.12
"""Size of the entries of B: strong enough for intruders, as after training at a high rate."""


def plain() -> Any:
    return copy.deepcopy(clipdrift.load(BASE).model)


@torch.no_grad()
def made(folder: Path, options: dict[str, Any]) -> Path:
    """An adapter whose every trained part is random, saved by peft."""
    torch.manual_seed(0)
    model = get_peft_model(
        plain(), LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": BLOCKS} | options)
    )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_A." not in name:
            parameter += (
                STRENGTH * torch.randn(parameter.shape) * (1 if ".lora_B." in name else parameter.std())
            )
    model.save_pretrained(str(folder))
    return folder


def weights(model: Any) -> dict[str, Tensor]:
    found = effective_weights(model) | text_weights(model)
    return {name: value.detach().double().clone() for name, value in found.items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in one)) ** 0.5


def loaded(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(plain(), str(folder)).eval()


def by_peft(folder: Path, factor: float) -> dict[str, Tensor]:
    model = loaded(folder)
    reduce_intruder_dimension(model, mitigation_lambda=factor, logging_sink=None)
    return weights(model.base_model.model)


def by_soften(folder: Path, factor: float, out: Path) -> tuple[dict[str, Tensor], Any]:
    size = plain().config.vision_config.image_size
    images = torch.rand(8, 3, size, size)  # soften measures on images; nothing of that is used here
    found = clipdrift.soften(BASE, folder, scale=factor, images=images, out=out, device="cpu", force=True)
    if found.saved is None:
        return weights(loaded(folder).base_model.model), found
    kept = (
        loaded(Path(found.saved)).base_model.model
        if found.form == "adapter"
        else clipdrift.load(found.saved).model
    )
    return weights(kept), found


def rows(label: str, folder: Path, out: Path) -> None:
    before, adapted = weights(plain()), weights(loaded(folder).base_model.model)
    whole = distance(adapted, before)
    for factor in FACTORS:
        theirs = by_peft(folder, factor)
        cells = [f"{distance(theirs, adapted) / whole:9.4f}"]
        if factor < 1:  # soften refuses to leave everything
            ours, found = by_soften(folder, factor, out)
            cells += [f"{distance(x, y) / whole:9.4f}" for x, y in ((ours, adapted), (ours, theirs))]
            cells.append(f"{sum(found.steps[0].intruders.values()):9}   {found.form}")
        print(f"{label:20} {factor:6g} {' '.join(cells)}", flush=True)


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    documented = " ".join((reduce_intruder_dimension.__doc__ or "").split())
    at = documented.index("mitigation_lambda (default")
    print(f"peft says: {documented[at : documented.index('Refer to', at)].strip()}\n")
    print(f"{'adapter':20} factor {'peft':>9} {'soften':>9} {'apart':>9} intruders   saved as")
    with tempfile.TemporaryDirectory() as folder:
        for number, (label, options) in enumerate(CASES.items()):
            rows(label, made(Path(folder) / str(number), options), Path(folder) / "out")
        for run in sys.argv[1:]:
            rows(Path(run).name, Path(run) / "model", Path(folder) / "out")


if __name__ == "__main__":
    main()
