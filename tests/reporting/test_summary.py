"""The summary in words: it says what the rows say, and no more."""

from __future__ import annotations

import pandas as pd
import pytest

from clipdrift.analysis.rows import Row, table
from clipdrift.outcomes.keys import Estimand, Group
from clipdrift.outcomes.places import Place
from clipdrift.reporting.printed import KEY, Printed
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import questions_tables
from clipdrift.study.tables import Tables


def of(question: str, *rows: Row) -> dict[str, Printed]:
    frame = table(rows)
    frame.insert(0, KEY, [f"{question}-{i}" for i in range(1, len(frame) + 1)])
    return {question: Printed(f"tests_{question}", "", "", frame, ())}


def runs(**more: object) -> Tables:
    rows = [
        {"run": f"{m}{r}{s}", "target": "birds", "method": m, "learning_rate": r, "seed": s, "backbone": "b",
         "status": "done", "accuracy": 90.0, "retention_cifar100": 50.0, "cka": 0.9, "entropy_drift": -1.0}
        for m in ("full_ft", "lora") for r in (1e-5, 1e-4) for s in (1, 2)
    ]  # fmt: skip
    return Tables(pd.DataFrame(rows).assign(**more))


BIRDS = Place("birds", "b", "birds")
KEPT = "retention_cifar100"


def arms(first: str, second: str = "lora") -> Group:
    return Group("two arms", BIRDS, "full_ft", first, second, "matched rate")


def contrast(p: float, mean: float, first: str = "full_ft") -> list[Row]:
    """The paired test, and the mean difference, which has a row of its own."""
    tested = Row(
        "methods", arms(first), Estimand("t", KEPT), "pair of runs", "4", "paired t", value=-5.0, low=-2.0,
        high=-0.5, interval="of d_z", p=p, family="f", effect=-1.25, effect_name="d_z",
        note="mean difference 77",  # words: nobody reads them back
    )  # fmt: skip
    size = Estimand("mean difference", KEPT)
    return [tested, Row("methods", arms(first), size, "pair of runs", "4", "mean difference", value=mean)]


def said(tables: Tables, rows: dict[str, Printed]) -> list[str]:
    return [sentence.text for sentence in summary(tables, rows)]


def test_a_difference_is_stated_where_its_corrected_p_is_small() -> None:
    sentences = summary(runs(), of("methods", *contrast(0.003, -12.34)))
    assert [s.resolved for s in sentences] == [None, True]
    assert sentences[1].text == (
        "birds, at the same rate and seed: full_ft keeps 12.3 points less of the backbone's zero-shot "
        "accuracy on cifar100 than lora (4 pairs, paired t, p after Holm 0.0030, d_z −1.250 [−2.000, "
        "−0.500])."
    )


@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_an_unresolved_difference_is_called_so(p: float) -> None:
    """At the level itself too; the words keep and than, which state a difference, do not occur."""
    sentence = summary(runs(), of("methods", *contrast(p, 3.0)))[1]
    assert sentence.resolved is False
    assert "not resolved whether full_ft and lora differ in what they keep" in sentence.text
    assert "on average 3.0 points more with full_ft" in sentence.text
    assert " than " not in sentence.text


def test_it_is_the_corrected_p_that_counts() -> None:
    """One p of 0.03 holds alone and does not among two."""
    other = Row("methods", Group(), Estimand("t", "accuracy"), "pair of runs", "4", "t", p=0.5, family="f")
    both = contrast(0.03, 9)
    alone, among = (summary(runs(), of("methods", *rows))[1] for rows in (both, [*both, other]))
    assert alone.resolved is True
    assert among.resolved is False
    assert "p after Holm 0.060" in among.text


def test_a_row_without_a_number_says_why() -> None:
    row = Row("methods", arms("full_ft"), Estimand("outcome", KEPT), "pair of runs", "1",
              "paired t", note="1 pair; 2 are needed")  # fmt: skip
    assert said(runs(), of("methods", row))[1] == (
        "birds, at the same rate and seed: full_ft and lora cannot be compared in what they keep of the "
        "backbone's zero-shot accuracy on cifar100 (1 pair; 2 are needed)."
    )


