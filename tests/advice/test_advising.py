"""Advice beside pandas by hand: the best allowed cell, the frontier, the runner-up, the regret."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from advice_studies import LEVELS, runs, tables
from scipy import stats

import clipdrift
from clipdrift.advice import Advice, AdviceError
from clipdrift.advice.judging import difference_of
from clipdrift.advice.proposing import middle
from clipdrift.advice.result import PlaceAdvice
from clipdrift.advice.settings import Setting

CELL = ["target", "method", "learning_rate"]


def advised(frame: pd.DataFrame, folder: Path, **asked: object) -> Advice:
    return clipdrift.advise(tables(frame, folder), **asked)  # type: ignore[arg-type]


def only(frame: pd.DataFrame, folder: Path, **asked: object) -> PlaceAdvice:
    (place,) = advised(frame, folder, **asked).places
    return place


def by_hand(frame: pd.DataFrame, kept: str = "retention_cifar100") -> pd.DataFrame:
    means = frame.groupby(CELL, sort=False)[["accuracy", "validation_accuracy", kept]].mean()
    return means.rename(columns={kept: "kept"}).reset_index()


def which(setting: Setting | None) -> tuple[str, float] | None:
    return None if setting is None else (setting.method, setting.rate)


# --- what is taken


@pytest.mark.parametrize("keep", [20.0, 80.0, 90.0, 97.0, 99.5])
def test_the_best_that_keeps_enough_is_that_of_pandas(keep: float, tmp_path: Path) -> None:
    frame = runs(noise=1.0)
    cells = by_hand(frame)
    row = cells[cells["kept"] >= keep].sort_values("accuracy").iloc[-1]
    found = only(frame, tmp_path, keep=keep).cells
    assert found is not None
    assert which(found.best) == (row["method"], row["learning_rate"])
    assert found.best is not None
    assert found.best.mean("accuracy") == pytest.approx(row["accuracy"])
    own = frame[(frame["method"] == row["method"]) & (frame["learning_rate"] == row["learning_rate"])]
    assert found.best.sd("kept") == pytest.approx(own["retention_cifar100"].std(ddof=1))
    assert found.best.n == 3


@pytest.mark.parametrize("drop", [0.0, 1.0, 5.0, 30.0, 70.0])
def test_the_least_lossy_within_a_drop_is_that_of_pandas(drop: float, tmp_path: Path) -> None:
    frame = runs(noise=1.0)
    cells = by_hand(frame)
    near = cells[cells["accuracy"] >= cells["accuracy"].max() - drop]
    row = near.sort_values("kept").iloc[-1]
    found = only(frame, tmp_path, max_drop=drop).cells
    assert found is not None
    assert which(found.best) == (row["method"], row["learning_rate"])
    assert len(found.allowed) == len(near)


def test_both_must_hold_and_accuracy_decides(tmp_path: Path) -> None:
    place = only(runs(), tmp_path, keep=50, max_drop=10)
    assert place.cells is not None
    assert [which(s) for s in place.cells.allowed] == [("full_ft", 1e-4), ("lora", 1e-3)]


def test_ninety_percent_are_kept_where_nothing_is_asked(tmp_path: Path) -> None:
    found = advised(runs(), tmp_path)
    assert (found.asked.keep, found.asked.max_drop) == (90.0, None)
    assert advised(runs(), tmp_path, max_drop=1).asked.keep is None


def test_each_target_has_its_own_answer(tmp_path: Path) -> None:
    frame = pd.concat(
        [
            runs(targets=("eurosat",)),
            runs({("lora", 1e-4): (70.0, 95.0), ("full_ft", 1e-4): (60.0, 97.0)}, targets=("pets",)).assign(
                run=lambda f: "p" + f["run"]
            ),
        ]
    )
    found = advised(frame, tmp_path)
    best = {str(p.place): which(p.cells.best) for p in found.places if p.cells}
    assert best == {"eurosat": ("lora", 1e-3), "pets": ("lora", 1e-4)}


def test_of_several_transfer_sets_the_worst_counts(tmp_path: Path) -> None:
    frame = runs()
    frame["retention_food"] = np.where(frame["learning_rate"] > 1e-4, 40.0, 99.0)
    found = only(frame, tmp_path)
    assert found.sets == ("cifar100", "food")
    assert found.cells is not None
    assert which(found.cells.best) == ("lora", 1e-4)
    alone = only(frame, tmp_path, transfer="cifar100").cells
    assert alone is not None
    assert which(alone.best) == ("lora", 1e-3)
    with pytest.raises(
        AdviceError, match="--transfer birds: no run was tested on it; there are cifar100, food"
    ):
        only(frame, tmp_path, transfer="birds")


# --- the frontier


@pytest.mark.parametrize("seed", range(8))
def test_the_frontier_is_what_no_other_cell_beats(seed: int, tmp_path: Path) -> None:
    """Oracle: each cell against each other one, in a loop; ties and twins are among them."""
    draw = np.random.default_rng(seed)
    levels = {
        (method, rate): (float(draw.integers(1, 6)) * 10, float(draw.integers(1, 6)) * 10)
        for method in ("full_ft", "lora", "dora")
        for rate in (1e-6, 1e-5, 1e-4, 1e-3)
    }
    place = only(runs(levels, noise=0.0), tmp_path, keep=10)
    expected = {
        key
        for key, (a, k) in levels.items()
        if not any((x >= a and y >= k) and (x > a or y > k) for x, y in levels.values())
    }
    assert place.cells is not None
    assert {which(s) for s in place.cells.frontier} == expected
    accuracies = [s.mean("accuracy") for s in place.cells.frontier]
    assert accuracies == sorted(accuracies)


# --- how sure


def test_the_difference_to_the_runner_up_is_scipys(tmp_path: Path) -> None:
    """Paired over seeds; the interval is that of SciPy's paired test."""
    frame = runs()
    place = only(frame, tmp_path)
    assert place.cells is not None
    assert which(place.cells.runner_up) == ("lora", 1e-4)
    sides = [
        frame[(frame["method"] == "lora") & (frame["learning_rate"] == r)]["accuracy"].to_numpy()
        for r in (1e-3, 1e-4)
    ]
    oracle = stats.ttest_rel(*sides)
    found, interval = place.cells.difference, oracle.confidence_interval()
    assert found is not None
    assert (found.p, found.low, found.high) == pytest.approx((oracle.pvalue, interval.low, interval.high))
    assert (found.told, found.pairs) == (True, 3)


