"""Attention of a few probe images before and after, kept for pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.deck import Deck
from clipdrift.measures.shown import attention_shares, spread
from clipdrift.model.clip import Clip
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
        """``count`` images of the probe set, of as many classes as there are; None for no images."""
        if count == 0:
            return None
        picked = spread(inputs.probe.labels, count)
        chosen = inputs.probe.subset(picked)
        if inputs.pairs is None:
            titles = tuple(inputs.target.classes[label] for label in chosen.labels)
        else:
            titles = tuple(inputs.pairs.probe.text(int(image), 0) for image in picked)
        return cls(chosen, titles, attention_shares(inputs.clip.model, chosen.images(slice(None))))

    def save(self, clip: Clip, path: Path) -> None:
        """Write the images with attention before and now.

        Args:
            clip: the adapted model.
        """
        side = math.isqrt(clip.patches)
        after = attention_shares(clip.model, self.deck.images(slice(None)))
        pixels = np.ascontiguousarray(self.deck.data[self.deck.rows])
        Maps(pixels, self.titles, self.before, after, (side, side)).save(path)
