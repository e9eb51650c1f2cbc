"""What is asked for, read from text; and which alpha a wish chooses."""

from __future__ import annotations

import pytest
from made_paths import step
from numpy.testing import assert_allclose

from clipdrift.repair import (
    AlphaRule,
    check_alpha_rule,
    choose,
    parse_alpha_rule,
    parse_alphas,
    parse_blocks,
    parse_factors,
)
from clipdrift.repair.arguments import RepairError, blocks_text
from clipdrift.repair.interpolating import interpolate


@pytest.mark.parametrize(
    ("given", "alphas"),
    [
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0:1:0.1", [i / 10 for i in range(11)]),
        ("0:1:0.3", [0, 0.3, 0.6, 0.9, 1]),
        ("1,0,0.5,0.5", [0, 0.5, 1]),
        ("0.4", [0.4]),
        (0.4, [0.4]),
        ([1, 0.2], [0.2, 1]),
        ("0.5:1.5:0.5", [0.5, 1, 1.5]),
    ],
)
def test_a_grid_has_both_ends_in_rising_order(given: object, alphas: list[float]) -> None:
    """And 0.1 steps give 0.3, not 0.30000000000000004."""
    found = parse_alphas(given)  # type: ignore[arg-type]
    assert list(found) == [round(a, 10) for a in alphas]


def test_the_alpha_to_be_saved_joins_the_grid() -> None:
    """It is measured before it is saved."""
    assert_allclose(parse_alphas("0,1", 0.37), [0, 0.37, 1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0:1", "write first:last:step"),
        ("0:1:0", "the step must be above 0"),
        ("1:0:0.1", "the last alpha not below the first"),
        ("0:1:1e-9", "201 at most"),
        ("0,x", "x is not a number"),
        ("", "nothing is not a number"),
        ("nan", "is not a number"),
        ("-0.1", r"alpha -0\.1: legal are 0 \(the backbone\) to 1 \(the tuned model\), and up to 2"),
        (2.5, r"alpha 2\.5"),
        ([], "no alphas were given"),
    ],
)
def test_what_is_no_grid_is_refused(given: object, said: str) -> None:
    """With how to write one."""
    with pytest.raises(RepairError, match=said):
        parse_alphas(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "blocks"),
    [
        ("9..12", (9, 10, 11, 12)),
        ("10..", (10, 11, 12)),
        ("..2", (1, 2)),
        ("9", (9,)),
        (9, (9,)),
        ("7,1..2,2", (1, 2, 7)),
        ([3, 1], (1, 3)),
    ],
)
def test_blocks_count_from_1_and_ranges_have_both_ends(given: object, blocks: tuple[int, ...]) -> None:
    """In any order, each once; and as text they read back."""
    found = parse_blocks(given, 12)  # type: ignore[arg-type]
    assert found == blocks
    assert parse_blocks(blocks_text(found), 12) == blocks


@pytest.mark.parametrize("given", ["0", "13", "9..13", "5..4", "..", "a", "", "1;2", "-1"])
def test_what_are_no_blocks_is_refused(given: str) -> None:
    """Those that the model has not, and text that means nothing."""
    with pytest.raises(RepairError, match="--blocks"):
        parse_blocks(given, 12)


def test_scales_fall_from_what_is_kept() -> None:
    """1 is no repair, and below 0 an intruder would come back turned round."""
    assert parse_factors("0,0.5") == (0.5, 0)
    assert parse_factors(0.3) == (0.3,)
    for given in ("1", "-0.1", "x", []):  # type: ignore[var-annotated]
        with pytest.raises(RepairError, match=r"--scale|no scale"):
            parse_factors(given)  # type: ignore[arg-type]