def test_other_seeds_are_compared_by_welch() -> None:
    def made(seeds: tuple[str, ...], values: tuple[float, ...]) -> Setting:
        return Setting("x", "x", "x", "m", "m", 1e-5, seeds, seeds, values, values)

    first, second = made(("1", "2", "3"), (80.0, 82.0, 81.0)), made(("4", "5"), (79.0, 70.0))
    found = difference_of(first, second, "accuracy")
    oracle = stats.ttest_ind(first.accuracy, second.accuracy, equal_var=False)
    interval = oracle.confidence_interval()
    assert (found.p, found.low, found.high) == pytest.approx((oracle.pvalue, interval.low, interval.high))
    assert (found.test, found.told) == ("Welch t", False)


def test_equal_settings_are_not_told_apart(tmp_path: Path) -> None:
    """Positive control: with the same levels no clear difference, and more seeds are proposed for both."""
    levels = {("full_ft", 1e-4): (80.0, 95.0), ("lora", 1e-4): (79.8, 95.0)}
    found = only(runs(levels, noise=0.4), tmp_path)
    assert found.cells is not None
    assert found.cells.difference is not None
    assert found.cells.difference.told is False
    assert any("no clear difference" in line for line in summary(found))


def summary(place: PlaceAdvice) -> list[str]:
    from clipdrift.advice.asked import Asked
    from clipdrift.advice.words import lines

    return [line.text for line in lines(place, Asked())]


