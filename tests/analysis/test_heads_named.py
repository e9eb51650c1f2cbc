"""A head that is not linear is part of what a setting is called, also where all runs have it."""

from __future__ import annotations

import pandas as pd
import pytest

from clipdrift.analysis.runs import changes


@pytest.mark.parametrize("other", ["zero_shot", "linear"])
def test_a_zero_shot_head_is_always_named(other: str) -> None:
    """Advice that left it out would have another model trained."""
    runs = pd.DataFrame(
        {
            "target": ["t"] * 3,
            "backbone": ["b"] * 3,
            "method": ["full_ft"] * 3,
            "head": ["zero_shot", "zero_shot", other],
        }
    )
    named = [(("head", "zero_shot"),)] * 2
    assert changes(runs).tolist() == [*named, named[0] if other == "zero_shot" else ()]