def test_a_wish_is_one() -> None:
    """And each is read with its own limits."""
    assert parse_alpha_rule() is None
    assert parse_alpha_rule(save_at=0.6) == AlphaRule(at=0.6)
    assert parse_alpha_rule(keep_cka=0.9) == AlphaRule(keep="cka", least=0.9)
    assert parse_alpha_rule(keep_retention=90) == AlphaRule(keep="retention", least=90)
    assert parse_alpha_rule(keep_retention="a=b=90") == AlphaRule(keep="retention", least=90, of="a=b")
    for options, said in (
        ({"save_at": 3.0}, "alpha 3"),
        ({"keep_cka": 0.0}, "--keep-cka 0"),
        ({"keep_cka": 1.1}, r"--keep-cka 1\.1"),
        ({"keep_retention": "much"}, "much is not a number"),
        ({"keep_retention": "=90"}, "write a percentage"),
        ({"keep_retention": -1}, "write a percentage"),
        ({"keep_cka": 0.9, "keep_retention": 90}, "contradict each other"),
    ):
        with pytest.raises(RepairError, match=said):
            parse_alpha_rule(**options)  # type: ignore[arg-type]


def test_retention_is_wished_for_of_what_is_tested() -> None:
    """Before an hour of measuring, not after it."""
    check_alpha_rule(AlphaRule(keep="cka", least=0.9), [])
    check_alpha_rule(AlphaRule(keep="retention", least=90, of="a"), ["a"])
    with pytest.raises(RepairError, match="needs a transfer set"):
        check_alpha_rule(AlphaRule(keep="retention", least=90), [])
    with pytest.raises(RepairError, match="b: not tested; there are a"):
        check_alpha_rule(AlphaRule(keep="retention", least=90, of="b"), ["a"])


def test_the_largest_alpha_that_keeps_is_chosen() -> None:
    """Of a falling path; equal counts as kept, and by rounding a little less."""
    path = [step(0, 1.0, 100), step(0.5, 0.95, 90 - 1e-12), step(1, 0.6, 20)]
    assert choose(path, AlphaRule(keep="cka", least=0.95)).index == 1
    assert choose(path, AlphaRule(keep="retention", least=90)).index == 1
    assert choose(path, AlphaRule(keep="retention", least=10)).index == 2
    assert choose(path, AlphaRule(at=0.5)).index == 1
    assert choose(path, AlphaRule(keep="cka", least=0.9)).notes == ()


def test_the_backbone_itself_is_never_chosen_for_what_it_keeps() -> None:
    """It keeps everything: an answer to nobody's question. The nearest alpha is named."""
    found = choose(
        [step(0, 1.0, 100), step(0.1, 0.8, 70), step(1, 0.5, 20)], AlphaRule(keep="retention", least=90)
    )
    assert found.index is None
    assert "Nearest comes alpha 0.1, with 70.0 %" in found.said


def test_a_path_that_is_not_monotonic_is_told() -> None:
    """The largest that keeps is chosen all the same, and what dips on the way is named."""
    path = [step(0, 1, 100), step(0.3, 0.9, 85), step(0.6, 0.9, 92), step(1, 0.5, 20)]
    found = choose(path, AlphaRule(keep="retention", least=90))
    assert found.index == 2
    assert "not monotonic: 0.3 keep less than alpha 0.6" in found.notes[0]


def test_retention_counts_in_the_mean_or_of_one_set() -> None:
    """As asked; a set on which nothing was there to keep counts for nothing."""
    path = [
        step(0.5, 0.9, {"a": 96.0, "b": 80.0, "c": None}),
        step(1, 0.5, {"a": 91.0, "b": 40.0, "c": None}),
    ]
    assert choose(path, AlphaRule(keep="retention", least=85)).index == 0
    assert choose(path, AlphaRule(keep="retention", least=90, of="a")).index == 1
    assert choose(path, AlphaRule(keep="retention", least=1, of="c")).index is None


def test_an_unknown_argument_is_refused_with_the_near_name() -> None:
    with pytest.raises(RepairError, match=r"unknown argument transfr \(near: transfer"):
        interpolate("BASE", "TUNED", transfr="cifar100")  # type: ignore[call-arg]
