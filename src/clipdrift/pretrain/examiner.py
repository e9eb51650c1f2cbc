"""Zero-shot accuracy on held-out images, as pretraining goes."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import CLIPModel, PreTrainedTokenizerBase

from clipdrift.data.corpus import HeldOut
from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess


class Examiner:
    """Zero-shot accuracy on held-out images."""

    def __init__(self, held: HeldOut, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.held = held
        prompts = [self.held.prompt.format(name) for name in self.held.classes]
        self.tokens = tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"].to(device)
        self.device = device

    @torch.no_grad()
    def scores(self, model: CLIPModel) -> dict[str, float]:
        model.eval()
        text = normalize(model.get_text_features(input_ids=self.tokens).pooler_output.float(), dim=-1)
        right = []
        for start in range(0, len(self.held.labels), 250):
            pixels = torch.from_numpy(self.held.pixels[start : start + 250]).to(self.device)
            image = model.get_image_features(pixel_values=normalise(pixels, Preprocess())).pooler_output
            guess = (image.float() @ text.T).argmax(-1).cpu().numpy()
            right.append(guess == self.held.labels[start : start + 250])
        hits = np.concatenate(right)
        groups = {name: np.isin(self.held.labels, classes) for name, classes in self.held.groups.items()}
        return {"all": 100 * float(hits.mean())} | {n: 100 * float(hits[m].mean()) for n, m in groups.items()}
