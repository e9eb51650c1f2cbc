"""Training as scripts usually do it, to be timed beside the package: eager attention, AMP, DataLoader."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from shapes import CLASSES, VisionShape, model_of, pixels_of
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clipdrift import accelerator

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Bytes in memory, normalised one by one as torchvision's transforms do."""

    def __init__(self, shape: VisionShape, count: int) -> None:
        self.data = pixels_of(shape, count)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(np.ascontiguousarray(self.data[index])).permute(2, 0, 1).float() / 255
        return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), index % len(
            CLASSES
        )


def steps(shape: VisionShape, method: str, batch: int, count: int, device: torch.device) -> Iterator[float]:
    """Train; yield the time after each step."""
    model = model_of(shape, "eager")
    for part in (model.text_model, model.text_projection):
        part.requires_grad_(False)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=r".*vision_model.*\.(q_proj|v_proj)"))
    model.to(device).train()
    head = nn.Linear(shape.joint, len(CLASSES)).to(device)
    trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    loader = DataLoader(Pictures(shape, count), batch, shuffle=True, num_workers=2, drop_last=True)
    clip = model.base_model.model if method == "lora" else model
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, half):
            seen = clip.vision_model(pixel_values=images, output_attentions=True)
            loss = nn.functional.cross_entropy(head(clip.visual_projection(seen.pooler_output)), labels)
            torch.stack([maps[:, :, 0].mean() for maps in seen.attentions]).mean()  # what is looked at
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        accelerator.wait(device)
        yield time.perf_counter()
