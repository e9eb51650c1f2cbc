"""What goes wrong before a sweep begins, or at its end."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class SweepError(ClipdriftError):
    """A sweep that cannot be done as it was asked for; says why and what to do."""
