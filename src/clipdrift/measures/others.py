"""Call measures of other packages and check what they return."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.errors import named_line
from clipdrift.extensions import Extension, loaded
from clipdrift.listing import MEASURE_EXTENSIONS
from clipdrift.measures.errors import MeasureError


def read_others(internals: Any) -> dict[str, NDArray[np.float64]]:
    """(L,) or (1,) of every extension that reads one model.

    Raises:
        MeasureError: it failed, or returned anything but one finite number, or one per block.
        ExtensionError: it cannot be imported.
    """
    return {
        name: _called(extension, extension.spec.read, internals)
        for name, extension in MEASURE_EXTENSIONS.usable.items()
        if extension.spec.read is not None
    }


def compare_others(backbone: Any, adapted: Any) -> dict[str, list[float]]:
    """One value, or one per block, of every extension that compares two models; raises likewise."""
    return {
        name: _called(extension, extension.spec.compare, backbone, adapted).tolist()
        for name, extension in MEASURE_EXTENSIONS.usable.items()
        if extension.spec.compare is not None
    }


def _called(extension: Extension, place: str, *internals: Any) -> NDArray[np.float64]:
    said = f"{extension.name} (of {extension.distribution})"
    function = loaded(extension, place)
    try:
        values = np.atleast_1d(np.asarray(function(*internals), dtype=np.float64))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a stranger's function raises
        if "memory" in str(error):  # torch tells of a full main memory by a RuntimeError
            raise
        raise MeasureError(f"{said}: {named_line(error)}") from None
    blocks = len(internals[0].states)
    if values.shape not in ((1,), (blocks,)):
        raise MeasureError(
            f"{said}: returned shape {values.shape}; one value, or one for each of {blocks} blocks"
        )
    if not np.isfinite(values).all():
        raise MeasureError(f"{said}: nan or inf")
    return values
