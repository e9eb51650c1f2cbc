"""Read a model's internals on a probe set once; every measure is computed from the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift import formulas
from clipdrift.data.deck import Batches
from clipdrift.measures.attention import ATTENTION, OF_TOKEN, BlockRows, erf, erf_name
from clipdrift.measures.errors import NotFiniteError, defined
from clipdrift.measures.flow import Flow
from clipdrift.measures.others import read_others
from clipdrift.measures.states import KeptStates
from clipdrift.measures.still import in_float32, still
from clipdrift.model.towers import Tower, tower_of
from clipdrift.model.towers.base import Reader
from clipdrift.model.trace import Traced, trace
from clipdrift.shapes import Embedding

ProgressCallback = Callable[[int, int], None]
"""Told how many images of how many are done."""


@dataclass(frozen=True, eq=False)
class Internals:
    """A model on a probe set of N images.

    Attributes:
        attention: for each measure of attention, (N, L) per image and block, float64; a measure that has
            one value per image (rollout, or anything read from a pooling head) is (N, 1). Measures that the
            model has not, :attr:`Tower.absent`, are left out.
        heads: for those that each head has, (L, H) mean over images.
        whole: for those of all images at once, (L,).
        states: (N, D) states after each block, float32; D may differ by block.
        embedding: (N, E) projected embeddings, not normalised, float32, on the CPU.
        reader: whose attention was read.
        detail: for each measure that heads have, (N, L, H), where asked for.
        shown: (n, P) attention over patches of the images that are shown, last block, mean over heads, each
            row summing to 1; None where none was asked for.
    """

    attention: dict[str, NDArray[np.float64]]
    heads: dict[str, NDArray[np.float64]]
    whole: dict[str, NDArray[np.float64]]
    states: KeptStates
    embedding: Embedding
    reader: Reader
    detail: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    shown: NDArray[np.float32] | None = None

    @property
    def images(self) -> int:
        return len(self.embedding)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of all measures that have values per block."""
        return (*self.attention, *self.whole)

    def blocks(self, measure: str) -> NDArray[np.float64]:
        """(L,) mean over images of a measure in each block; (1,) for one that has no blocks."""
        if measure in self.whole:
            return self.whole[measure]
        return np.asarray(self.attention[measure].mean(axis=0))

    def to_frame(self) -> pd.DataFrame:
        """One row per image x block x head, a column for each measure that heads have.

        Images count from 0 in the order given, blocks and heads from 1.

        Raises:
            ValueError: the internals were read without ``detail``.
        """
        if not self.detail:
            raise ValueError("values of single heads were not kept; read the internals with detail=True")
        first = next(iter(self.detail.values()))
        image, block, head = (axis.ravel() for axis in np.indices(first.shape))
        columns = {name: values.ravel() for name, values in self.detail.items()}
        return pd.DataFrame({"image": image, "block": block + 1, "head": head + 1, **columns})


def read_internals(
    model: Any,
    probe: Batches,
    batch_size: int | None = None,
    *,
    flow: bool = False,
    detail: bool = False,
    masses: Sequence[float] = (0.95,),
    shown: Sequence[int] = (),
    progress: ProgressCallback | None = None,
) -> Internals:
    """Run ``probe`` through the image tower in float32 and eval mode; no value depends on ``batch_size``.

    The model is left as it was: modes, hooks, gradients, random numbers.

    Args:
        model: any that :func:`clipdrift.model.towers.tower_of` knows.
        probe: the images, in a fixed order.
        batch_size: images per pass; none: by the number of tokens.
        flow: rollout and patch entropy too, which need whole maps and so more time.
        detail: keep every head's value on every image.
        masses: thresholds of the effective receptive field; 0.95 gives ``erf95``.
        shown: positions of images whose attention is kept for pictures.
        progress: told after each batch.

    Raises:
        MeasureError: nan or inf in a measure, a state or an embedding; no room for the states.
        ValueError: an empty probe set.
    """
    if not len(probe):
        raise ValueError("the probe set is empty")
    tower = tower_of(model)
    table = {name: ATTENTION[name] for name in ATTENTION if tower.row_patch or name not in OF_TOKEN}
    table = {name: work for name, work in table.items() if name != "erf95"} | {
        erf_name(mass): erf(mass) for mass in masses
    }
    if tower.reader == "none":
        table = {}
    flow = flow and tower.lacks("patch_entropy") is None
    reading = _Reading(tower, {name: table[name] for name in _ordered(table)}, detail, len(probe), shown)
    with still(tower.model):
        for images, piece in probe.batches(tower.images_per_pass(batch_size)):
            maps = Flow(class_token=tower.first_patch > 0) if flow else None
            seen = trace(
                tower.model,
                images.float(),
                rows=True,
                norms=True,
                on_maps=maps.see if maps else None,
                call=in_float32,
            )
            reading.take(seen, maps)
            if progress:
                progress(piece.stop, len(probe))
    return reading.result()


def _ordered(names: Mapping[str, Any]) -> list[str]:
    """Sort names in the order of ``ATTENTION``, thresholds in place of erf95."""
    rest = [name for name in names if name not in ATTENTION]
    order = [n for name in ATTENTION for n in ([name, *rest] if name == "erf95" else [name])]
    return [name for name in order if name in names]


