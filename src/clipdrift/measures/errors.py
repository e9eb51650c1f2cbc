"""Errors of measuring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipdrift.errors import ClipdriftError


class MeasureError(ClipdriftError):
    """A measure that is nan, inf or undefined, named with its block; or no room for what it is made from."""


class NotFiniteError(MeasureError):
    """The model computes nan or inf: it has diverged."""


@contextmanager
def defined(what: str, advice: str = "") -> Iterator[None]:
    """Turn a formula's refusal of what it was given into a MeasureError that names ``what``."""
    try:
        yield
    except ValueError as error:
        raise MeasureError(f"{what}: {error}{f'; {advice}' if advice else ''}") from None
