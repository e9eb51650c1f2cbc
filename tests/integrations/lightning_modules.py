"""A LightningModule around the tiny CLIP, and trainers that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from small_trainings import examples, together
from torch.utils.data import DataLoader

from clipdrift.model.clip import Clip


class Tuned(LightningModule):  # type: ignore[misc]
    """Contrastive fine-tuning of a CLIP, with a loss of validation."""

    def __init__(self, model: torch.nn.Module, rate: float = 1e-3) -> None:
        super().__init__()
        self.model, self.rate = model.train(), rate

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch).loss
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        self.log("loss", self.model(**batch).loss, batch_size=4)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.rate)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]


def loader(clip: Clip, batch: int = 4, count: int = 16) -> DataLoader[Any]:
    """Batches in the same order each epoch."""
    rows: Any = examples(clip, count)
    return DataLoader(rows, batch, collate_fn=together)


def trainer_of(out: Path, *callbacks: Any, **changes: Any) -> Trainer:
    """A Trainer on the CPU: two epochs, no logger, no checkpoints of its own."""
    seed_everything(3, verbose=False)
    settings: dict[str, Any] = {
        "default_root_dir": str(out),
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any("Checkpoint" in type(one).__name__ for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=list(callbacks), **(settings | changes))
