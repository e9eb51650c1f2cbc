"""An epoch of training on JPEG folders beside the plain way, ViT-B/32 with random weights.

The plain way is what a competent person writes with transformers and peft in an afternoon, and what the
published study did: eager attention with ``output_attentions`` at every step, a DataLoader with two workers
that decodes and resizes every image in every epoch by CLIP's own image processor, AdamW with warm-up and
cosine, in float32.

Both sides are measured in turn, epoch by epoch, in time of all processors (the loader's workers counted) and
by the clock. That they do the same is shown by the loss of one batch before any step. Ours decodes once,
before the first epoch; that is told apart. ``python benchmarks/epochs.py [IMAGES]``
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from decoded_once import SIDE, write_photos
from frozen import clip as random_clip
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPImageProcessorPil, CLIPModel

from clipdrift.adapt import adapt
from clipdrift.config import DataSet, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.data.pixels import load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import open_source
from clipdrift.training.loop import learning_rate, train_model

IMAGES, BATCH, EPOCHS, CLASSES, RATE = 192, 64, 3, 10, 1e-5


class Photos(Dataset[tuple[Tensor, int]]):
    """Files, decoded and resized whenever one is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.processor = CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        picture = Image.open(file).convert("RGB")
        pixels = self.processor(picture, return_tensors="pt")["pixel_values"][0]
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return pixels, int(file.parent.name.removeprefix("class"))


class Plain(nn.Module):
    """Image tower, projection and a linear head; every attention map is kept."""

    def __init__(self, model: CLIPModel, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, pixels: Tensor) -> Tensor:
        out = self.model.vision_model(pixel_values=pixels, output_attentions=True)
        logits: Tensor = self.head(self.model.visual_projection(out.pooler_output))
        return logits


def plain_model(method: str, head: nn.Linear) -> Plain:
    model = random_clip().model
    model.set_attn_implementation("eager")
    model.requires_grad_(False)
    if method == "lora":
        places = r"vision_model\.encoder\.layers\.\d+\.self_attn\.[qv]_proj"
        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=places, bias="none")
        model = get_peft_model(model, config).base_model.model
    else:
        model.vision_model.requires_grad_(True)
    model.visual_projection.requires_grad_(True)
    return Plain(model, copy.deepcopy(head))


def plain_epochs(model: Plain, files: list[Path], optim: OptimConfig) -> Iterator[None]:
    """Train; yields after each epoch."""
    loader = DataLoader(Photos(files), BATCH, shuffle=True, num_workers=2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=optim.weight_decay)
    steps, step = EPOCHS * len(loader), 0
    for _ in range(EPOCHS):
        model.train()
        for pixels, labels in loader:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, optim)
            optimizer.zero_grad()
            cross_entropy(model(pixels), labels).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
        yield


def our_epochs(adapted: Any, deck: Deck, optim: OptimConfig, bf16: bool) -> Iterator[None]:
    for _ in train_model(adapted, deck, optim, seed=0, bf16=bf16):
        yield


def spent() -> tuple[float, float]:
    """Seconds of all processors, those of ended children counted, and of the clock."""
    times = os.times()
    return sum(times[:4]), time.perf_counter()


def timed(work: Iterator[None]) -> tuple[float, float]:
    before = spent()
    next(work)
    after = spent()
    return after[0] - before[0], after[1] - before[1]


def rate_of_products(kind: torch.dtype) -> float:
    """Operations a second of a bare large matrix product."""
    a = torch.randn(2048, 2048).to(kind)
    found = []
    for _ in range(5):
        start = time.process_time()
        a @ a
        found.append(2 * 2048**3 / (time.process_time() - start))
    return max(found)


def operations(adapted: Any, deck: Deck) -> int:
    """Of one image, forwards and backwards."""
    images = deck.images(slice(0, 8))
    with FlopCounterMode(display=False) as counter:
        out = adapted.clip.model.get_image_features(pixel_values=images).pooler_output
        adapted.head(out).sum().backward()
    adapted.clip.model.zero_grad()
    return counter.get_total_flops() // 8


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {images} JPEG of side {SIDE}, "
        f"batch {BATCH}"
    )
    optim = OptimConfig(learning_rate=RATE, epochs=EPOCHS, batch_size=BATCH, weight_decay=0.01, clip_norm=1.0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_photos(root / "photos", images)
        files = sorted((root / "photos/train").glob("*/*.jpg"))
        source = open_source(DataSet(name="photos", path=str(root / "photos")), image_size=224).train
        assert source is not None
        begin = spent()
        deck = Deck.of(load_pixels(source, Preprocess(), root / "cache"), Preprocess(), torch.device("cpu"))
        decoding = spent()[0] - begin[0]
        for method in ("full_ft", "lora"):
            config = parse_config({"method": method}, RunConfig)
            ours, short = (adapt(random_clip(), config.method, CLASSES, 0) for _ in range(2))
            plain = plain_model(method, ours.head)
            same = agreement(plain, ours, deck)
            counted = operations(ours, deck)
            runs = [
                plain_epochs(plain, files, optim),
                our_epochs(ours, deck, optim, False),
                our_epochs(short, deck, optim, True),
            ]
            rounds = [[timed(run) for run in runs] for _ in range(EPOCHS)]
            cpu, clock = (
                [statistics.median(epoch[side][kind] for epoch in rounds) for side in range(3)]
                for kind in (0, 1)
            )
            print(f"{method}: the loss of a batch differs by {same:.1g}")
            for name, side, kind in (("fp32", 1, torch.float32), ("bf16", 2, torch.bfloat16)):
                share = images * counted / cpu[side] / rate_of_products(kind)
                print(
                    f"  {name}: {cpu[0] / cpu[side]:.2f}x the plain way in time of the processors, "
                    f"{clock[0] / clock[side]:.2f}x by the clock ({cpu[side]:.1f} against {cpu[0]:.1f} s an "
                    f"epoch); {100 * share:.0f} % of a bare product's rate"
                )
        print(f"decoding once, before the first epoch: {decoding:.1f} s of the processors")


def agreement(plain: Plain, ours: Any, deck: Deck) -> float:
    """Largest difference of the loss on a batch, in eval mode."""
    pixels, labels = deck.images(slice(0, 16)), torch.from_numpy(deck.labels[:16])
    plain.eval()
    ours.eval()
    with torch.no_grad():
        other = ours.head(ours.clip.model.get_image_features(pixel_values=pixels).pooler_output)
        return abs(float(cross_entropy(plain(pixels), labels) - cross_entropy(other, labels)))


if __name__ == "__main__":
    main()
