"""Watch a training of Lightning; the best checkpoint is kept. Run: python examples/watch_lightning.py"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from shapes import pairs, together
from torch.utils.data import DataLoader

import clipdrift
from clipdrift.integrations.lightning import DriftCallback


class Tuned(LightningModule):
    """CLIP, fine-tuned on pictures with captions."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = clipdrift.load("clipdrift/mini")
        self.model = self.clip.model.train()

    def training_step(self, batch, index):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


module = Tuned()
images, transfer = "terrain-10", {"name": "objects-100", "per_class": 1}
callback = DriftCallback(images, transfer=transfer, processor=module.clip, every=4, limit=40)
best = ModelCheckpoint("tuned", monitor="drift/cka", mode="max", every_n_train_steps=4)
loader = DataLoader(pairs(module.clip.tokenizer), batch_size=4, collate_fn=together)
Trainer(max_epochs=2, callbacks=[callback, best], logger=False).fit(module, loader)
for row in callback.monitor.rows:
    print(f"step {row['step']}: {row['retention/objects-100']:.0f} % kept, CKA {row['drift/cka']:.3f}")
print(f"best: {best.best_model_path}")