def test_with_one_seed_it_cannot_be_told(tmp_path: Path) -> None:
    place = only(runs(seeds=(7,)), tmp_path)
    said = summary(place)
    assert any("cannot be told (one seed)" in line for line in said)
    assert any("Missing: one seed of lora at 1e-3; 2 more at least" in line for line in said)
    assert any("is not certain: one seed" in line for line in said)
    (lack,) = [lack for lack in place.missing if lack.what == "seeds"]
    assert lack.count == 2
    seeds = [p for p in place.proposals if p.kind == "seeds"]
    assert {which(p.like) for p in seeds} == {("lora", 1e-3), ("lora", 1e-4)}
    assert {p.seeds for p in seeds} == {("1", "2")}


def test_a_mean_near_the_bound_is_called_uncertain(tmp_path: Path) -> None:
    levels = {("lora", 1e-4): (70.0, 90.3), ("lora", 1e-5): (40.0, 99.0)}
    place = only(runs(levels, noise=1.0, seeds=(1, 2, 3, 4, 5)), tmp_path)
    assert place.cells is not None
    (bound,) = place.cells.bounds
    assert place.cells.best is not None
    kept = place.cells.best.kept
    oracle = stats.t.interval(0.95, 4, np.mean(kept), stats.sem(kept))
    assert (bound.low, bound.high) == pytest.approx(oracle)
    assert bound.sure is False
    assert which(place.cells.surest) == ("lora", 1e-5)
    assert any("The best that surely does is lora at 1e-5" in line for line in summary(place))


# --- signals


def test_regret_is_that_of_pandas(tmp_path: Path) -> None:
    """Among cells within the drop of the best validation accuracy the least embedding drift is picked."""
    frame = runs()
    cells = by_hand(frame)
    drift = frame.groupby(CELL, sort=False)["embedding_drift"].mean().to_numpy()
    near = (cells["validation_accuracy"] >= cells["validation_accuracy"].max() - 10).to_numpy()
    pick = cells[near].iloc[drift[near].argmin()]
    allowed = cells[cells["accuracy"] >= cells["accuracy"].max() - 10]
    place = only(frame, tmp_path, max_drop=10)
    assert place.picks is not None
    found = {p.signal: p for p in place.picks.picks}
    assert place.picks.candidates == near.sum()
    assert which(found["embedding_drift"].setting) == (pick["method"], pick["learning_rate"])
    assert found["embedding_drift"].regret == pytest.approx(allowed["kept"].max() - pick["kept"])
    judge = cells[near].sort_values("validation_accuracy").iloc[-1]
    assert found["validation_accuracy"].regret == pytest.approx(allowed["kept"].max() - judge["kept"])
    assert found["gini_drift"].setting is None
    assert "no gini_drift" in found["gini_drift"].note


def test_a_pick_that_is_not_allowed_has_no_regret_but_what_it_misses(tmp_path: Path) -> None:
    levels = {("full_ft", 1e-4): (80.0, 60.0), ("lora", 1e-4): (79.5, 70.0), ("lora", 1e-5): (50.0, 95.0)}
    place = only(runs(levels, noise=0.1), tmp_path)
    assert place.picks is not None
    (pick,) = [p for p in place.picks.picks if p.signal == "embedding_drift"]
    assert pick.regret is None
    assert pick.missed == pytest.approx(20, abs=0.5)
    assert (place.picks.candidates, place.picks.allowed) == (2, 0)


# --- what is proposed


def test_the_geometric_middle_between_allowed_and_forbidden(tmp_path: Path) -> None:
    """full_ft is allowed at 1e-5 and forbidden at 1e-4 with more accuracy; lora is best at its edge."""
    place = only(runs(), tmp_path)
    between = [(p.like.method, p.rate) for p in place.proposals if p.kind == "between"]
    assert between == [("full_ft", pytest.approx(np.sqrt(1e-5 * 1e-4), rel=0.01))]
    (edge,) = [p for p in place.proposals if p.kind == "edge"]
    assert (edge.like.method, edge.rate, edge.beyond) == ("lora", pytest.approx(1e-2), True)
    assert any("outside the rates that were run" in line for line in summary(place))


def test_nothing_is_proposed_where_the_answer_is_clear(tmp_path: Path) -> None:
    """Best inside the range, its forbidden neighbour less accurate, its margin wide."""
    levels = {
        ("lora", 1e-5): (50.0, 99.0), ("lora", 1e-4): (80.0, 96.0), ("lora", 1e-3): (60.0, 50.0),
    }  # fmt: skip
    assert only(runs(levels, noise=0.2), tmp_path).proposals == ()


