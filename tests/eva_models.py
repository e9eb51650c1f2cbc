"""Small towers of timm's Eva under names of their own, as timm has none; timm is imported when needed."""

from __future__ import annotations

import importlib
from typing import Any

SMALL: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
TURNED: dict[str, Any] = {"use_rot_pos_emb": True, "ref_feat_shape": (3, 3)}
GATED: dict[str, Any] = {"mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True}
NORMED: dict[str, Any] = {"scale_mlp": True, "scale_attn_inner": True}
LEARNT: dict[str, Any] = {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_type": "mixed"}

EVAS: dict[str, dict[str, Any]] = {
    "eva02": {**TURNED, **GATED, **NORMED, "qkv_fused": False},
    "eva01": {},
    "eva02_postnorm": {"use_post_norm": True},
    "eva02_packed": {**TURNED, **GATED},
    "eva_unbiased": {**TURNED, "qkv_bias": False, "rope_rotate_half": True},
    "eva_axial": {
        **TURNED, "attn_type": "rope", "rope_grid_indexing": "xy", "no_embed_class": True, "init_values": 0.5,
    },
    "eva_mixed": {**LEARNT, "attn_type": "rope", "qkv_fused": False, "init_values": 0.5},
    "eva_any_size": {**TURNED, "dynamic_img_size": True},
    "eva_averaged": {**TURNED, "class_token": False},
}  # fmt: skip
"""What each is made of: the first four as EVA02-CLIP B and L, EVA01-CLIP g, EVA02-CLIP E and EVA02's own
tiny one are."""


def registered(kind: str) -> str:
    """The name under which timm, and with it OpenCLIP, makes a small Eva from now on."""
    models = importlib.import_module("timm.models")
    name = f"small_{kind}"

    def make(pretrained: bool = False, **given: Any) -> Any:
        wanted = {key: value for key, value in given.items() if key in ("num_classes", "global_pool")}
        return models.eva.Eva(**{**SMALL, **EVAS[kind], **wanted})

    make.__name__ = name
    if name not in models.list_models():
        models.register_model(make)
    return name


def vision_of(kind: str, pool: str = "token") -> dict[str, Any]:
    """OpenCLIP's ``vision_cfg`` of one, projected by the trunk's own head as EVA-CLIP's are."""
    return {"timm_model_name": registered(kind), "timm_pool": pool, "timm_proj": None, "image_size": 16}
