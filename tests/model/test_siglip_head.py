"""SigLIP's zero-shot head: its logits, bias and all, are transformers'."""

from __future__ import annotations

import torch

from clipdrift.adapt import zero_shot_head
from clipdrift.model.clip import Clip

CLASSES = ("red circle", "green square", "blue hexagon")


@torch.no_grad()
def test_its_logits_are_siglips_with_their_bias(siglip: Clip) -> None:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = siglip.model.eval()
    model.logit_scale.fill_(2.0)
    model.logit_bias.fill_(-3.0)
    length = model.config.text_config.max_position_embeddings
    texts = [f"a photo of a {name}" for name in CLASSES]
    tokens = siglip.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    wanted = model(pixel_values=images, input_ids=tokens["input_ids"]).logits_per_image
    head = zero_shot_head(siglip, CLASSES, ["a photo of a {}"])
    found = head(model.get_image_features(pixel_values=images).pooler_output)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted < 0).any()
