"""A study beside the published values: what is compared, what is not, and that nothing is mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_studies import study
from published_values import published

from clipdrift.replication.against import against_published
from clipdrift.replication.published_values import BACKBONE

PLAIN = {"weight_decay": 0.01, "frozen_blocks": 0, "penalty": None, "penalty_weight": None, "batch_size": 64}


def copied(*seeds: int) -> pd.DataFrame:
    """The published grid as if it were ours: each seed's number is off by a tenth of the seed."""
    rows: list[dict[str, Any]] = []
    for cell in published("matched_grid_cells").to_dict("records"):
        lora, eurosat = cell["method"] == "lora", cell["dataset"] == "eurosat"
        for seed in seeds:
            off = 0.1 * seed
            rows.append(
                {"run": f"{len(rows)}", "target": cell["dataset"], "method": cell["method"], "seed": seed,
                 "learning_rate": cell["learning_rate"], "backbone": BACKBONE, "protocol": "published",
                 "epochs": 20 if eurosat else 30, "train_images": 21_600 if eurosat else 3_680, **PLAIN,
                 "rank": 8.0 if lora else None, "matrices": "q+v" if lora else None,
                 "validation_accuracy": cell["best_val_acc"] + off, "entropy_drift": 99.0,
                 "last_entropy_drift": cell["entropy_drift"] + off,
                 "zero_shot_cifar100": cell["cifar100_acc"] + off,
                 "backbone_zero_shot_cifar100": 60.22}
            )  # fmt: skip
    return pd.DataFrame(rows)


def grid(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.source == "matched_grid_cells"]


def test_a_copy_agrees() -> None:
    """Every number of the grid and its means is met; the rest is missing and says so."""
    table = against_published(copied(-1, 1))
    found = grid(table)
    assert len(found) == 48
    assert found.difference.to_numpy() == pytest.approx(0, abs=1e-9)
    assert (found.comparable == "yes").all()
    assert found.inside.all()
    assert (found.high - found.low).to_numpy() == pytest.approx(0.2)
    means = table[(table.source == "matched_grid_means") & table.ours.notna()]
    assert len(means) == 12
    assert means.difference.abs().max() < 0.0101
    rest = table[table.ours.isna()]
    assert set(rest.comparable) == {"no run of ours", "not measured in ours"}
    assert (rest.theirs.notna()).all()


def test_every_published_number_is_there() -> None:
    """As many as the tables have, counted apart."""
    table = against_published(copied(1))
    runs = published("exploratory_runs")
    ends = ["best_val_acc", *(f"{n}_drift" for n in ("entropy", "erf95", "gini", "head_diversity"))]
    counts = table.source.value_counts()
    assert counts["exploratory_runs"] == runs[ends].notna().sum().sum() + 2 * 4
    assert counts["matched_grid_cells"] == 16 * 3
    assert (
        counts["zero_shot"] == published("zero_shot")[["cifar100_acc", "flowers102_acc"]].notna().sum().sum()
    )
    untouched = table[table.cell == "pretrained, first evaluation"].iloc[0]
    assert (untouched.ours, untouched.difference, untouched.n) == (60.22, 0, 1)


def test_one_seed_has_no_spread() -> None:
    """Whether theirs lies inside is then unknown; two seeds on one side do not hold it."""
    assert grid(against_published(copied(0))).inside.isna().all()
    assert not grid(against_published(copied(1, 2))).inside.any()


def test_settings_are_never_mixed() -> None:
    """Two protocols are two rows, another backbone is said, and so is a shorter training."""
    strict = copied(1, 2).assign(protocol="strict", run=lambda t: "s" + t.run, last_entropy_drift=7.0)
    found = grid(against_published(pd.concat([copied(-1, 1), strict])))
    assert len(found) == 96
    apart = found[found.quantity == "drift of entropy, %"].groupby("protocol")
    assert apart.ours.nunique()["strict"] == 1
    assert set(apart.comparable.get_group("strict")) == {"protocol strict, theirs published"}
    assert set(apart.comparable.get_group("published")) == {"yes"}
    other = grid(against_published(copied(1).assign(backbone="clipdrift/mini", epochs=6)))
    said = other[other.cell.str.startswith("pets")].comparable
    assert set(said) == {f"backbone clipdrift/mini, theirs {BACKBONE}; epochs 6, theirs 30"}
    assert (other.backbone == "clipdrift/mini").all()


