"""Representation measures: the adapted model's states and embeddings against the backbone's."""

from __future__ import annotations

from clipdrift import formulas
from clipdrift.measure.internals import Internals, MeasureError

REPRESENTATION: dict[str, str] = {
    "cka": "debiased linear CKA of the CLS states with the backbone's, per block",
    "cka_biased": "the same, biased (near 1 for few images and wide states)",
    "cka_embedding": "debiased linear CKA of the projected embedding",
    "embedding_drift": "one minus the mean cosine of the projected embeddings",
}


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
