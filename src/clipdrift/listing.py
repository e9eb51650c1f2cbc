"""What there is, in words: methods, measures, models. Loads no torch; contract tests hold these tables equal
to those that do the work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of a listing. ``unit`` is that of a measure's values."""

    summary: str
    reference: str = ""
    unit: str = ""


METHODS: dict[str, Entry] = {
    "full_ft": Entry("train image tower, projection and head", "Radford et al. 2021"),
    "lora": Entry("train low-rank adapters in the image tower, projection and head", "Hu et al. 2022"),
    "linear_probe": Entry("train the head alone", "Radford et al. 2021"),
}

MEASURES: dict[str, Entry] = {
    "entropy": Entry("entropy of CLS-to-patch attention, mean over heads", "Shannon 1948", "nats"),
    "erf95": Entry(
        "effective receptive field: patches that hold 95 % of the attention", "", "share of patches"
    ),
    "gini": Entry("inequality of attention over patches", "Gini 1912"),
    "head_diversity": Entry("one minus the mean cosine between heads, per image"),
    "cka": Entry("debiased linear CKA of CLS states with the backbone's", "Nguyen et al. 2021"),
    "cka_biased": Entry("the same, biased: near 1 for few images and wide states", "Kornblith et al. 2019"),
    "cka_embedding": Entry("debiased linear CKA of the projected embedding", "Nguyen et al. 2021"),
    "embedding_drift": Entry("one minus the mean cosine of the projected embeddings"),
    "weight_drift": Entry("relative change of the image tower's effective weights"),
    "weight_drift_projection": Entry("relative change of the visual projection"),
}

MODELS: dict[str, Entry] = {
    "clipdrift/mini": Entry("shipped: 6 blocks, 4 heads, 49 patches of 56x56 pixels; knows coloured shapes"),
    "openai/clip-vit-base-patch32": Entry(
        "12 blocks, 12 heads, 49 patches; from the hub", "Radford et al. 2021"
    ),
    "openai/clip-vit-base-patch16": Entry(
        "12 blocks, 12 heads, 196 patches; from the hub", "Radford et al. 2021"
    ),
    "any other Hugging Face CLIP": Entry("hub id or directory"),
}