def test_half_a_grid() -> None:
    """A cell that is not there is missing; a mean over the rates needs them all in one seed."""
    runs = copied(1, 2)
    runs = runs[~((runs.learning_rate == 1e-6) & (runs.target == "pets"))]
    runs = runs[~((runs.learning_rate == 5e-6) & (runs.target == "eurosat") & (runs.seed == 2))]
    table = against_published(runs).set_index(["source", "cell", "quantity"])
    accuracy = "best validation accuracy, %"
    assert table.comparable["matched_grid_cells", "pets lora 1e-06", accuracy] == "no run of ours"
    mean = table.loc[("matched_grid_means", "pets lora", accuracy)]
    assert mean.comparable == "3 of 4 rates, no seed with all"
    assert np.isnan(mean.ours)
    assert table.n["matched_grid_means", "eurosat lora", accuracy] == 1


def test_options_choose_the_run() -> None:
    """Rank, matrices, frozen blocks, penalty and weight decay each lead to one published run."""
    base = copied(1).iloc[[0]].assign(learning_rate=1e-5)
    lora = {"method": "lora", "learning_rate": 1e-4, "matrices": "q+v"}
    changes = {
        "E2": {}, "E4": lora | {"rank": 4.0}, "A2": lora | {"rank": 8.0, "matrices": "q+k+v+out"},
        "A3-6": {"frozen_blocks": 6}, "R1-0.1": {"penalty": "apr", "penalty_weight": 0.1},
        "R2-0.01": {"penalty": "entropy_floor", "penalty_weight": 0.01}, "R3-0.0": {"weight_decay": 0.0},
    }  # fmt: skip
    for name, change in changes.items():
        table = against_published(base.assign(**change))  # type: ignore[arg-type]
        found = table[
            (table.source == "exploratory_runs") & (table.quantity == "best validation accuracy, %")
        ]
        assert list(found[found.ours.notna()].cell) == [name]


def test_defects_stand_beside_the_numbers() -> None:
    """Accuracy was chosen on the test split; LoRA's zero-shot accuracy is a corrected one."""
    table = against_published(copied(1)).set_index(["cell", "quantity"])
    assert table.defects["eurosat full_ft 1e-05", "best validation accuracy, %"].startswith("1: ")
    assert "2: " in table.defects["eurosat lora 1e-05", "zero-shot accuracy on cifar100, %"]
    assert "2: " not in table.defects["eurosat full_ft 1e-05", "zero-shot accuracy on cifar100, %"]


def test_blocks_most_affected() -> None:
    """The drift of that block alone."""
    runs = copied(1, 2)
    blocks = pd.DataFrame(
        {"run": run, "measure": "entropy", "block": block, "value": 3.0, "drift": -float(block)}
        for run in runs.run for block in range(1, 13)
    )  # fmt: skip
    table = against_published(runs, blocks).query("source == 'blocks_most_affected'").set_index("cell")
    found = table.loc["pets full_ft 5e-05"]
    assert (found.ours, found.theirs, found.difference) == (-12, -20.29, pytest.approx(8.29))
    assert table.comparable["E5"] == "no run of ours"


@pytest.mark.parametrize(
    "runs",
    [study().iloc[:0], study()[["target", "method", "learning_rate"]], study().assign(status="diverged"),
     study().assign(last_entropy_drift=np.nan)],
    ids=["none", "bare", "all diverged", "nan"],
)  # fmt: skip
def test_any_table(runs: pd.DataFrame) -> None:
    """Nothing breaks; no number without a statement of how far it can be compared."""
    table = against_published(runs)
    assert len(table) >= 200
    assert (table.comparable != "").all()
    assert not (table.comparable == "yes").any()
