"""What goes wrong before a training is watched."""

from __future__ import annotations

from clipdrift.errors import ClipdriftError


class MonitorError(ClipdriftError):
    """A training that cannot be watched as asked; says in one line what and why."""
