"""Test images that are training images too, found by the digests of their decoded pixels."""

from __future__ import annotations

import numpy as np

from clipdrift.data.images import ImageSet
from clipdrift.data.pixels import Pixels


def repeats_note(data: str, train: Pixels, test: Pixels, images: ImageSet) -> str | None:
    """How many test images equal a training image in every pixel that the model sees; ``None`` for none.

    Args:
        data: How the note names the data set.
        train, test: Decoded images.
        images: The test images.
    """
    again = np.flatnonzero(np.isin(test.digests, train.digests))
    if not len(again):
        return None
    first = images.where(int(test.kept[again[0]]))
    return (
        f"{data}: {len(again)} of {len(test)} test images are training images too, the same in every pixel "
        f"(the first: {first}): test accuracy is partly that of images learnt by heart"
    )
