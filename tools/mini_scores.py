"""What the card of `clipdrift/mini` states: zero-shot accuracy, by transformers alone."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel

from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.worlds import WORLDS, generate, objects
from clipdrift.model.clip import MINI, shipped_folder


@torch.no_grad()
def main() -> None:
    folder = shipped_folder(MINI)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    world = WORLDS["objects-100"]
    pixels, labels = generate(world, "test")
    prompts = [world.templates[0].format(name) for name in world.classes]
    text = model.get_text_features(**tokenizer(prompts, padding=True, return_tensors="pt")).pooler_output
    text = torch.nn.functional.normalize(text, dim=-1)
    images = normalise(torch.from_numpy(pixels), Preprocess.from_folder(folder))
    embedded = [model.get_image_features(pixel_values=part).pooler_output for part in images.split(250)]
    right = (torch.cat(embedded) @ text.T).argmax(-1).numpy() == labels
    unseen = np.isin(labels, objects.UNSEEN)
    print(f"{len(labels)} test images of objects-100, prompt {world.templates[0]!r}")
    print(f"all pairs                {100 * right.mean():.1f} %")
    print(f"pairs seen in training   {100 * right[~unseen].mean():.1f} %")
    print(f"pairs never seen         {100 * right[unseen].mean():.1f} %")
    print(f"parameters               {sum(p.numel() for p in model.parameters()):,}")


if __name__ == "__main__":
    main()
