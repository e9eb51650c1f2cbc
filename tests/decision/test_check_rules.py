"""The grammar of rules: what is read, what is refused in one line, what holds."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdrift.listing import MEASURES
from clipdrift.rules import Rule, RuleError, parse_rule, rule_measures, rules_of


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cka >= 0.9", Rule("cka", ">=", 0.9)),
        ("  cka>=.9 ", Rule("cka", ">=", 0.9)),
        ("cka ≥ 0.9", Rule("cka", ">=", 0.9)),
        ("cka/block_6 > 0.8", Rule("cka/block_6", ">", 0.8)),
        ("cka/worst >= 7e-1", Rule("cka/worst", ">=", 0.7)),
        ("embedding_drift <= 0.1", Rule("embedding_drift", "<=", 0.1)),
        ("entropy_drift >= -10 %", Rule("entropy_drift", ">=", -10)),
        ("|entropy_drift| < 10", Rule("entropy_drift", "<", 10, magnitude=True)),
        ("| entropy_drift/block_2 | ≤ 10%", Rule("entropy_drift/block_2", "<=", 10, magnitude=True)),
        ("retention/cifar100 >= 90", Rule("retention/cifar100", ">=", 90)),
        ("retention/org/my set >= 90", Rule("retention/org/my set", ">=", 90)),
        ("retention >= 0.5 %", Rule("retention", ">=", 0.5)),
        ("zero_shot_agreement >= 0.95", Rule("zero_shot_agreement", ">=", 0.95)),
        ("weight_drift_q/block_1 <= 0.01", Rule("weight_drift_q/block_1", "<=", 0.01)),
        ("intruder_dimensions/q <= 2", Rule("intruder_dimensions/q", "<=", 2)),
        ("recall_at_5/text_to_image >= 0.4", Rule("recall_at_5/text_to_image", ">=", 0.4)),
        ("accuracy >= 80", Rule("accuracy", ">=", 80)),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cka", "write a measure"),
        ("cka == 0.9", "write a measure"),
        ("0.9 <= cka", "is not a number"),
        ("|cka >= 0.9", "write a measure"),
        ("cka >= high", "high is not a number"),
        ("cak >= 0.9", r"unknown measure cak \(near: .*cka"),
        ("entropy_drfit >= 1", r"near: entropy_drift"),
        ("cka_drift >= 1", "unknown measure cka_drift"),
        ("recall_at_k >= 1", r"near: recall_at_"),
        ("cka >= 90", "never above 1"),
        ("cka >= 90 %", "plain number, not a percentage"),
        ("entropy >= 2 %", "in nats, not a percentage"),
        ("retention >= 0.9", "did you mean 90"),
        ("retention/ >= 90", "name a transfer set"),
        ("cka/cifar100 >= 0.9", "it has blocks"),
        ("cka/block_0 >= 0.9", "it has blocks"),
        ("embedding_drift/block_1 <= 0.1", "it has none"),
        ("intruder_dimensions/block_1 <= 1", "kinds of matrix"),
        ("recall_at_1/both >= 0.5", "image_to_text and text_to_image"),
        ("cka >= nan", "bounds nothing"),
        ("weight_drift <= inf", "bounds nothing"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=said) as caught:
        parse_rule(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_value_at_the_threshold() -> None:
    holds = {op: parse_rule(f"cka {op} 0.5").holds(0.5) for op in (">=", ">", "<=", "<")}
    assert holds == {">=": True, ">": False, "<=": True, "<": False}


def test_nan_never_holds() -> None:
    assert not any(parse_rule(f"cka {op} 0.5").holds(math.nan) for op in (">=", ">", "<=", "<"))


def test_a_size_counts_both_ways_and_a_signed_value_one() -> None:
    size, signed = parse_rule("|entropy_drift| <= 10"), parse_rule("entropy_drift <= 10")
    assert [size.holds(v) for v in (-11, -9, 9, 11)] == [False, True, True, False]
    assert [signed.holds(v) for v in (-11, -9, 9, 11)] == [True, True, True, False]


def test_parts() -> None:
    rule = parse_rule("cka/block_6 >= 0.8")
    assert (rule.name, rule.part, rule.block, rule.unit, rule.at_least) == ("cka", "block_6", 6, "", True)
    other = parse_rule("retention/block_6 >= 80")  # a transfer set of that name
    assert (other.name, other.part, other.block, other.unit) == ("retention", "block_6", None, "%")
    assert str(parse_rule("retention >= 90").of("cifar100")) == "retention/cifar100 >= 90 %"


@given(
    st.sampled_from(rule_measures()),
    st.sampled_from([">=", ">", "<=", "<"]),
    st.integers(2, 9),
    st.booleans(),
)
def test_what_is_printed_is_read_back(name: str, op: str, tenths: int, magnitude: bool) -> None:
    bars = "|" if magnitude else ""
    unit = " %" if name in ("retention", "accuracy", "zero_shot_accuracy") else ""
    rule = parse_rule(f"{bars}{name}{bars} {op} 0.{tenths}{unit}")
    assert parse_rule(str(rule)) == rule


def test_every_listed_measure_is_known_and_what_compares_already_has_no_drift() -> None:
    known = set(rule_measures())
    assert set(MEASURES) - known == {"recall_at_k", "subset_sensitivity", "task_vector_cosine"}
    assert {"entropy_drift", "rollout_gini_drift", "text_entropy_drift"} <= known
    assert not {"cka_drift", "retention_drift", "weight_drift_drift", "text_cka_drift"} & known


def test_a_table_of_rules() -> None:
    found = rules_of(
        {
            "cka": ">= 0.9",
            "retention/cifar100": {"min": 90, "severity": "warn"},
            "entropy_drift": {"min": -10, "max": 10},
        }
    )
    assert [str(rule) for rule in found] == [
        "cka >= 0.9",
        "retention/cifar100 >= 90 %",
        "entropy_drift >= -10 %",
        "entropy_drift <= 10 %",
    ]
    assert [rule.severity for rule in found] == ["error", "warn", "error", "error"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"cak": ">= 0.9"}, r"\[rules\] rule 'cak >= 0.9': unknown measure cak"),
        ({"cka": 0.9}, r"\[rules\] cka = 0.9: write a bound"),
        ({"cka": {"mni": 0.9}}, r"cka.mni: unknown key \(near: min\)"),
        ({"cka": {"severity": "warn"}}, "no bound"),
        ({"cka": {"min": 0.9, "severity": "fatal"}}, "legal are error and warn"),
        ({"cka": {"min": "high"}}, "high is not a number"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_key(table: dict[str, object], said: str) -> None:
    with pytest.raises(RuleError, match=said):
        rules_of(table)


def test_the_grammar_loads_no_torch() -> None:
    code = "import sys, clipdrift.rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
