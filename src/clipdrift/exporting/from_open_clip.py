"""A model of OpenCLIP's as transformers' CLIPModel, from which every export is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from clipdrift.exporting.result import ExportError
from clipdrift.model.base import Clip
from clipdrift.model.quiet import quiet
from clipdrift.model.texts import HuggingFaceTexts
from clipdrift.model.towers import Tower, tower_of
from clipdrift.model.towers.openclip import OpenClip
from clipdrift.repair.merging import plain_copy

_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
_STEM = re.compile(r"text\.(?=token_|transformer|ln_final|positional_|text_projection)")


def as_transformers(clip: Clip) -> Clip:
    """The same model in transformers' class, adapters merged; whether it is the same, the export proves.

    Raises:
        ExportError: parts that transformers' CLIP has not.
    """
    model = plain_copy(clip.model)
    tower = tower_of(model)
    if not isinstance(tower, OpenClip):
        trunk = getattr(model.visual, "trunk", model.visual)
        raise ExportError(
            f"{clip.name}: exports are made from transformers' CLIP, which has no such image tower "
            f"({type(trunk).__name__}); what clipdrift saves of it OpenCLIP loads as it is"
        )
    state = {}
    for name, weight in model.state_dict().items():
        state.update(dict(_renamed(tower, _STEM.sub("", name), weight)))
    text = getattr(model, "text", model)
    tokenizer = _tokenizer(clip.tokenizer)
    try:
        config = _config(model, text, tower, tokenizer)
        made = CLIPModel(config)
    except (AttributeError, ValueError) as error:
        raise ExportError(
            f"{clip.name}: its text tower is none that transformers' CLIP has ({error})"
        ) from None
    own = made.state_dict()
    for names, what in (
        (state.keys() - own.keys(), "for which transformers' CLIP has no place"),
        (own.keys() - state.keys(), "that transformers' CLIP needs and it has not"),
        ({n for n in own.keys() & state.keys() if own[n].shape != state[n].shape}, "of another shape"),
    ):
        if names:
            raise ExportError(f"{clip.name}: {len(names)} weights {what}, for example {min(names)}")
    made.load_state_dict(state)
    made.eval().requires_grad_(False)
    texts = HuggingFaceTexts(made, tokenizer)
    return Clip(clip.name, made, tokenizer, clip.preprocess, clip.preprocessor, texts, clip.notes)


def _renamed(tower: Tower, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Under transformers' name; of blocks of either tower as the image tower's are renamed."""
    if name in _TEXT:
        yield _TEXT[name], weight
    elif name == "text_projection":
        yield "text_projection.weight", weight.T
    elif name.startswith(("transformer.", "positional_embedding")):
        for new, part in tower.canonical(f"visual.{name}", weight):
            yield new.replace("vision_model.", "text_model.", 1), part
    elif name.startswith("visual."):
        yield from tower.canonical(name, weight)
    else:
        yield name, weight


def _tokenizer(tokenizer: Any) -> Any:
    """A tokenizer of Hugging Face's: the one inside, or OpenCLIP's own with its vocabulary."""
    if hasattr(tokenizer, "tokenizer"):
        return tokenizer.tokenizer
    ends = {tokenizer.sot_token_id: "<|startoftext|>", tokenizer.eot_token_id: "<|endoftext|>"}
    words = {ends.get(number, word): number for word, number in tokenizer.encoder.items()}
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    with quiet():
        return CLIPTokenizer(vocab=words, merges=merges, model_max_length=tokenizer.context_length)


def _config(model: Any, text: Any, tower: Tower, tokenizer: Any) -> CLIPConfig:
    sizes, visual = tower.geometry, model.visual
    block = text.transformer.resblocks[0]
    context, width = text.positional_embedding.shape
    found = type(block.mlp.gelu).__name__
    if getattr(block.mlp.gelu, "approximate", "none") != "none":
        found = "gelu_pytorch_tanh"
    return CLIPConfig(
        projection_dim=sizes.embedding_width,
        text_config={
            "vocab_size": text.token_embedding.weight.shape[0],
            "max_position_embeddings": int(context),
            "hidden_size": int(width),
            "intermediate_size": block.mlp.c_fc.weight.shape[0],
            "num_hidden_layers": len(text.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "hidden_act": _ACTIVATIONS.get(found, found),
            "layer_norm_eps": text.ln_final.eps,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": _end(text, model, tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": sizes.embedding_width,
        },
        vision_config={
            "image_size": sizes.image_size,
            "patch_size": visual.conv1.weight.shape[-1],
            "hidden_size": sizes.width,
            "intermediate_size": visual.transformer.resblocks[0].mlp.c_fc.weight.shape[0],
            "num_hidden_layers": sizes.blocks,
            "num_attention_heads": sizes.heads,
            "hidden_act": tower.activation,
            "layer_norm_eps": visual.ln_post.eps,
            "projection_dim": sizes.embedding_width,
        },
    )


def _end(text: Any, model: Any, tokenizer: Any) -> int:
    """The token at which transformers pools as OpenCLIP does: by the number 2, at the largest one."""
    pooled = getattr(model, "text_pool_type", None) or text.pool_type
    if pooled == "eos":
        return int(getattr(model, "text_eos_id", None) or text.eos_id)
    if pooled != "argmax":
        raise ValueError(f"it is pooled by {pooled!r}")
    end = tokenizer.eos_token_id
    return int(end) if end == max(tokenizer.get_vocab().values()) else 2
