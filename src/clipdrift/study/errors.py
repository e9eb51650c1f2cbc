"""What goes wrong where results are read."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class ResultsError(ClipdriftError):
    """A folder without finished runs, or a table that is none of runs."""
