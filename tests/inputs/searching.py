"""Search for inputs on which a command fails: examples until the time is over, commands in this process."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from clipdrift.cli import main

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
RANDOM = time.time_ns() % 2**31
"""Where the long searches begin; the short ones see the same examples every time."""


def say(*arguments: object) -> str:
    """Run a command in this process; an error's one line, or nothing. Anything else fails the test.

    A training may diverge, which is status 1.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    told = err.getvalue()
    assert ended.value.code in (0, None, 2, *([1] if arguments[0] == "train" else ())), told
    assert "Traceback" not in told
    told.encode()  # whatever names are in it can be printed
    if ended.value.code == 2:
        assert len([line for line in told.splitlines() if line.startswith("error: ")]) == 1, told
        assert len(told) < 2_000
    return told


def spend(
    seconds: float, check: Callable[..., object], start: int = 0, **drawn: st.SearchStrategy[Any]
) -> int:
    """Check examples, ten at a time, until the time is over; how many there were."""
    end, seen = time.monotonic() + seconds, 0
    for number in itertools.count(start):
        if time.monotonic() > end:
            return seen

        @seed(number)
        @settings(
            max_examples=10,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=QUIET,
        )
        @given(**drawn)
        def one(**example: Any) -> None:
            nonlocal seen
            seen += 1
            check(**example)

        one()
    raise AssertionError
