"""Half models as other people save them: plain transformers, nothing of clipdrift."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipForImageClassification,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from clipdrift.model.quiet import quiet


def load_plain(folder: Path, kind: Any = CLIPModel) -> Any:
    """By transformers alone."""
    with quiet():
        return kind.from_pretrained(folder).eval()


def image_tower(whole: Any) -> Any:
    """Without a projection."""
    kind = SiglipVisionModel if isinstance(whole, SiglipModel) else CLIPVisionModel
    model = kind(whole.config.vision_config)
    model.load_state_dict(whole.vision_model.state_dict())
    return model.eval()


def projected_image_tower(whole: CLIPModel) -> Any:
    config = whole.config.vision_config
    config.projection_dim = whole.config.projection_dim
    model = CLIPVisionModelWithProjection(config)
    state = whole.state_dict()
    model.load_state_dict({name: w for name, w in state.items() if name.startswith("vis")})
    return model.eval()


def text_tower(whole: Any) -> Any:
    kind = SiglipTextModel if isinstance(whole, SiglipModel) else CLIPTextModel
    model = kind(whole.config.text_config)
    model.load_state_dict(whole.text_model.state_dict())
    return model.eval()


def projected_text_tower(whole: CLIPModel) -> Any:
    config = whole.config.text_config
    config.projection_dim = whole.config.projection_dim
    model = CLIPTextModelWithProjection(config)
    state = whole.state_dict()
    model.load_state_dict({name: w for name, w in state.items() if name.startswith("text")})
    return model.eval()


def classifier(whole: Any, names: tuple[str, ...] = ("blue", "green", "red")) -> Any:
    """With a head of random weights."""
    config = whole.config
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    kind = SiglipForImageClassification if isinstance(whole, SiglipModel) else CLIPForImageClassification
    model = kind(config)
    model.vision_model.load_state_dict(whole.vision_model.state_dict())
    model.classifier.weight.data.normal_(0, 0.5)
    return model.eval()


def dual_encoder(whole: Any) -> VisionTextDualEncoderModel:
    """With another text tower and projections of its own."""
    bert = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        whole.config.vision_config, bert, projection_dim=12
    )
    model = VisionTextDualEncoderModel(config)
    model.vision_model.load_state_dict(whole.vision_model.state_dict())
    return model.eval()


def saved(model: Any, to: Path, **options: Any) -> Path:
    model.save_pretrained(to, **options)
    return to


def saved_sharded(model: Any, to: Path) -> Path:
    saved(model, to, max_shard_size="40KB")
    assert len(list(to.glob("*.safetensors"))) > 2
    return to


def saved_by_older(model: Any, to: Path) -> Path:
    """As releases before 5 named the weights of a tower alone."""
    saved(model, to)
    prefix = "text_model." if "Text" in type(model).__name__ else "vision_model."
    rename(to, lambda name: name if name.startswith(prefix) else prefix + name)
    return to


def rename(folder: Path, change: Callable[[str], str]) -> None:
    file = folder / "model.safetensors"
    save_file({change(name): w for name, w in load_file(file).items()}, file, metadata={"format": "pt"})


def whole_with(base: Path, tuned: Path, to: Path, part: str, kind: Any = CLIPModel) -> Path:
    """BASE's folder with weights of TUNED whose names begin so: what a half should be compared as."""
    shutil.copytree(base, to)
    model, other = load_plain(base, kind), load_plain(tuned, kind)
    state = model.state_dict()
    state |= {name: w for name, w in other.state_dict().items() if name.startswith(part)}
    model.load_state_dict(state)
    model.save_pretrained(to)
    return to
