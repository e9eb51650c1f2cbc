"""Export a model: written as another library reads it, read back there and proven equal before it counts.

This front exports the result and the choices, plain data that load no torch; the work starts in :mod:`.job`.
"""

from clipdrift.exporting.result import (
    DTYPES,
    KINDS,
    RECORD,
    Difference,
    Dtype,
    Exported,
    ExportError,
    ExportSource,
    Kind,
    Proof,
    Rounding,
    checked,
    free_place,
    read_exported,
)

__all__ = [
    "DTYPES",
    "KINDS",
    "RECORD",
    "Difference",
    "Dtype",
    "ExportError",
    "ExportSource",
    "Exported",
    "Kind",
    "Proof",
    "Rounding",
    "checked",
    "free_place",
    "read_exported",
]
