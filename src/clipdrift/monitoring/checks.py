"""Check what a monitor is asked before anything is read. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipdrift.errors import ClipdriftError, named_line, one_line
from clipdrift.monitoring import log
from clipdrift.monitoring.errors import MonitorError
from clipdrift.rules import Rules

FORMAT = 1
"""Of a monitor's state."""


def check_options(on_error: str, rules: Rules, optimizer: Any, monitor: str | None) -> None:
    """Refuse options that say nothing, or ask for what is missing.

    Raises:
        MonitorError: in a line what is wrong.
    """
    if on_error not in ("warn", "raise"):
        raise MonitorError(f"on_error = {on_error!r}: warn or raise")
    if rules.reduce_rate_when and optimizer is None:
        raise MonitorError("reduce_rate_when changes an optimiser's rates: say optimizer= too")
    if monitor is not None and monitor.partition("/")[0] not in log.HEADS:
        raise MonitorError(
            f"monitor = {monitor!r}: the key of a row, as in drift/cka, measure/entropy or retention/cifar100"
        )


def check_state(state: Mapping[str, Any], images: str | None) -> None:
    """Refuse the state of another release, or of a monitor with other images than those of this digest.

    Raises:
        MonitorError: in a line what is wrong.
    """
    if state.get("format") != FORMAT:
        raise MonitorError(
            f"a monitor's state of format {state.get('format')!r}; this release reads {FORMAT}"
        )
    if images is not None and state["backbone"] not in (None, images):
        raise MonitorError("the state is of a monitor with other images")


def why(error: BaseException) -> str:
    """What went wrong, in a line: without its type where a user can mend it."""
    return one_line(error) if isinstance(error, ClipdriftError) else named_line(error)