def test_arms_with_options_are_not_what_methods_are_judged_by() -> None:
    """Only methods with their usual options are named; other contrasts stand in the table."""
    assert len(said(runs(), of("methods", *contrast(0.001, -30)))) == 2
    assert len(said(runs(), of("methods", *contrast(0.001, -30, "full_ft frozen_blocks=3")))) == 1


def test_the_order_of_predictors_is_open_where_intervals_overlap() -> None:
    def row(signal: str, value: float, low: float, high: float) -> Row:
        return Row("predictors", Group(), Estimand("Spearman", KEPT, signal), "cell", "16", "Spearman",
                   value=value, low=low, high=high, p=0.001, family="f")  # fmt: skip

    first = row("representation_drift", -0.97, -0.99, -0.90)
    near, far = row("weight_drift", -0.93, -0.98, -0.80), row("entropy_drift", 0.4, 0.1, 0.7)
    wide = [row("representation_drift", -0.6, -0.7, -0.5), row("weight_drift", 0.1, -0.8, 0.9)]
    (_, overlapping), (_, apart), (_, of_either_sign) = (
        summary(runs(), of("predictors", *rows)) for rows in ([first, near, far], [first, far], wide)
    )
    assert "signed entropy drift: Spearman 0.400" in overlapping.text
    assert "of 3 declared signals representation drift (1 − CKA) goes closest" in overlapping.text
    interval = "The interval of representation drift (1 − CKA) overlaps with that of weight drift"
    assert f"{interval}: which goes closest is open" in overlapping.text
    assert f"{interval}: which goes closest is open" in of_either_sign.text
    assert "open" not in apart.text


def test_unfinished_runs_are_counted() -> None:
    tables = runs(status=["done"] * 6 + ["diverged"] * 2)
    assert said(tables, {})[0] == (
        "6 of 8 runs are finished (2 diverged); statements below are about those that finished."
    )


def test_every_number_of_a_summary_is_in_the_rows(tables: Tables) -> None:
    """Each cell's key leads to its value, at full precision."""
    printed = questions_tables(tables)
    cells = [part for s in summary(tables, printed) for part in s.parts if not isinstance(part, str)]
    assert len(cells) > 20
    for cell in cells:
        name, rest = cell.key.split(".csv:")
        key, column = rest.split("/")
        frame = printed[name.removeprefix("tests_")].frame.set_index(KEY)
        assert frame.loc[key, column] == cell.value


def test_a_signal_that_was_not_declared_is_no_finding() -> None:
    """However large its correlation: it is one of many that were looked at."""
    row = Row("predictors", Group(), Estimand("Spearman", KEPT, "sink_share_drift"), "cell", "16", "Spearman",
              value=-1.0, p=0.001, family="f")  # fmt: skip
    assert "cannot be told" in said(runs(), of("predictors", row))[1]


def test_an_unresolved_predictor_is_called_so() -> None:
    row = Row("predictors", Group(), Estimand("Spearman", KEPT, "weight_drift"), "cell", "8", "rho",
              value=-0.8, p=0.2, family="f")  # fmt: skip
    sentence = summary(runs(), of("predictors", row))[1]
    assert sentence.resolved is False
    assert "not resolved whether any declared signal goes with what is kept" in sentence.text


def test_penalties_are_counted_and_those_that_hold_are_named() -> None:
    def row(penalty: str, p: float) -> Row:
        group = arms(f"full_ft penalty={penalty}", "none")
        return Row("penalties", group, Estimand("t", KEPT), "pair of runs", "4", "paired t",
                   value=3.0, p=p, family="f")  # fmt: skip

    sentence = summary(runs(), of("penalties", row("apr", 0.001), row("entropy_floor", 0.4)))[1]
    assert sentence.text == (
        "1 of 2 paired contrasts against none hold after Holm: birds: full_ft penalty=apr in what is kept of "
        "the backbone's zero-shot accuracy on cifar100 (p 0.0020)."
    )
    none = summary(runs(), of("penalties", row("apr", 0.2)))[1]
    assert none.text == "0 of 1 paired contrasts against none hold after Holm."
    assert none.resolved is False
