"""Measure the text tower during a run that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clipdrift.adapt import Adapted
from clipdrift.config import ContrastiveObjective, RunConfig
from clipdrift.measures import Reading, TextInternals, read_texts, text_readings
from clipdrift.model.clip import Clip
from clipdrift.model.weights import text_weights
from clipdrift.training.preparation import RunInputs

LEAST = 4
"""Debiased CKA needs as many texts."""


@dataclass(frozen=True, eq=False)
class TextObserver:
    """Looks at the text tower during one run; holds the backbone's side.

    Attributes:
        texts: the first caption of each probe image, each text once.
    """

    clip: Clip
    texts: Sequence[str]
    internals: TextInternals
    weights: dict[str, Tensor]
    batch_size: int | None

    @classmethod
    def of(cls, inputs: RunInputs, config: RunConfig) -> TextObserver | None:
        """Measure the backbone's text tower; None where it stays as it is, or has too few texts."""
        objective = config.objective
        if inputs.pairs is None or not isinstance(objective, ContrastiveObjective):
            return None
        probe = inputs.pairs.probe
        texts = list(dict.fromkeys(probe.text(image, 0) for image in range(len(probe))))
        if "text" not in objective.trained_towers(config.method):
            return None
        if len(texts) < LEAST:
            inputs.backbone_cache.reporter.note(
                f"the text tower is not measured: the probe images have {len(texts)} different captions, and "
                f"CKA needs {LEAST}"
            )
            return None
        size = config.evaluation.batch_size
        return cls(
            clip=inputs.clip,
            texts=texts,
            internals=read_texts(inputs.clip, texts, size),
            weights={
                name: weight.detach().to("cpu", copy=True)
                for name, weight in text_weights(inputs.clip.model).items()
            },
            batch_size=size,
        )

    def readings(self, adapted: Adapted) -> tuple[dict[str, Reading], Tensor]:
        """Every measure of the text tower as it is now, and the embeddings."""
        now = read_texts(adapted.clip, self.texts, self.batch_size)
        found = text_readings(self.internals, now, self.weights, text_weights(adapted.clip.model))
        return found, now.embedding
