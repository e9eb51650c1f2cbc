"""The published inputs and statistics that ship with the package, for tests."""

from __future__ import annotations

from importlib import resources

import pandas as pd


def published(name: str) -> pd.DataFrame:
    """One of the tables in ``clipdrift/replication/published``."""
    with (resources.files("clipdrift.replication") / "published" / f"{name}.csv").open() as file:
        return pd.read_csv(file)


def statistic(name: str) -> pd.Series:
    """One published statistic."""
    return published("statistics").set_index("id").loc[name]
