"""Representation measures: the adapted model's states and embeddings against the backbone's."""

from __future__ import annotations

from clipdrift import formulas
from clipdrift.measures.internals import Internals, MeasureError

REPRESENTATION = ("cka", "cka_biased", "cka_embedding", "embedding_drift")


def representation(backbone: Internals, adapted: Internals) -> dict[str, list[float]]:
    """Each measure's value per block, or a single value for those of the embedding.

    Raises:
        MeasureError: where one is undefined, naming measure and block.
    """
    out: dict[str, list[float]] = {"cka": [], "cka_biased": []}
    for block, (before, after) in enumerate(zip(backbone.states, adapted.states, strict=True), start=1):
        try:
            out["cka"].append(float(formulas.cka(before, after)))
            out["cka_biased"].append(float(formulas.cka(before, after, debiased=False)))
        except ValueError as error:
            raise MeasureError(f"cka of block {block}: {error}") from None
    try:
        out["cka_embedding"] = [float(formulas.cka(backbone.embedding, adapted.embedding))]
        out["embedding_drift"] = [float(formulas.embedding_drift(backbone.embedding, adapted.embedding))]
    except ValueError as error:
        raise MeasureError(f"embedding: {error}") from None
    return out
