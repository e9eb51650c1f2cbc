"""Lay other models of BASE beside TUNED: by the angle between what each added to the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from clipdrift.comparison import BesideRow
from clipdrift.comparison.models import ModelLike, PairError
from clipdrift.comparison.pairs import ModelPair, pair_with, side_of
from clipdrift.measures import task_vector_cosines, weights
from clipdrift.model.clip import Clip
from clipdrift.runs.reporter import Reporter


def several(given: ModelLike | Sequence[ModelLike]) -> list[ModelLike]:
    """One model or several, as a list."""
    return [given] if isinstance(given, str | Path | Clip | nn.Module) else list(given)


def beside_rows(
    pair: ModelPair, others: Sequence[ModelLike], any_base: bool, reporter: Reporter
) -> tuple[tuple[BesideRow, ...], list[str]]:
    """One row for each other model, which is loaded, laid beside TUNED and let go; with notes for a reader.

    Raises:
        PairError: one that is no model of BASE, or has the name of another.
        ModelError, UnsupportedModelError: one that cannot be opened or read.
    """
    before, after = _on_cpu(pair.before), _on_cpu(pair.after)
    rows, notes = list[BesideRow](), list[str]()
    for other in others:
        reporter.stage(f"laying {other if isinstance(other, str | Path) else type(other).__name__} beside")
        third = pair_with(pair.base, other, any_base, "--beside")
        name = third.tuned.name
        if name in [row.side.name for row in rows]:
            raise PairError(f"--beside names {name} twice")
        now = _on_cpu(third.after)
        blocks = pair.shape.blocks
        cosine, by_block = task_vector_cosines(before, after, now, blocks=blocks)
        side = side_of(third.tuned, now)
        moved = weights(before, now)["weight_drift"][0]
        rows.append(BesideRow(side=side, weight_drift=moved, cosine=cosine, cosine_blocks=by_block))
        for note in third.notes:
            if "TUNED" in note:  # here that is the other model
                notes.append(note.replace("TUNED", name))
            elif note not in pair.notes:
                notes.append(f"{name}: {note}")
    return tuple(rows), notes


def _on_cpu(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu() for name, weight in found.items()}
