"""Published numbers of each finding, in words."""

from __future__ import annotations

from functools import cache

import pandas as pd

from clipdrift.replication.published_values import read
from clipdrift.texts import signed_hundredths as signed

NAMES = {"eurosat": "EuroSAT", "pets": "Pets"}


@cache
def _table(name: str) -> pd.DataFrame:
    return read(name)


def statistic(key: str, words: str = "") -> str:
    """A published test: ``rho = −1.00, p = 0.0167, n = 5``."""
    row = _table("statistics").set_index("id").loc[key]
    parts = [f"{row['statistic']} = {signed(row['value'])}"]
    parts += [f"p = {row['p']:g}"] if pd.notna(row["p"]) else []
    parts += [f"after Holm {row['p_holm']:g}"] if pd.notna(row["p_holm"]) else []
    parts += [f"n = {row['n']}"] if pd.notna(row["n"]) else []
    return " ".join(filter(None, [words, ", ".join(parts)]))


def by_rate(target: str, method: str, column: str, unit: str = " %") -> str:
    """The matched grid's cell means from the lowest rate to the highest."""
    grid = _table("matched_grid_cells")
    cells = grid[(grid["dataset"] == target) & (grid["method"] == method)].sort_values("learning_rate")
    numbers = ", ".join(f"{signed(v) if column == 'entropy_drift' else f'{v:.2f}'}" for v in cells[column])
    low, high = cells["learning_rate"].iloc[[0, -1]]
    return f"{NAMES[target]} {numbers}{unit} from {low:.0e} to {high:.0e}".replace("e-0", "e-")


def grid_mean(target: str, column: str) -> str:
    """full_ft against lora over the matched grid."""
    means = _table("matched_grid_means").set_index(["dataset", "method"])[column]
    return f"{NAMES[target]} {means[target, 'full_ft']:.2f} against {means[target, 'lora']:.2f} %"


def run(name: str, column: str) -> float:
    """A number of one of the 21 runs."""
    return float(_table("exploratory_runs").set_index("id").loc[name, column])


def cka(name: str) -> float:
    """Mean CKA over the 12 blocks: the printed mean is over 13 values of which one is a false 0."""
    return float(_table("auxiliary").set_index("id").loc[name, "mean_cka_13_layers"]) * 13 / 12


def kept(name: str) -> float:
    """Zero-shot accuracy on CIFAR-100 in the corrected evaluation, percent."""
    rows = _table("zero_shot")
    chosen = rows[(rows["id"] == name) & rows["cifar100_acc"].notna()]
    return float(chosen["cifar100_acc"].iloc[-1])


def onset(name: str) -> str:
    """Share of training after which entropy had fallen by 1 %, or ``never``."""
    share = _table("onset").set_index("id").loc[name, "onset_share"]
    return str(share) if share == "never" else f"{100 * float(share):.0f} %"


def foremost(name: str) -> str:
    """The block of a run that moved most, and by how much."""
    rows = _table("blocks_most_affected")
    row = rows[rows["id"] == name].iloc[0]
    return f"block {row['block']} ({signed(row['entropy_drift'])} %)"