def test_a_rate_that_diverged_is_an_end_not_an_edge(tmp_path: Path) -> None:
    frame = runs().assign(status="done")
    lost = (frame["method"] == "lora") & (frame["learning_rate"] == 1e-3)
    frame.loc[lost, "status"] = "diverged"
    place = only(frame, tmp_path)
    kinds = [(p.kind, p.like.method, p.rate) for p in place.proposals]
    assert ("between", "lora", middle(1e-4, 1e-3)) in kinds
    assert not [kind for kind in kinds if kind[0] == "edge"]


# --- too little, and nothing allowed


def test_a_constraint_that_nothing_satisfies_names_the_nearest(tmp_path: Path) -> None:
    found = advised(runs(), tmp_path, keep=99.9, max_drop=1)
    (place,) = found.places
    assert not found.answered
    assert place.cells is not None
    cells = by_hand(runs())
    missed = (99.9 - cells["kept"]).clip(lower=0)
    missed += (cells["accuracy"].max() - 1 - cells["accuracy"]).clip(lower=0)
    row = cells.iloc[missed.argmin()]
    assert which(place.cells.nearest) == (row["method"], row["learning_rate"])
    assert place.proposals


def test_without_a_transfer_set_nothing_is_advised(tmp_path: Path) -> None:
    frame = runs().drop(columns="retention_cifar100")
    (place,) = advised(frame, tmp_path).places
    assert [(lack.what, lack.count) for lack in place.missing] == [("transfer", 1)]
    assert summary(place)[0] == "eurosat: nothing can be advised."


def test_a_backbone_at_chance_is_not_measurable(tmp_path: Path) -> None:
    frame = runs().assign(backbone_chance_p_cifar100=0.4)
    found = advised(frame, tmp_path)
    (place,) = found.places
    assert not found.answered
    assert [lack.what for lack in place.missing] == ["measurable"]
    assert any("not above chance" in line for line in summary(place))


def test_one_rate_and_one_setting_are_said(tmp_path: Path) -> None:
    place = only(runs({("lora", 1e-4): (70.0, 95.0)}), tmp_path)
    assert [lack.what for lack in place.missing] == ["rates", "settings"]
    (edge,) = place.proposals
    assert (edge.rate, edge.beyond) == (pytest.approx(3.16e-4), True)


def test_a_target_without_a_finished_run_is_said(tmp_path: Path) -> None:
    frame = pd.concat([runs().assign(status="done"), runs(targets=("pets",)).assign(status="failed")])
    frame["run"] = [f"r{i}" for i in range(len(frame))]
    found = advised(frame, tmp_path)
    assert not found.answered
    assert [(str(p.place), [lack.what for lack in p.missing]) for p in found.places] == [
        ("eurosat", []), ("pets", ["runs"]),
    ]  # fmt: skip
    assert "18 of 36 runs do not count: 18 failed" in found.notes


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"keep": 0}, "--keep 0"), ({"keep": 101}, "at most 100"), ({"max_drop": -1}, "from 0"),
     ({"keep": float("nan")}, "--keep nan"), ({"max_drop": 100}, "below 100")],
)  # fmt: skip
def test_constraints_without_sense_are_refused(asked: dict[str, float], said: str, tmp_path: Path) -> None:
    with pytest.raises(AdviceError, match=said):
        advised(runs(), tmp_path, **asked)


def test_everything_is_json(tmp_path: Path) -> None:
    """Every number of every cell; nothing that JSON has no word for."""
    found = advised(runs(seeds=(7,)), tmp_path)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    (place,) = data["places"]
    assert place["cells"]["best"] == "lora at 1e-3"
    assert len(place["cells"]["settings"]) == len(LEVELS)
    assert place["cells"]["settings"][0]["accuracy_sd"] is None


def test_the_order_of_runs_does_not_matter(tmp_path: Path) -> None:
    frame = runs()
    first = advised(frame, tmp_path).summary()
    assert advised(frame.sample(frac=1, random_state=1), tmp_path).summary() == first
