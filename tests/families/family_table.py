"""The table of docs/models.md: families of models, what can be done with each, and a small one of each.

To add a row: what makes a small random model of that class in a folder, and for each column that is a "no"
the reason, which is a part of the error that a user sees.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from clipdrift.model.tokens import train_tokenizer
from eva_models import vision_of

COLUMNS = ("load", "train", "lora", "attention", "representation", "zero-shot", "save")
CAPTIONS = ["two small red circles on a striped ground", "a photo of three big blue hexagons"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
OPEN_VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 16}
OPEN_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        example: a published model of the family.
        make: writes a small random one into an empty folder, as its library does.
        grid: patches on a side of the small one.
        blocks: of the small one; stages, where it has those.
        adapted: matrices that adapters can be put on: their kinds, and how many there are.
        no: why a column is a "no": all of them where it cannot even be loaded.
        open_clip: whether OpenCLIP is needed.
        image_size: in pixels, of the small one.
    """

    title: str
    example: str
    make: Make
    grid: int = 4
    image_size: int = 16
    blocks: int = 2
    adapted: tuple[tuple[str, ...], int] = (("q", "k", "v", "out", "mlp"), 12)
    no: Mapping[str, str] = field(default_factory=dict)
    open_clip: bool = False

    @property
    def says(self) -> dict[str, str | None]:
        """Reason for each column, None for a "yes"."""
        return {column: self.no.get(column, self.no.get("load")) for column in COLUMNS}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is uneven and every token counts, as in a trained model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith(("bias", "class_embedding")):
                parameter.normal_(0, 0.1, generator=generator)


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    return {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32, **more}


def _clip(image_size: int = 16, patch_size: int = 4, act: str = "quick_gelu", heads: int = 2) -> Make:
    """transformers' CLIPModel."""

    def make(folder: Path) -> None:
        tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
        shape = {"image_size": image_size, "patch_size": patch_size, "hidden_act": act}
        config = CLIPConfig(
            text_config=_text(tokenizer, hidden_act=act),
            vision_config={**TOWER, **shape, "num_attention_heads": heads},
            projection_dim=24,
        )
        _saved(CLIPModel(config), tokenizer, folder)
        preprocessor = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": image_size},
            "crop_size": {"height": image_size, "width": image_size},
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    return make


def _siglip(act: str = "gelu_pytorch_tanh") -> Make:
    """transformers' SiglipModel, of which SigLIP 2 of fixed resolution is one with another vocabulary."""

    def make(folder: Path) -> None:
        tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
        vision = {**TOWER, "image_size": 16, "patch_size": 4, "hidden_act": act}
        config = SiglipConfig(text_config=_text(tokenizer, hidden_act=act), vision_config=vision)
        _saved(SiglipModel(config), tokenizer, folder)
        SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)

    return make


def _naflex(folder: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
    vision = {**TOWER, "patch_size": 4, "num_patches": 16}
    _saved(Siglip2Model(Siglip2Config(text_config=_text(tokenizer), vision_config=vision)), tokenizer, folder)


def _saved(model: Any, tokenizer: Any, folder: Path) -> None:
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _open(
    vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, **config: Any
) -> Make:
    """OpenCLIP's CLIP or CustomTextCLIP, as it pushes models to the hub."""

    def make(folder: Path) -> None:
        both = {"vision_cfg": {**OPEN_VISION, **(vision or {})}, "text_cfg": {**OPEN_TEXT, **(text or {})}}
        whole = {"embed_dim": 24, **both, **config}
        content = {"model_cfg": whole, "preprocess_cfg": PREPROCESSING}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        library = importlib.import_module("open_clip")
        kind = library.CustomTextCLIP if config.get("custom_text") else library.CLIP
        model = kind(**{key: value for key, value in whole.items() if key != "custom_text"})
        randomise(model)
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")

    return make


def _configured(config: dict[str, Any]) -> Make:
    """A folder of which the configuration alone is looked at."""

    def make(folder: Path) -> None:
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))

    return make


