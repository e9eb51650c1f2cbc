"""What goes wrong before advice is given."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class AdviceError(ClipdriftError):
    """A constraint that makes no sense, or a plan that cannot be written."""
