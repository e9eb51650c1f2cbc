"""Parts of a sweep that need no model: the space, the rungs, the search for alpha, the proposals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipdrift.sweeping import SweepError
from clipdrift.sweeping.halving import cost, counts, first_rung, rung_epochs
from clipdrift.sweeping.mixes import STEPS, Look, next_step, scored
from clipdrift.sweeping.proposing import Proposer
from clipdrift.sweeping.space import parse_rates, space_of


def test_a_range_of_rates_is_snapped_to_few() -> None:
    """So that sweeps and studies meet at the same keys."""
    assert parse_rates("1e-5:1e-3") == (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
    assert parse_rates("3e-5:6e-4") == (5e-5, 1e-4, 2e-4, 5e-4)
    assert parse_rates("1e-3, 3e-5,1e-3") == (3e-5, 1e-3)
    assert parse_rates([0.1]) == parse_rates(0.1) == (0.1,)


@pytest.mark.parametrize("wrong", ["", "1e-3:1e-5", "1e-3:x", "0", "-1e-3", "3e-5:4e-5", [], "nan"])
def test_rates_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(SweepError, match="rate"):
        parse_rates(wrong)


def test_ranks_multiply_the_methods_that_have_one() -> None:
    space = space_of({}, ["full_ft", "lora", {"name": "dora", "rank": 2}], [1e-3], [4, 16], 6)
    assert [arm.name for arm in space.arms] == ["full_ft", "lora rank=4", "lora rank=16", "dora rank=2"]
    configs = [space.config(choice, 2) for choice in space.choices]
    assert [getattr(config.method, "rank", None) for config in configs] == [None, 4, 16, 2]
    assert {config.optim.epochs for config in configs} == {2}
    assert len({config.key for config in configs}) == space.size


@pytest.mark.parametrize(
    ("methods", "ranks", "said"),
    [([], [], "no method"), (["full_ft"], [4], "--rank"), (["lora", "lora"], [], "twice"),
     (["lorra"], [], "lorra")],
)  # fmt: skip
def test_a_space_without_sense_is_refused(methods: list[str], ranks: list[int], said: str) -> None:
    with pytest.raises(ValueError if said == "lorra" else SweepError, match=said):
        space_of({}, methods, [1e-3], ranks, 6)


def test_rungs_end_with_a_whole_run_and_begin_with_a_ninth() -> None:
    assert [rung_epochs(n) for n in (1, 2, 3, 6, 20)] == [(1,), (2,), (1, 3), (2, 6), (2, 7, 20)]
    assert rung_epochs(8, eta=2) == (2, 4, 8)


@pytest.mark.parametrize("budget", [2, 5.5, 9, 12, 40])
def test_the_first_rung_is_the_largest_that_the_budget_lasts_for(budget: float) -> None:
    """By trying every size."""
    epochs = rung_epochs(20)
    sizes = range(1, 1000)
    fitting = [n for n in sizes if cost(counts(n, 3), epochs) <= budget]
    assert first_rung(budget, epochs, 1000) == max(fitting)
    assert first_rung(budget, epochs, 3) == min(3, max(fitting))


def test_a_budget_for_nothing_says_what_one_setting_takes() -> None:
    with pytest.raises(SweepError, match=r"2, 7, 20 epochs\) is the work of 1.45 whole runs"):
        first_rung(1, rung_epochs(20), 26)


@pytest.mark.parametrize("keep", [30.0, 60.0, 90.0, 99.9])
def test_the_search_finds_the_largest_alpha_that_keeps_enough(keep: float) -> None:
    """On falling paths, against looking at all of them; with five looks at most."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        path = 100 - np.cumsum(rng.exponential(rng.uniform(0.05, 8), STEPS))
        known = {STEPS: path[-1]}
        while (step := next_step(known, keep)) is not None:
            assert step not in known
            known[step] = path[step - 1]
        enough = [step for step in range(1, STEPS + 1) if path[step - 1] >= keep]
        assert max([s for s, value in known.items() if value >= keep], default=0) == max(enough, default=0)
        assert len(known) <= 6


def test_the_most_accurate_mix_that_keeps_enough_is_taken() -> None:
    looks = [
        Look(step=step, accuracy=accuracy, kept={"a": kept, "b": 99})
        for step, accuracy, kept in ((20, 80, 50), (12, 79, 91), (10, 79.5, 93), (5, 60, 99))
    ]
    found = scored(looks, ("a", "b"), 90)
    assert (found.look.alpha, found.kept, found.missed) == (0.5, 93, 0)
    none = scored(looks, ("a",), 100)
    assert (none.look.step, none.missed) == (5, 1)


def test_proposals_repeat_exhaust_the_space_and_go_where_it_is_good() -> None:
    """The same seed and outcomes give the same proposals; none comes twice."""
    space = space_of({}, ["full_ft", "lora"], "1e-6:1e-2", [], 6)

    def asked(seed: int, count: int) -> list[tuple[int, int]]:
        proposer = Proposer(space, seed, count)
        found: list[tuple[int, int]] = []
        while len(found) < count and (batch := proposer.ask(4)):
            for choice in batch:
                found.append((choice.arm, choice.rate))
                proposer.tell(choice, -abs(choice.rate - 9) - 5.0 * choice.arm, max(0, choice.rate - 10))
        return found

    assert asked(3, 20) == asked(3, 20) != asked(4, 20)
    assert sorted(asked(0, 100)) == [(arm, rate) for arm in range(2) for rate in range(13)]
    late = [pair for seed in range(4) for pair in asked(seed, 16)[8:]]
    near = np.mean([arm == 0 and 7 <= rate <= 10 for arm, rate in late])
    assert near > 0.2, near  # at random: 4 of 26, less those that the first half has taken
