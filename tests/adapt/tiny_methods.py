"""Every method on the tiny CLIP, shared by the tests of methods, penalties and kept states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from clipdrift.adapt import Adapted, Penalties, Setting, adapt, build
from clipdrift.config import Method, OptimConfig, Penalty, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.formulas import entropy
from clipdrift.model.clip import Clip
from clipdrift.model.trace import trace
from clipdrift.model.zero_shot import class_features
from clipdrift.training.loop import train_model

CLASSES = ("red circle", "green square", "blue hexagon")
TEXTS = tuple(f"a photo of a {name}" for name in CLASSES)
BLOCK = "vision_model.encoder.layers"


def method(name: str, **options: Any) -> Method:
    return parse_config({"method": {"name": name, **options}}, RunConfig).method


def penalty(name: str, **options: Any) -> Penalty:
    return parse_config({"penalty": {"name": name, **options}}, RunConfig).penalty[0]


def adapted_by(clip: Clip, options: Method, seed: int = 0) -> Adapted:
    return adapt(clip, options, classes=len(CLASSES), seed=seed, texts=TEXTS)


def setting_of(adapted: Adapted, deck: Deck, first_patch: int = 1) -> Setting:
    """As a run makes it, with the deck for a probe set; before training only."""
    adapted.eval()
    with torch.no_grad():
        rows = trace(adapted.clip.model, deck.images(slice(None)), rows=True).rows
    assert rows is not None
    features = class_features(adapted.clip, CLASSES, ["a photo of a {}"])
    return Setting(adapted, entropy(rows[..., first_patch:]).mean((1, 2)).tolist(), features)


def penalties_of(adapted: Adapted, deck: Deck, options: Sequence[Penalty]) -> Penalties:
    return build(options, setting_of(adapted, deck))


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def embedding(model: CLIPModel) -> Tensor:
    return model.eval().get_image_features(pixel_values=images()).pooler_output


def train_briefly(
    adapted: Adapted,
    deck: Deck,
    penalties: Penalties | None = None,
    *,
    flip: bool = True,
    seed: int = 0,
    bf16: bool = False,
    **optim: Any,
) -> list[float]:
    """Losses of all steps; leaves the model in eval mode."""
    losses: list[float] = []
    settings = OptimConfig(**{"learning_rate": 0.01, "epochs": 1, "batch_size": 4, **optim})
    torch.manual_seed(seed)
    for _ in train_model(
        adapted,
        deck,
        settings,
        seed=seed,
        flip=flip,
        bf16=bf16,
        penalties=penalties,
        on_step=lambda _, loss: losses.append(loss),
    ):
        pass
    adapted.eval()
    return losses


def whole_state(adapted: Adapted) -> dict[str, Tensor]:
    """A copy of every weight of the whole CLIP and of the head."""
    head = {f"head.{name}": value for name, value in adapted.head.state_dict().items()}
    return {name: v.clone() for name, v in {**adapted.clip.model.state_dict(), **head}.items()}


def expected_names(clip: Clip, options: Method) -> set[str]:
    """What a method trains, from the names of a plain CLIP with two blocks; written apart from the code."""
    asked: dict[str, Any] = dict(options)
    frozen = asked.get("frozen_blocks", 0)
    blocks = range(frozen, 2)
    head = {"head.weight", "head.bias"}
    if "rank" in asked:
        places = {"mlp": ["mlp.fc1", "mlp.fc2"], "out": ["self_attn.out_proj"]}
        places |= {short: [f"self_attn.{short}_proj"] for short in "qkv"}
        parts = ["lora_A.default.weight", "lora_B.default.weight"]
        parts += ["lora_magnitude_vector.default.weight"] if options.name == "dora" else []
        matrices = [place for target in asked["targets"] for place in places[target]]
        names = {f"{BLOCK}.{i}.{m}.{part}" for i in blocks for m in matrices for part in parts}
        projection = "visual_projection.modules_to_save.default.weight"
        return head | names | ({projection} if asked["train_projection"] else set())
    if options.name == "linear_probe":
        return head
    every = [name for name, _ in clip.model.named_parameters()]
    stem = ("vision_model.embeddings.", "vision_model.pre_layrnorm.")
    kept = tuple(f"{BLOCK}.{i}." for i in range(frozen))
    if asked.get("freeze_embeddings"):
        kept += stem
    if options.name == "last_blocks":
        kept = (*stem, *(f"{BLOCK}.{i}." for i in range(2 - asked["blocks"])))
    names = {
        n for n in every if n.startswith(("vision_model.", "visual_projection.")) and not n.startswith(kept)
    }
    if options.name == "projections":
        names = {"visual_projection.weight"}
    if options.name == "bias_only":
        names = {n for n in names if n.endswith(".bias")}
    if options.name == "norm_only":
        names = {n for n in names if "norm" in n}
    if options.name == "flyp":
        texts = ("text_model.", "text_projection.", "logit_scale")
        return names | {n for n in every if n.startswith(texts) and asked["train_texts"]}
    return head | names
