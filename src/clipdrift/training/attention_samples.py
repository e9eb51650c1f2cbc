"""Attention of a few probe images before and after, kept for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.deck import Deck
from clipdrift.measures.shown import attention_shares, spread
from clipdrift.model.clip import Clip
from clipdrift.model.towers import tower_of
from clipdrift.runs.maps import Maps
from clipdrift.training.preparation import RunInputs


@dataclass(frozen=True, eq=False)
class AttentionSamples:
    """Some probe images with the backbone's attention, read before anything is adapted.

    Attributes:
        deck: the images.
        titles: their classes, or a caption of each.
        before: (n, L, H, P) shares, float32.
    """

    deck: Deck
    titles: tuple[str, ...]
    before: NDArray[np.float32]

    @classmethod
    def of(cls, inputs: RunInputs, count: int) -> AttentionSamples | None:
        """``count`` images of the probe set, of as many classes as there are; None for no images, or for a
        model without attention."""
        if count == 0 or tower_of(inputs.clip.model).reader == "none":
            return None
        picked = spread(inputs.probe.labels, count)
        chosen = inputs.probe.subset(picked)
        if inputs.pairs is None:
            titles = tuple(inputs.target.classes[label] for label in chosen.labels)
        else:
            titles = tuple(inputs.pairs.probe.text(int(image), 0) for image in picked)
        before = attention_shares(inputs.clip.model, chosen.images(slice(None)))
        assert before is not None
        return cls(chosen, titles, before)

    def save(self, clip: Clip, path: Path) -> None:
        """Write the images with attention before and now.

        Args:
            clip: the adapted model.
        """
        after = attention_shares(clip.model, self.deck.images(slice(None)))
        assert after is not None
        pixels = np.ascontiguousarray(self.deck.data[self.deck.rows])
        Maps(pixels, self.titles, self.before, after, clip.geometry.grid).save(path)
