"""Read a model's internals on a probe set once; every measure is computed from the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel

from clipdrift.data.deck import Deck
from clipdrift.errors import ClipdriftError
from clipdrift.measures.attention import ATTENTION
from clipdrift.model.trace import trace
from clipdrift.shapes import Embedding, States


class MeasureError(ClipdriftError):
    """A measure that is nan, inf or undefined; names the measure and the block."""


@dataclass(frozen=True, eq=False)
class Internals:
    """A model on a probe set of N images.

    Attributes:
        attention: for each attention measure, (N, L) per image and block, float64.
        states: (L, N, D) CLS states after each block, float32, on the CPU.
        embedding: (N, E) projected embeddings, not normalised, float32, on the CPU.
    """

    attention: dict[str, NDArray[np.float64]]
    states: States
    embedding: Embedding

    @property
    def images(self) -> int:
        return len(self.embedding)

    def blocks(self, measure: str) -> NDArray[np.float64]:
        """(L,) mean over images of an attention measure in each block."""
        return np.asarray(self.attention[measure].mean(axis=0))


@torch.no_grad()
def read_internals(model: CLIPModel, probe: Deck, batch_size: int = 250) -> Internals:
    """Run ``probe`` through the image tower in float32 and eval mode; no value depends on ``batch_size``.

    Raises:
        MeasureError: nan or inf in a measure, a state or an embedding.
        ValueError: an empty probe set.
    """
    if not len(probe):
        raise ValueError("the probe set is empty")
    was_training = model.training
    model.eval()
    values: dict[str, list[torch.Tensor]] = {name: [] for name in ATTENTION}
    states, embeddings = [], []
    try:
        for images, _ in probe.batches(batch_size):
            seen = trace(model, images, rows=True)
            assert seen.rows is not None
            for block, (rows, state) in enumerate(zip(seen.rows, seen.states, strict=True), start=1):
                if not torch.isfinite(rows).all():
                    raise MeasureError(f"attention of block {block} contains nan or inf")
                if not torch.isfinite(state).all():
                    raise MeasureError(f"CLS state after block {block} contains nan or inf")
            patches = seen.rows[..., 1:].double()
            for name in ATTENTION:
                values[name].append(_per_image(name, patches).cpu())
            states.append(seen.states.float().cpu())
            embeddings.append(seen.embedding.float().cpu())
    finally:
        model.train(was_training)
    found = Internals(
        {name: torch.cat(parts).numpy() for name, parts in values.items()},
        torch.cat(states, dim=1),
        torch.cat(embeddings),
    )
    if not torch.isfinite(found.embedding).all():
        raise MeasureError("the image embedding contains nan or inf")
    for name, array in found.attention.items():
        if not np.isfinite(array).all():
            block = int(np.flatnonzero(~np.isfinite(array).all(axis=0))[0]) + 1
            raise MeasureError(f"{name} of block {block} contains nan or inf")
    return found


def _per_image(name: str, patches: torch.Tensor) -> torch.Tensor:
    """An attention measure on (L, B, H, P): (B, L)."""
    columns = []
    for block, rows in enumerate(patches, start=1):
        try:
            columns.append(ATTENTION[name](rows))
        except ValueError as error:
            raise MeasureError(f"{name} of block {block}: {error}") from None
    return torch.stack(columns, dim=1)
