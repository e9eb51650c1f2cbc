"""Labels of figures: columns with their units, numbers of runs."""

from __future__ import annotations

from collections.abc import Iterable

from clipdrift.listing import MEASURE_EXTENSIONS, MEASURES
from clipdrift.outcomes.columns import outcome

_SHORT = {
    "entropy": "entropy",
    "normalised_entropy": "normalised entropy",
    "erf95": "ERF 95",
    "gini": "Gini",
    "head_diversity": "head diversity",
    "head_diversity_of_mean": "head diversity of mean",
    "cls_self": "CLS to itself",
    "sink_share": "sink share",
    "sink_patches": "sink patches",
    "rollout_entropy": "rollout entropy",
    "rollout_erf95": "rollout ERF 95",
    "rollout_gini": "rollout Gini",
    "patch_entropy": "patch entropy",
    "cka": "CKA",
    "embedding_drift": "embedding drift",
    "weight_drift": "weight drift",
    "representation_drift": "1 − CKA",
    "zero_shot_agreement": "zero-shot agreement",
    "zero_shot_kl": "zero-shot KL",
    "text_cka": "CKA, text",
    "text_representation_drift": "1 − CKA, text",
    "text_embedding_drift": "embedding drift, text",
    "text_weight_drift": "weight drift, text",
    "text_entropy": "entropy, text",
    "text_normalised_entropy": "normalised entropy, text",
    "text_erf95": "ERF 95, text",
    "text_gini": "Gini, text",
    "text_head_diversity": "head diversity, text",
    "text_start_share": "start token's share, text",
    "entropy_magnitude": "|entropy drift|",
    "erf95_magnitude": "|ERF 95 drift|",
    "gini_magnitude": "|Gini drift|",
    "entropy_magnitude_of_last_block": "|entropy drift|, last block",
    "cka_of_last_block": "CKA, last block",
}
_MOMENTS = {"epoch1": ", epoch 1", "last": ", last epoch"}
_LABELS = {
    "accuracy": "test accuracy, %",
    "validation_accuracy": "validation accuracy, %",
    "train_accuracy": "training accuracy, %",
    "cka": "CKA (1: same)",
    "embedding_drift": "embedding drift, 1 − cos",
    "weight_drift": "weight drift, share",
    "representation_drift": "1 − CKA (0: same)",
    "text_cka": "CKA of texts (1: same)",
    "text_embedding_drift": "embedding drift of texts, 1 − cos",
    "text_weight_drift": "weight drift of the text tower, share",
    "text_representation_drift": "1 − CKA of texts (0: same)",
    "learning_rate": "learning rate",
}


def short(column: str) -> str:
    """A column for ticks: without unit."""
    known = outcome(column)
    if known.moment in _MOMENTS:
        return short(known.name) + _MOMENTS[known.moment]
    if column in _SHORT:
        return _SHORT[column]
    if known.transfer and not known.moment:
        return f"retention {known.transfer}" if known.kind == "retention" else known.transfer
    base = column.removesuffix("_drift")
    return _SHORT.get(base, base.replace("_", " "))


def label(column: str, blocks: bool = False) -> str:
    """A column for an axis: with its unit.

    Args:
        blocks: it is a measure's value, not its drift.
    """
    if column in _LABELS:
        return _LABELS[column]
    known = outcome(column)
    if known.transfer and not known.moment:
        return f"{known.kind} {known.transfer}, %"
    if known.kind == "drift" and not blocks:
        return f"{short(column)} drift, %"
    unit = MEASURES[column].unit if column in MEASURES else ""
    if unit:
        return f"{short(column)}, {unit}"
    if column in MEASURE_EXTENSIONS.usable:
        span = MEASURES[column].range
        return f"{short(column)} ({span})" if span else short(column)
    return f"{short(column)} (0 to 1)"


def numbers(sizes: Iterable[int]) -> str:
    """``n = 5``, or ``n = 3 to 5`` where cells differ."""
    found = sorted({int(s) for s in sizes})
    if len(found) > 1:
        return f"n = {found[0]} to {found[-1]}"
    return f"n = {found[0] if found else 0}"
