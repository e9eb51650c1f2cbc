"""Errors of measuring."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class MeasureError(ClipdriftError):
    """A measure that is nan, inf or undefined, named with its block; or no room for what it is made from."""
