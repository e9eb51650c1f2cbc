"""Compare the text towers, where they differ, on captions or on prompts for classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipdrift.comparison import Compared, TextTowers
from clipdrift.comparison.abilities import has_texts, same_texts, texts_of
from clipdrift.comparison.grafting import TEXT_TOWER
from clipdrift.comparison.pairs import ModelPair, brought
from clipdrift.comparison.tables import compared, heads
from clipdrift.measures import read_texts, text_readings, text_weight_readings
from clipdrift.model.towers import UnsupportedModelError, text_tower_of
from clipdrift.model.weights import text_weights
from clipdrift.runs.reporter import Reporter

LEAST, FEW, LIMIT = 4, 30, 1000
"""Fewest texts of which debiased CKA can be told; fewer than these are said to be few; texts that are read at
most, evenly spaced among more."""


def compare_texts(
    pair: ModelPair, sources: Sequence[tuple[str, Sequence[str]]], batch_size: int | None, reporter: Reporter
) -> tuple[TextTowers | None, dict[str, Compared], tuple[str, ...]]:
    """Measure the text towers, if any weight of theirs differs.

    Args:
        sources: names of lists of texts, the best first; the first with four different ones is read.
        batch_size: texts per pass.

    Returns:
        What was read (None where a side's text tower is not), the measures, notes for a reader.

    Raises:
        MeasureError: nan, inf, or a measure that is undefined.
    """
    base, tuned = pair.base, pair.tuned
    if TEXT_TOWER in tuned.grafted:  # both are BASE's, which is no finding
        return None, {}, ()
    try:
        towers = text_tower_of(base.model), text_tower_of(tuned.model)
    except UnsupportedModelError as error:
        own = (base.clip or tuned.clip) and has_texts(base, tuned) and has_texts(tuned, base)
        if not own or same_texts(base, tuned):
            return None, {}, ()
        return None, {}, (f"The text towers differ, and how far they moved was not measured: {error}.",)
    before, after = text_weights(base.model), text_weights(tuned.model)
    sizes = [
        (t.heads, {n: w.shape for n, w in side.items()})
        for t, side in zip(towers, (before, after), strict=True)
    ]
    if sizes[0] != sizes[1]:
        return None, {}, ("The text towers are of different architectures; they were not compared.",)
    if all(torch.equal(weight.cpu(), after[name].cpu()) for name, weight in before.items()):
        return TextTowers(same=True), {}, ()
    before, after = brought(tuned, before), brought(tuned, after)
    source, texts = _chosen(sources)
    if not texts or not (base.clip or tuned.clip):
        lacks = f"{LEAST} different texts" if base.clip or tuned.clip else "a tokenizer"
        note = f"The text towers differ; without {lacks} only their weights could be compared."
        return TextTowers(same=False), compared(text_weight_readings(before, after)), (note,)
    read = []
    for side, other in ((base, tuned), (tuned, base)):
        reporter.stage(f"reading texts, {side.name}")
        read.append(read_texts(texts_of(side, other), texts, batch_size, reporter.advance))
    found = TextTowers(
        same=False, source=source, count=len(texts), short=read[1].short, heads=heads(read[0], read[1])
    )
    few = f"Only {len(texts)} texts were read: take the text tower's CKA for coarse."
    measures = compared(text_readings(read[0], read[1], before, after))
    return found, measures, (few,) if len(texts) < FEW else ()


def _chosen(sources: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, list[str]]:
    """The first source with enough different texts, and those."""
    for name, given in sources:
        texts = list(dict.fromkeys(given))
        if len(texts) >= LEAST:
            step = max(1.0, len(texts) / LIMIT)
            return name, [texts[int(i * step)] for i in range(min(len(texts), LIMIT))]
    return "", []