def _trunk(name: str, size: int, pool: str, projection: str | None) -> Make:
    """One of timm's in OpenCLIP's CLIP."""
    trunk = {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": size}
    return _open({**trunk, "layers": 2, "width": 32})


def _eva(kind: str) -> Make:
    """timm's Eva, with a text tower of its own class as EVA-CLIP has it."""
    return lambda folder: _open(vision_of(kind), custom_text=True)(folder)


_COCA = {"embed_dim": 24, "custom_text": True, "vision_cfg": OPEN_VISION, "text_cfg": OPEN_TEXT}
RESNET: dict[str, Any] = {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64, "head_width": 64}
L14: dict[str, Any] = {"image_size": 224, "patch_size": 14}
L336: dict[str, Any] = {"image_size": 336, "patch_size": 14}

FAMILIES: tuple[Family, ...] = (
    Family("CLIP, MetaCLIP (transformers)", "openai/clip-vit-base-patch32", _clip()),
    Family("CLIP ViT-L/14", "openai/clip-vit-large-patch14", _clip(**L14), 16, 224),
    Family("CLIP ViT-L/14 at 336", "openai/clip-vit-large-patch14-336", _clip(**L336), 24, 336),
    Family(
        "CLIP ViT-H/14",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        _clip(**L14, act="gelu", heads=4),
        16,
        224,
    ),
    Family("SigLIP", "google/siglip-base-patch16-224", _siglip()),
    Family("SigLIP 2, one resolution", "google/siglip2-base-patch16-224", _siglip("gelu")),
    Family("SigLIP 2 NaFlex", "google/siglip2-base-patch16-naflex", _naflex, no={"load": "NaFlex"}),
    Family("OpenCLIP", "open_clip:ViT-B-32/laion2b_s34b_b79k", _open(), open_clip=True),
    Family(
        "OpenCLIP with a text tower of its own class",
        "models trained with --force-custom-text",
        _open(custom_text=True),
        open_clip=True,
    ),
    Family(
        "OpenCLIP with its own attention (custom blocks)",
        "a model_cfg with block_type = custom",
        _open({"block_type": "custom"}),
        open_clip=True,
    ),
    Family(
        "MetaCLIP (OpenCLIP)",
        "open_clip:ViT-B-32-quickgelu/metaclip_400m",
        _open(quick_gelu=True),
        open_clip=True,
    ),
    Family(
        "DFN (OpenCLIP)",
        "open_clip:ViT-L-14-quickgelu/dfn2b",
        _open(L14, quick_gelu=True),
        16,
        224,
        open_clip=True,
    ),
    Family(
        "OpenCLIP ViT-L/14 at 336",
        "open_clip:ViT-L-14-336/openai",
        _open(L336, quick_gelu=True),
        24,
        336,
        open_clip=True,
    ),
    Family(
        "OpenCLIP ViT-H/14",
        "open_clip:ViT-H-14/laion2b_s32b_b79k",
        _open({**L14, "head_width": 8}),
        16,
        224,
        open_clip=True,
    ),
    Family(
        "ResNet (OpenCLIP)",
        "open_clip:RN50-quickgelu/openai",
        _open(RESNET, quick_gelu=True),
        2,
        64,
        blocks=4,
        no={"lora": "has no matrices that adapters are put on, as its blocks are convolutions"},
        open_clip=True,
    ),
    Family(
        "ConvNeXt (OpenCLIP, timm)",
        "open_clip:convnext_base_w/laion2b_s13b_b82k",
        _trunk("test_convnext", 64, "", "linear"),
        2,
        64,
        blocks=4,
        adapted=(("mlp",), 18),
        no={"attention": "its stages are convolutions and images are pooled by their mean"},
        open_clip=True,
    ),
    Family(
        "FastViT (OpenCLIP, timm): MobileCLIP-S",
        "open_clip:MobileCLIP-S2/datacompdr",
        _trunk("fastvit_t8", 64, "avg", None),
        2,
        64,
        blocks=4,
        adapted=(("mlp",), 20),
        no={"attention": "images are pooled by their mean, so no token or query looks over all patches"},
        open_clip=True,
    ),
    Family(
        "VisionTransformer of timm's with a class token (OpenCLIP): MobileCLIP-B",
        "open_clip:MobileCLIP-B/datacompdr",
        _trunk("test_vit", 160, "token", None),
        10,
        160,
        blocks=6,
        adapted=(("out", "mlp"), 18),
        open_clip=True,
    ),
    Family(
        "SigLIP (OpenCLIP, timm)",
        "open_clip:ViT-B-16-SigLIP/webli",
        _trunk("test_vit3", 160, "map", "none"),
        no={"load": "its image tower is timm's VisionTransformer with a pooling head (global_pool 'map')"},
        open_clip=True,
    ),
    Family(
        "EVA02 (OpenCLIP, timm)",
        "open_clip:EVA02-B-16/merged2b_s8b_b131k",
        _eva("eva02"),
        adapted=(("q", "k", "v", "out", "mlp"), 14),
        open_clip=True,
    ),
    Family(
        "EVA01 (OpenCLIP, timm)",
        "open_clip:EVA01-g-14/laion400m_s11b_b41k",
        _eva("eva01"),
        adapted=(("out", "mlp"), 6),
        open_clip=True,
    ),
    Family(
        "CoCa (OpenCLIP)",
        "open_clip:coca_ViT-B-32/laion2b_s13b_b90k",
        _configured({**_COCA, "multimodal_cfg": {}}),
        no={"load": "CoCa pools images by attention with many queries"},
        open_clip=True,
    ),
)


def table() -> str:
    """The table of docs/models.md, and below it every reason."""
    lines = [
        "| family | for example | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + ":-:|" * len(COLUMNS),
    ]
    reasons = []
    for family in FAMILIES:
        example = (
            f"`{family.example}`" if "/" in family.example and " " not in family.example else family.example
        )
        cells = ["no" if reason else "yes" for reason in family.says.values()]
        lines.append("| " + " | ".join([family.title, example, *cells]) + " |")
        for column, reason in family.no.items():
            what = "" if column == "load" else f", {column}"
            reasons.append(f"- {family.title}{what}: {reason}.")
    return "\n".join([*lines, "", "Why not, in the words of the error:", "", *reasons])
