"""transformers' CLIP as OpenCLIP has it: names of weights, and the configuration of the same model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipdrift.data.preprocess import Preprocess
from clipdrift.exporting.result import ExportError
from clipdrift.model.towers.openclip import INSIDE, OUTSIDE
from clipdrift.model.towers.openclip_text import OUTSIDE as TEXT_OUTSIDE

_BLOCK = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_TEXT = {new: old for old, new in TEXT_OUTSIDE.items()}
_IMAGE = {f"vision_model.{new}": f"visual.{old}" for old, new in OUTSIDE.items()}
_PARTS = {new: old for old, new in INSIDE.items() if old != "attn"} | {"self_attn.out_proj": "attn.out_proj"}
_PACKED = ("q_proj", "k_proj", "v_proj")
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Of Pillow's those that OpenCLIP can ask for."""
_GELU_TANH = ("gelu_pytorch_tanh", "gelu_new")


def open_clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIPModel's weights under OpenCLIP's names, in its layout.

    Queries, keys and values of a block lie in one matrix there; projections are transposed.

    Raises:
        ExportError: weights that OpenCLIP's CLIP has no place for.
    """
    found: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    odd = []
    for name, weight in state.items():
        block = _BLOCK.fullmatch(name)
        if name == "logit_scale" or name in _TEXT:
            found[_TEXT.get(name, name)] = weight
        elif name == "visual_projection.weight":
            found["visual.proj"] = weight.T
        elif name == "text_projection.weight":
            found["text_projection"] = weight.T
        elif block is None and (outside := _outside(name)) is not None:
            found[outside] = weight
        elif block is None:
            odd.append(name)
        else:
            tower, number, part, kind = block.groups()
            place = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{number}"
            letter = part.removeprefix("self_attn.")
            if letter in _PACKED:
                packed.setdefault(f"{place}.attn.in_proj_{kind}", {})[letter] = weight
            elif part in _PARTS:
                found[f"{place}.{_PARTS[part]}.{kind}"] = weight
            else:
                odd.append(name)
    if odd:
        raise ExportError(f"OpenCLIP's CLIP has no place for {len(odd)} weights, for example {odd[0]}")
    found |= {name: torch.cat([parts[letter] for letter in _PACKED]) for name, parts in packed.items()}
    return {name: weight.contiguous() for name, weight in found.items()}


def _outside(name: str) -> str | None:
    if name in _IMAGE:
        return _IMAGE[name]
    path, _, last = name.rpartition(".")
    return f"{_IMAGE[path]}.{last}" if path in _IMAGE else None


def open_clip_config(config: Any, preprocess: Preprocess, largest: int, named: str | None) -> dict[str, Any]:
    """``open_clip_config.json`` for a CLIPModel.

    Args:
        config: its CLIPConfig.
        preprocess: its preprocessing.
        largest: the largest number of its tokenizer's tokens.
        named: ``hf_tokenizer_name``; None: OpenCLIP's own tokenizer.

    Raises:
        ExportError: OpenCLIP has no model or no preprocessing like it; says what.
    """
    vision, text = config.vision_config, config.text_config
    if vision.hidden_act != text.hidden_act:
        raise ExportError(
            f"its towers have different activations ({vision.hidden_act} and {text.hidden_act}), which "
            "OpenCLIP's CLIP cannot have"
        )
    if vision.num_channels != 3:
        raise ExportError(f"its images have {vision.num_channels} channels; OpenCLIP's CLIP takes three")
    return {
        "model_cfg": {
            "embed_dim": config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
                **_tower(vision),
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "heads": text.num_attention_heads,
                **_pooling(text, largest),
                **({} if named is None else {"hf_tokenizer_name": named}),
                **_tower(text),
            },
        },
        "preprocess_cfg": _preprocessing(preprocess, vision.image_size),
    }


def _tower(part: Any) -> dict[str, Any]:
    ratio = part.intermediate_size / part.hidden_size
    if int(part.hidden_size * ratio) != part.intermediate_size:  # OpenCLIP cuts the product off
        ratio = (part.intermediate_size + 0.5) / part.hidden_size
    found: dict[str, Any] = {"layers": part.num_hidden_layers, "width": part.hidden_size, "mlp_ratio": ratio}
    if part.layer_norm_eps != 1e-5:
        found["norm_kwargs"] = {"eps": part.layer_norm_eps}
    if part.hidden_act in _GELU_TANH:
        found["act_kwargs"] = {"approximate": "tanh"}
    elif part.hidden_act not in ("gelu", "quick_gelu"):
        raise ExportError(f"its activation is {part.hidden_act}, which OpenCLIP's CLIP has not")
    return found


def _pooling(text: Any, largest: int) -> dict[str, Any]:
    """Where transformers pools a text: at the largest token, as OpenCLIP does, or at the first end."""
    end = text.eos_token_id
    return {} if end in (2, largest) else {"pool_type": "eos", "eos_id": end}


def _preprocessing(preprocess: Preprocess, side: int) -> dict[str, Any]:
    whole = (side, side)
    if preprocess.size == side and preprocess.crop == whole:
        mode = "shortest"
    elif preprocess.size == whole and preprocess.crop in (None, whole):
        mode = "squash"
    else:
        raise ExportError(
            f"its preprocessing (size {preprocess.size}, crop {preprocess.crop}) is none of OpenCLIP's, "
            f"which resizes the shorter side to {side} and crops, or resizes both"
        )
    if preprocess.resample not in _FILTERS:
        raise ExportError(
            f"its images are resized by Pillow's filter {preprocess.resample}; OpenCLIP knows bilinear (2) "
            "and bicubic (3)"
        )
    if preprocess.scale is None or abs(preprocess.scale * 255 - 1) > 1e-6:
        raise ExportError(f"its pixels are scaled by {preprocess.scale}; OpenCLIP scales by 1/255")
    return {
        "mean": list(preprocess.mean or (0.0, 0.0, 0.0)),
        "std": list(preprocess.std or (1.0, 1.0, 1.0)),
        "interpolation": _FILTERS[preprocess.resample],
        "resize_mode": mode,
    }
