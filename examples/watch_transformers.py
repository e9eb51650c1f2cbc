"""Watch a training of the Hugging Face Trainer; the checkpoint that kept most is loaded at its end.

Run: python examples/watch_transformers.py
"""

from __future__ import annotations

from shapes import pairs, together
from transformers import Trainer, TrainingArguments

import clipdrift
from clipdrift.integrations.transformers import DriftCallback

clip = clipdrift.load("clipdrift/mini")
data = pairs(clip.tokenizer)
arguments = TrainingArguments(
    output_dir="tuned",
    learning_rate=5e-4,
    num_train_epochs=2,
    per_device_train_batch_size=4,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
    metric_for_best_model="retention_objects-100",
    remove_unused_columns=False,
    report_to="none",  # or "tensorboard", "wandb", "mlflow": drift/..., retention/... appear there
)
trainer = Trainer(clip.model, arguments, data_collator=together, train_dataset=data, eval_dataset=data[:8])

images, transfer = "terrain-10", {"name": "objects-100", "per_class": 1}
callback = DriftCallback(trainer, images, transfer=transfer, every=100, limit=40)
trainer.add_callback(callback)

trainer.train()
for row in callback.monitor.rows:
    print(f"step {row['step']}: {row['retention/objects-100']:.0f} % kept, CKA {row['drift/cka']:.3f}")
print(f"loaded again: {trainer.state.best_model_checkpoint}")
