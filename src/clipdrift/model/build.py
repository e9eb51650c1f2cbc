"""A new CLIP with random weights in the shape that a PretrainConfig asks for."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from clipdrift.config import PretrainConfig

CONTEXT = 64
"""Longest text in tokens, start and end included."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def new_clip(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, attention: str) -> CLIPModel:
    """A randomly initialised CLIPModel, the same for the same ``config.seed``.

    Args:
        config: shape and seed.
        tokenizer: gives the vocabulary and the special tokens; the end token must not be 2, at which
            transformers would pool at the largest token id instead of at the end.
        attention: transformers' ``attn_implementation``.
    """
    end = tokenizer.eos_token_id
    if end == 2:
        raise ValueError(
            "the tokenizer's end token has id 2, which transformers pools wrongly; give it another"
        )
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_blocks,
        "num_attention_heads": config.heads,
        "hidden_act": "gelu",
        "max_position_embeddings": CONTEXT,
        "projection_dim": config.projection,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision: dict[str, Any] = {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": "gelu",
        "projection_dim": config.projection,
    }
    torch.manual_seed(config.seed)
    shape = CLIPConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=config.projection,
        attn_implementation=attention,
    )
    return CLIPModel(shape)


def preprocessor(size: int) -> dict[str, Any]:
    """CLIP's preprocessing at another image size, as ``preprocessor_config.json`` says it."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
