"""For figures, statistics need not be sharp."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from few_draws import few_draws


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with few_draws():
        yield