class _Reading:
    """Collects batches; values per image in arrays of their final size, values per head as sums over images.

    Nothing small is kept per batch: it would lie between the buffers of the passes and hold their memory.
    """

    def __init__(
        self,
        tower: Tower,
        table: dict[str, Callable[[BlockRows], Tensor]],
        detail: bool,
        images: int,
        shown: Sequence[int],
    ) -> None:
        self.tower, self.table, self.detail, self.images = tower, table, detail, images
        self.shown: dict[int, NDArray[np.float32] | None] = dict.fromkeys(shown)
        self.done = 0
        self.values: dict[str, NDArray[np.float64]] = {}
        self.sums: dict[str, Tensor] = {}
        self.details: dict[str, NDArray[np.float64]] = {}
        self.mean_rows: Tensor | None = None
        self.states = KeptStates()
        self.embedding: Tensor | None = None

    def take(self, seen: Traced, maps: Flow | None) -> None:
        self.check(seen)
        if seen.rows is not None:
            self.attention(seen.rows)
        if seen.norms is not None:
            self.keep("sink_patches", formulas.sink_patches(seen.norms.double()).T)
        if maps is not None:
            reader = None if self.tower.first_patch or seen.rows is None else seen.rows[0].mean(1)
            for name, found in self.guard("rollout", 0, maps.values, reader).items():
                self.keep(name, found)
        self.states.add(seen.states)
        if self.embedding is None:
            self.embedding = torch.empty(self.images, seen.embedding.shape[1])
        self.embedding[self.done : self.done + len(seen.embedding)] = seen.embedding
        self.done += len(seen.embedding)

    def attention(self, attended: Tensor) -> None:
        """Take in the rows (L, B, H, keys) of a batch."""
        first = self.tower.row_patch
        columns: dict[str, list[Tensor]] = {name: [] for name in self.table}
        mean_rows = []
        for block, rows in enumerate(attended.double(), start=1):
            view = BlockRows(rows[..., first:], rows[..., 0] if first else None)
            for name, work in self.table.items():
                columns[name].append(self.guard(name, block, work, view))
            mean_rows.append((view.patches / view.patches.sum(-1, keepdim=True)).sum(0))
        for name, parts in columns.items():
            values = torch.stack(parts, dim=1)  # (B, L, H)
            self.keep(name, values.mean(-1))
            self.sums[name] = self.sums.get(name, 0) + values.sum(0).cpu()
            if self.detail:
                self.put(self.details, name, values)
        total = torch.stack(mean_rows).cpu()
        self.mean_rows = total if self.mean_rows is None else self.mean_rows + total
        for image in self.shown.keys() & set(range(self.done, self.done + attended.shape[1])):
            row = attended[-1, image - self.done, :, first:].double()
            self.shown[image] = (row / row.sum(-1, keepdim=True)).mean(0).float().cpu().numpy()

    def keep(self, name: str, values: Tensor) -> None:
        self.put(self.values, name, values)

    def put(self, arrays: dict[str, NDArray[np.float64]], name: str, values: Tensor) -> None:
        """Write the values (B, ...) of this batch into the array (N, ...) of that name."""
        found = values.double().cpu().numpy()
        if name not in arrays:
            arrays[name] = np.empty((self.images, *found.shape[1:]))
        arrays[name][self.done : self.done + len(found)] = found

    def guard(self, name: str, block: int, work: Callable[[Any], Any], given: Any) -> Any:
        with defined(f"{name}{self.where(block) if block else ''}"):
            return work(given)

    def where(self, block: int) -> str:
        return f" of block {block}" if self.tower.reader == "class token" else f" of the {self.tower.reader}"

    def check(self, seen: Traced) -> None:
        by_block = self.tower.reader == "class token"
        for block, state in enumerate(seen.states, start=1):
            if by_block and seen.rows is not None and not torch.isfinite(seen.rows[block - 1]).all():
                raise NotFiniteError(f"attention{self.where(block)} contains nan or inf")
            if not torch.isfinite(state).all():
                raise NotFiniteError(f"{self.state} after block {block} contains nan or inf")
            if seen.norms is not None and not torch.isfinite(seen.norms[block - 1]).all():
                raise NotFiniteError(f"norms of the patch states after block {block} contain nan or inf")
        if not by_block and seen.rows is not None and not torch.isfinite(seen.rows).all():
            raise NotFiniteError(f"attention{self.where(1)} contains nan or inf")
        if not torch.isfinite(seen.embedding).all():
            raise NotFiniteError("the image embedding contains nan or inf")

    @property
    def state(self) -> str:
        return "CLS state" if self.tower.first_patch else "mean patch state"

    def result(self) -> Internals:
        for name, array in self.values.items():
            if not np.isfinite(array).all():
                block = int(np.flatnonzero(~np.isfinite(array).all(axis=0))[0]) + 1
                raise NotFiniteError(f"{name}{self.where(block)} contains nan or inf")
        assert self.embedding is not None
        whole = {}
        if self.mean_rows is not None:
            of_mean = self.guard(
                "head_diversity_of_mean", 0, formulas.head_diversity, self.mean_rows / self.images
            )
            whole["head_diversity_of_mean"] = of_mean.numpy()
        found = Internals(
            attention=self.values,
            heads={name: (total / self.images).numpy() for name, total in self.sums.items()},
            whole=whole,
            states=self.states,
            embedding=self.embedding,
            reader=self.tower.reader,
            detail=self.details,
            shown=np.stack(rows) if (rows := [r for r in self.shown.values() if r is not None]) else None,
        )
        return replace(found, whole=found.whole | read_others(found))
