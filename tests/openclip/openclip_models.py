"""Small OpenCLIP models for tests. OpenCLIP is imported where it is used, as it may not be there."""

from __future__ import annotations

import copy
import importlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from clipdrift.model.clip import ModelError, load
from eva_models import vision_of

REASON = "needs OpenCLIP: make test-open-clip"
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear"}
CONFIG = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}


def pixels(n: int, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is uneven and every token counts, as in a trained model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith(("bias", "class_embedding")):
                parameter.normal_(0, 0.1, generator=generator)


def build(kind: str = "CLIP", seed: int = 0, quick_gelu: bool = True, **vision: Any) -> Any:
    """A random model: 2 blocks, 2 heads, width 32, 16 px, patch 4, unless ``vision`` says otherwise."""
    library = importlib.import_module("open_clip")
    if odd := vision.keys() - library.CLIPVisionCfg.__dataclass_fields__.keys():
        pytest.skip(f"this release of OpenCLIP has no {min(odd)}")
    model = getattr(library, kind)(24, VISION | vision, dict(TEXT), quick_gelu=quick_gelu).eval()
    randomise(model, seed)
    return model


def blocks_of(model: Any) -> list[Any]:
    return list(model.visual.transformer.resblocks)


def torchs_maps(model: Any, images: Tensor) -> Tensor:
    """(L, B, H, T, T) as torch's own attention returns them, asked on what each block gives it."""
    inputs: list[Tensor] = []
    handles = [
        block.ln_1.register_forward_hook(lambda _module, _inputs, output: inputs.append(output))
        for block in blocks_of(model)
    ]
    model.encode_image(images)
    for handle in handles:
        handle.remove()
    return torch.stack(
        [
            block.attn(x, x, x, need_weights=True, average_attn_weights=False)[1]
            for block, x in zip(blocks_of(model), inputs, strict=True)
        ]
    )


def block_outputs(model: Any, images: Tensor) -> Tensor:
    """(L, B, T, D) after each block; before release 2.26 the tokens come first."""
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in blocks_of(model)
    ]
    model.encode_image(images)
    for handle in handles:
        handle.remove()
    found = torch.stack(outputs)
    return found if blocks_of(model)[0].attn.batch_first else found.transpose(1, 2)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def as_hugging_face(model: Any, hidden_act: str = "quick_gelu") -> CLIPModel:
    """transformers' CLIPModel with the same weights, put there by this table and not by ours."""
    size = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    text = {**size, **ids, "vocab_size": 49408, "max_position_embeddings": 16, "hidden_act": hidden_act}
    vision = {**size, "image_size": 16, "patch_size": 4, "hidden_act": hidden_act}
    made = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        out[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for new, old in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            for i in range(2):
                to, of = f"{new}.encoder.layers.{i}", f"{old}.resblocks.{i}"
                packed = state[f"{of}.attn.in_proj_{kind}"]
                for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                    out[f"{to}.self_attn.{name}.{kind}"] = packed[32 * part : 32 * (part + 1)]
                out[f"{to}.self_attn.out_proj.{kind}"] = state[f"{of}.attn.out_proj.{kind}"]
                out[f"{to}.layer_norm1.{kind}"] = state[f"{of}.ln_1.{kind}"]
                out[f"{to}.layer_norm2.{kind}"] = state[f"{of}.ln_2.{kind}"]
                out[f"{to}.mlp.fc1.{kind}"] = state[f"{of}.mlp.c_fc.{kind}"]
                out[f"{to}.mlp.fc2.{kind}"] = state[f"{of}.mlp.c_proj.{kind}"]
    made.load_state_dict(out, strict=True)
    return made


def moved(model: Any, seed: int = 1, by: float = 0.05) -> Any:
    """A copy whose image tower has moved, as after fine-tuning."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.visual.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return other


def hub_cache(home: Path, repository: str, files: Path | None) -> None:
    """The hub's own layout."""
    repo = home / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    if files is not None:
        shutil.copytree(files, repo / "snapshots" / commit)


def error_of(name: str) -> str:
    """Why it cannot be loaded, in one line after the name."""
    with pytest.raises(ModelError) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message.removeprefix(f"{name}: ")


TRUNKS: dict[str, dict[str, Any]] = {
    "convnext": {
        "timm_model_name": "test_convnext",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "convnext-mlp": {
        "timm_model_name": "test_convnext2",
        "timm_pool": "",
        "timm_proj": "mlp",
        "image_size": 64,
    },
    "fastvit": {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
    "vit": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
}
"""Configurations of small towers of timm's; ``fastvit`` and ``vit`` are projected by the trunk's own head."""


def resnet(seed: int = 0, kind: str = "CLIP") -> Any:
    """A random ModifiedResNet: 4 stages of 1, 2, 1, 1 residual blocks, 8 heads, 64 px, a map of 2 x 2."""
    return build(kind, seed, layers=(1, 2, 1, 1), width=16, image_size=64, head_width=64)


def trunk(name: str, seed: int = 0) -> Any:
    """A random CLIP with a small trunk of timm's."""
    library = importlib.import_module("open_clip")
    model = library.CLIP(24, dict(TRUNKS[name]), dict(TEXT)).eval()
    randomise(model, seed)
    return model


def any_tower(name: str, seed: int = 0) -> Any:
    """``resnet``, one of ``TRUNKS``, ``vitamin`` or ``swin``."""
    if name in ("vitamin", "swin"):
        return built(name, seed)
    return resnet(seed) if name == "resnet" else trunk(name, seed)


def built(name: str, seed: int = 0) -> Any:
    """A CLIP whose trunk is put together from timm's own parts, as timm has no small one.

    ``vitamin``: two stages of convolutions, then two transformer blocks whose patches are averaged, 64 px.
    ``swin``: four stages, channels last, 64 px.
    """
    model = trunk("vit")
    models, layers = importlib.import_module("timm.models"), importlib.import_module("timm.layers")
    if name == "swin":
        shape = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
        made = models.swin_transformer.SwinTransformer(img_size=64, patch_size=4, num_classes=24, **shape)
    else:
        parts = models.vitamin
        convolutions = parts.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        cfg = parts.VitCfg(embed_dim=(8, 16, 32), depths=(1, 1, 2), stem_width=8, conv_cfg=convolutions)
        embed = partial(layers.HybridEmbed, backbone=parts.MbConvStages(cfg), proj=False)
        shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 1, "img_size": 64}
        averaged = {"class_token": False, "global_pool": "avg", "mlp_layer": parts.GeGluMlp, "mlp_ratio": 2.0}
        made = models.vision_transformer.VisionTransformer(
            num_classes=24, embed_layer=embed, **shape, **averaged
        )
    model.visual.trunk, model.visual.image_size = made, (64, 64)
    randomise(model.eval(), seed)
    return model


def eva(kind: str, seed: int = 0) -> Any:
    """A random CLIP with a small Eva of timm's: of ``EVAS``, or one of these.

    ``normed``: with norms of queries and keys. ``added apart``: whose biases are added after the product.
    """
    library = importlib.import_module("open_clip")
    base = {"normed": "eva02", "added apart": "eva02_packed"}.get(kind, kind)
    vision = vision_of(base, "avg" if kind == "eva_averaged" else "token")
    model = library.CLIP(24, vision, dict(TEXT)).eval()
    for block in model.visual.trunk.blocks:
        if kind == "normed":
            block.attn.q_norm, block.attn.k_norm = nn.LayerNorm(16), nn.LayerNorm(16)
        block.attn.qkv_bias_separate = kind == "added apart"
    randomise(model, seed)
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model
