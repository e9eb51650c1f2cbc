"""Small trainings on images with captions, by the libraries that people train with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from clipdrift.model.clip import Clip

SIZE = 16
"""Of the tiny CLIP's images."""


def probe(count: int = 8) -> Tensor:
    """Images on which a monitor reads."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def examples(clip: Clip, count: int = 16) -> list[dict[str, Tensor]]:
    """Images and captions as a CLIPModel takes them, one each."""
    words = [f"a photo of {i} {'red' if i % 2 else 'blue'} circles" for i in range(count)]
    read = clip.tokenizer(words, return_tensors="pt", padding=True)
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(6))
    return [
        {"pixel_values": image, "input_ids": ids, "attention_mask": mask}
        for image, ids, mask in zip(images, read["input_ids"], read["attention_mask"], strict=True)
    ]


def together(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch, with the loss asked for."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]} | {"return_loss": True}


def trainer_of(model: nn.Module, clip: Clip, out: Path, **changes: Any) -> Trainer:
    """A Trainer of the contrastive loss, eight steps in two epochs unless ``changes`` say otherwise."""
    named = {key: changes.pop(key) for key in ("callbacks", "model_init") if key in changes}
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    data = examples(clip)
    return Trainer(
        None if "model_init" in named else model,
        TrainingArguments(**(settings | changes)),
        data_collator=together,
        train_dataset=data,
        eval_dataset=data[:4],
        **named,
    )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all weights are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
