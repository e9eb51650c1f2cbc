"""Random crops, mirroring and colours for pretraining on photographs; uint8 in, uint8 out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, grid_sample

_ASPECT = 4 / 3
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augment:
    """Strength of each random change of an image.

    Attributes:
        crop: Smallest share of an image's area that a crop keeps, in (0, 1]; the share is uniform from there
            to 1, the aspect log-uniform within 3:4 to 4:3, as in Szegedy et al. 2015. 1: no crops.
        flip: Mirror half of the images left to right.
        colour: Largest relative change of brightness, contrast and saturation, in [0, 1); 0: none.
    """

    crop: float = 1.0
    flip: bool = False
    colour: float = 0.0

    def apply(self, pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Changed copies.

        Args:
            pixels: ``(n, S, S, 3)``.
            rng: What is drawn depends on it and on ``n`` alone.

        Returns:
            ``(n, S, S, 3)``.
        """
        n = len(pixels)
        drawn = rng.random((n, 8)).astype(np.float32)
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        if self.crop < 1 or self.flip:
            places = torch.from_numpy(self._places(drawn))
            grid = affine_grid(places, list(values.shape), align_corners=False)
            values = grid_sample(values, grid, "bicubic", "reflection", align_corners=False).clamp(0, 1)
        if self.colour:
            values = _colour(values, 1 + self.colour * (2 * torch.from_numpy(drawn[:, 5:8]) - 1))
        rounded = (values * 255).round().to(torch.uint8)
        return rounded.permute(0, 2, 3, 1).contiguous().numpy()

    def _places(self, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(n, 2, 3)``: from an output's coordinates (-1 to 1) to the input's; crops lie inside."""
        places = np.zeros((len(drawn), 2, 3), np.float32)
        area = 1 - (1 - self.crop) * drawn[:, 0]
        narrower = np.sqrt(np.exp((2 * drawn[:, 1] - 1) * math.log(_ASPECT)))
        if self.crop == 1:
            narrower = np.ones_like(narrower)
        width, height = (np.minimum(1, np.sqrt(area) * side) for side in (narrower, 1 / narrower))
        mirrored = np.where(self.flip & (drawn[:, 4] < 0.5), -1, 1)
        places[:, 0, 0], places[:, 1, 1] = width * mirrored, height
        places[:, 0, 2] = (1 - width) * (2 * drawn[:, 2] - 1)
        places[:, 1, 2] = (1 - height) * (2 * drawn[:, 3] - 1)
        return places


def _colour(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation about each pixel's grey.

    Args:
        values: ``(n, 3, S, S)`` in [0, 1]. factors: ``(n, 3)``, one for each change; 1 changes nothing.
    """
    luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
    brightness, contrast, saturation = (factors[:, k].view(-1, 1, 1, 1) for k in range(3))
    values = (values * brightness).clamp(0, 1)
    grey = (values * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    values = (grey + (values - grey) * contrast).clamp(0, 1)
    grey = (values * luma).sum(1, keepdim=True)
    return (grey + (values - grey) * saturation).clamp(0, 1)
