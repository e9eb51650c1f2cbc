"""Statistics with fewer draws, where a test is about what is made of them, not about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipdrift.analysis.draws import Draws


@contextmanager
def few_draws() -> Iterator[None]:
    """Inside, 299 random orders and 200 resamples instead of thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draws.__init__, "__defaults__", (299, 200))
        yield
