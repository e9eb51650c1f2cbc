"""The figure of an index, on a comparison that is made up."""

from __future__ import annotations

import pytest

from clipdrift.figures import comparing
from made_comparisons import made_comparison


def test_an_index_has_bars_for_every_search_with_intervals() -> None:
    """Overlap and right finds, images above captions; no figure without an index."""
    comparison = made_comparison(2, 2, indexed=True)
    assert comparison.index is not None
    assert comparison.index.by_text is not None
    figure = comparing.index_memory(comparison)
    assert len(figure.axes) == 4
    for place, axis in enumerate(figure.axes):
        queries = (comparison.index.by_image, comparison.index.by_text)[place // 2]
        measure = ("overlap", "recall")[place % 2]
        shares = [one for search in queries.searches.values() for one in getattr(search, measure).values()]
        bars = [bar.get_height() for bar in axis.patches]  # type: ignore[attr-defined]
        assert bars == pytest.approx([100 * one.value for one in shares])
        ends = [end for line in axis.lines for end in line.get_ydata()]  # type: ignore[union-attr]
        known = [100 * end for one in shares for end in (one.low, one.high) if end is not None]
        assert ends == pytest.approx(known)
    with pytest.raises(ValueError, match="no index was searched"):
        comparing.index_memory(made_comparison(2, 2))
