"""What follows from a number, an interval and a rule: status, exit status, and how it is told."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from clipdrift.decision import Checked, RuleResult
from clipdrift.decision.asked import read_rules
from clipdrift.decision.judging import judge, not_checked
from clipdrift.decision.sampling import Interval
from clipdrift.errors import ClipdriftError
from clipdrift.reporting.checks import append_markdown, junit, markdown
from clipdrift.rules import Rule, parse_rule


def judged(text: str, value: float, low: float | None, high: float | None, warn: bool = False) -> RuleResult:
    rule = parse_rule(text, "warn" if warn else "error")
    return judge(rule, value, Interval("bootstrap of 100 images", 0.01, low, high))


HOLDS = judged("cka >= 0.9", 0.95, 0.93, 0.97)
BROKEN = judged("retention/cifar100 >= 90", 71.7, 69.1, 74.2)
DOUBTFUL = judged("embedding_drift <= 0.1", 0.09, 0.08, 0.11)
WARNING = judged("|entropy_drift| <= 10", -12, -13, -11, warn=True)
UNKNOWN = not_checked(parse_rule("recall_at_1/text_to_image >= 0.5"), "the images have no captions")


def checked(*rules: RuleResult, strict: bool = False) -> Checked:
    return Checked(base="base", tuned="a|b`c<d>", source="photos", images=100, rules=rules, strict=strict)


@pytest.mark.parametrize(
    ("text", "value", "low", "high", "status"),
    [
        ("cka >= 0.9", 0.95, 0.93, 0.97, "holds"),
        ("cka >= 0.9", 0.95, 0.89, 0.97, "not resolved"),
        ("cka >= 0.9", 0.85, 0.80, 0.91, "not resolved"),
        ("cka >= 0.9", 0.85, 0.80, 0.89, "broken"),
        ("cka >= 0.9", 0.95, None, None, "holds"),
        ("cka >= 0.9", 0.85, None, None, "broken"),
        ("embedding_drift <= 0.1", 0.2, 0.15, 0.25, "broken"),
        ("|entropy_drift| <= 10", 0, -11, 11, "not resolved"),
        (
            "|entropy_drift| >= 1",
            2,
            -2,
            6,
            "not resolved",
        ),  # both ends are far enough, what is between is not
        ("|entropy_drift| <= 10", -12, -14, -11, "broken"),
        ("entropy_drift <= 10", -12, -14, -11, "holds"),
    ],
)
def test_a_rule_is_resolved_where_the_whole_interval_is_on_one_side(
    text: str, value: float, low: float | None, high: float | None, status: str
) -> None:
    assert judged(text, value, low, high).status == status


def test_too_few_images_resolve_nothing() -> None:
    few = judge(parse_rule("cka >= 0.1"), 0.99, Interval("4 images, too few", resolvable=False))
    assert few.status == "not resolved"


@pytest.mark.parametrize(
    ("rules", "strict", "status"),
    [
        ((HOLDS,), False, 0),
        ((HOLDS, BROKEN), False, 1),
        ((HOLDS, DOUBTFUL), False, 0),
        ((HOLDS, DOUBTFUL), True, 1),
        ((HOLDS, WARNING), True, 0),
        ((HOLDS, UNKNOWN), False, 2),
        ((BROKEN, UNKNOWN), False, 1),  # what is broken stays so, whatever else could not be read
        ((DOUBTFUL,), False, 2),  # it judged nothing, and must not pass for one that did
        ((DOUBTFUL,), True, 1),
        ((UNKNOWN,), False, 2),
        ((WARNING,), False, 0),
        ((), False, 2),
    ],
)
def test_exit_status(rules: tuple[RuleResult, ...], strict: bool, status: int) -> None:
    found = checked(*rules, strict=strict)
    assert found.exit_status == status
    assert found.kept == (status == 0)


def test_the_first_sentence_answers_the_question() -> None:
    assert checked(HOLDS).headline == "Kept: the rule holds."
    assert checked(HOLDS, HOLDS).headline == "Kept: all 2 rules hold."
    said = checked(HOLDS, BROKEN, DOUBTFUL).headline
    assert said == "Not kept: 1 of 3 rules fails: retention/cifar100 >= 90 %, at 71.7 %."
    said = checked(HOLDS, DOUBTFUL, WARNING).headline
    assert "1 of 3 rules hold" in said
    assert "embedding_drift <= 0.1 is not resolved" in said
    assert "is broken (a warning)" in said
    assert checked(DOUBTFUL).headline.startswith("Could not be told: 100 images resolve none of 1 rule")
    assert checked(UNKNOWN, HOLDS).headline.startswith("Could not be checked: recall_at_1")
    assert "embedding_drift <= 0.1, at 0.090 not resolved" in checked(HOLDS, DOUBTFUL, strict=True).headline


def test_lines_have_value_interval_and_method() -> None:
    assert str(HOLDS) == "holds: cka >= 0.9; is 0.950 (95 %: 0.930 to 0.970; bootstrap of 100 images)"
    assert "71.7 % (95 %: 69.1 to 74.2 %;" in str(BROKEN)
    assert str(UNKNOWN).endswith("not checked: recall_at_1/text_to_image >= 0.5; the images have no captions")


def test_json_has_a_standard_error_beside_each_value_and_is_read_back() -> None:
    found = checked(HOLDS, BROKEN, UNKNOWN)
    data = json.loads(found.to_json())
    assert (data["exit_status"], data["kept"]) == (1, False)
    assert [rule["standard_error"] for rule in data["rules"]] == [0.01, 0.01, None]
    for name in ("exit_status", "kept", "headline"):
        del data[name]
    assert Checked.model_validate(data) == found
    assert list(found.to_frame()["status"]) == ["holds", "broken", "not checked"]


def test_junit() -> None:
    root = ElementTree.fromstring(junit(checked(HOLDS, BROKEN, DOUBTFUL, WARNING, UNKNOWN)))
    (suite,) = root
    assert {k: suite.get(k) for k in ("tests", "failures", "errors")} == {
        "tests": "5", "failures": "1", "errors": "1",
    }  # fmt: skip
    cases = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert list(cases.values()) == [[], ["failure"], ["system-out"], ["system-out"], ["error"]]
    failure = suite.find(".//failure")
    assert failure is not None
    assert "is 71.7 %" in failure.get("message", "")
    assert suite.find("properties/property[@name='tuned']").get("value") == "a|b`c<d>"  # type: ignore[union-attr]


def test_junit_of_a_check_that_judged_nothing_does_not_pass() -> None:
    root = ElementTree.fromstring(junit(checked(DOUBTFUL)))
    assert root.get("errors") == "1"
    strict = ElementTree.fromstring(junit(checked(DOUBTFUL, strict=True)))
    assert (strict.get("failures"), strict.get("errors")) == ("1", "0")


def test_markdown_is_a_table_whatever_the_names(tmp_path: Path) -> None:
    said = markdown(checked(HOLDS, WARNING))
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {len(row.replace("\\|", "").split("|")) for row in rows} == {8}
    assert said.startswith("### ✅ Kept: 1 of 2 rules hold")
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    append_markdown(checked(BROKEN), file)
    assert file.read_text().startswith("before\n### ❌ Not kept")


# --- files of rules


def test_a_file_of_rules(tmp_path: Path) -> None:
    file = tmp_path / "drift.toml"
    file.write_text(
        'transfer = ["cifar100"]\nstrict = true\n[rules]\ncka = ">= 0.9"\n'
        '"retention/cifar100" = { min = 90, severity = "warn" }\n'
    )
    found = read_rules(file)
    assert found.rules == (Rule("cka", ">=", 0.9), Rule("retention/cifar100", ">=", 90.0, severity="warn"))
    assert (found.transfer, found.strict) == (("cifar100",), True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rule]\ncka = '>= 0.9'", r"rule: unknown key \(did you mean rules\?\)"),
        ("strict = true", r"no \[rules\]"),
        (
            "[rules]\ncak = '>= 0.9'",
            r"drift.toml: \[rules\] rule 'cak >= 0.9': unknown measure cak \(near: cka\)",
        ),
        ("[rules]\ncka = '>= 0.9'\n[rules.gini]\nmaxx = 1", r"gini.maxx: unknown key \(near: max\)"),
        ("transfer = 3\n[rules]\ncka = '>= 0.9'", "write a list of names"),
        ("strict = 'yes'\n[rules]\ncka = '>= 0.9'", "write true or false"),
        ("[rules", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "drift.toml"
    file.write_text(text)
    with pytest.raises(ClipdriftError, match=said) as caught:
        read_rules(file)
    assert "\n" not in str(caught.value)
