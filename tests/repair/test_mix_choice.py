"""Which runs the greedy soup takes, and which mix is chosen, on numbers made up by hand."""

from __future__ import annotations

import pytest
from made_paths import step

from clipdrift.mixing import MixAt, MixRule
from clipdrift.mixing.choice import Standing, choose, greedy_order, kept, stays

FREE, KEEP = MixRule(), MixRule(keep=90)


def mixes(**found: tuple[float, float]) -> dict[str, MixAt]:
    """By kind: accuracy and retention."""
    return {
        kind: MixAt(runs=(1, 2), step=step(0, 1, retention, accuracy=accuracy))
        for kind, (accuracy, retention) in found.items()
    }


def test_the_order_is_by_accuracy_and_under_a_constraint_by_what_is_kept_first() -> None:
    """Enough before too little; among too little, the most kept."""
    several = [Standing(70, 95), Standing(90, 50), Standing(80, 92), Standing(60, 80)]
    assert greedy_order(several, FREE) == [1, 2, 0, 3]
    assert greedy_order(several, KEEP) == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("before", "after", "rule", "wanted"),
    [
        (Standing(80, None), Standing(80, None), FREE, True),
        (Standing(80, None), Standing(79.9, None), FREE, False),
        (Standing(80, 95), Standing(85, 89), KEEP, False),
        (Standing(80, 95), Standing(80, 90), KEEP, True),
        (Standing(80, 85), Standing(70, 91), KEEP, True),
        (Standing(80, 85), Standing(70, 86), KEEP, True),
        (Standing(80, 85), Standing(90, 84), KEEP, False),
    ],
)
def test_a_run_stays_by_accuracy_once_enough_is_kept(
    before: Standing, after: Standing, rule: MixRule, wanted: bool
) -> None:
    """Before that, by what is kept."""
    assert stays(before, after, rule) is wanted


def test_the_most_accurate_that_keeps_enough_is_chosen() -> None:
    """Of equals the one that keeps more; an order overrules accuracy, not the constraint."""
    found = mixes(uniform=(80, 95), greedy=(90, 70), stock=(80, 99))
    assert choose(found, FREE) == (  # type: ignore[arg-type]
        "greedy",
        "Chosen: the greedy soup, the most accurate on validation images.",
    )
    kind, said = choose(found, KEEP)  # type: ignore[arg-type]
    assert kind == "stock"
    assert said == (
        "Chosen: Model Stock, as accurate on validation images as any of those of which each keeps 90 % of "
        "the zero-shot accuracy on every transfer set; of equals it keeps most."
    )
    assert choose(found, MixRule("uniform", 90))[0] == "uniform"  # type: ignore[arg-type]
    kind, said = choose(found, MixRule("greedy", 90))  # type: ignore[arg-type]
    assert kind is None
    assert said.startswith(
        "No mix keeps 90 % of the zero-shot accuracy on every transfer set. Nearest comes the"
    )
    assert "with 70.0 %" in said


def test_the_retention_that_counts_is_the_worst_that_is_measurable() -> None:
    """Or that of the set that was named."""
    rows = {"a": 80.0, "b": None, "c": 95.0}
    assert kept(rows, KEEP) == 80
    assert kept(rows, MixRule(keep=90, keep_on="c")) == 95
    assert kept({"b": None}, KEEP) is None
    assert not KEEP.enough(None)
