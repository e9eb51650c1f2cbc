"""Published findings about what is learnt and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clipdrift.outcomes.keys import Estimand, Group, Matching
from clipdrift.replication import quoted
from clipdrift.replication.answers import Answers
from clipdrift.replication.attention import APART, at_rate, mean, methods_apart, paired
from clipdrift.replication.checks import Check, Finding, above, below, stated, within

MATCHED: tuple[Matching, ...] = ("matched rate", "matched weight drift", "matched accuracy")


def lora_keeps_more(answers: Answers) -> Finding:
    checks: list[Check] = []
    for place in answers.places:
        for matched in MATCHED:
            size, tested = paired(answers, place, matched, answers.kept)
            checks.append(below(size, f"{place}, {matched}", "points", tested))
    return Finding(
        4, "At matched rate lora keeps more zero-shot ability; also at matched weight drift and accuracy",
        "retention of full_ft minus that of lora below 0 (interval over pairs, and p of the paired t below "
        "0.05 after Holm), for each matching",
        f"CIFAR-100 after the matched grid: {quoted.grid_mean('eurosat', 'cifar100_acc')}; "
        f"{quoted.grid_mean('pets', 'cifar100_acc')}; only the rates were matched",
        tuple(checks),
    )  # fmt: skip


def lora_underfits(answers: Answers) -> Finding:
    place = answers.fine
    rates = sorted(set(answers.rates(place, "full_ft")) & set(answers.rates(place, "lora")))
    checks, shown = [], []
    for rate in rates[:1]:
        group = replace(methods_apart(place), matching="rate", rate=rate)
        tested = answers.row("sweep", "methods", group, Estimand("t", answers.learnt), "Welch t")
        words = f"{at_rate(place, 'full_ft minus lora', rate)}, Cohen's d"
        checks.append(above(tested, words, tested=tested))
    for rate in rates[:1] + rates[-1:]:
        for method in ("full_ft", "lora"):
            found = mean(answers, place, method, rate, answers.learnt)
            shown.append(stated(found, f"accuracy, {at_rate(place, method, rate)}", "%"))
    return Finding(
        5, "At a low rate lora underfits the fine-grained target",
        "at the lowest rate accuracy of full_ft above that of lora (interval of Cohen's d, and p of Welch's "
        "t below 0.05 after Holm)",
        f"lora {quoted.by_rate('pets', 'lora', 'best_val_acc')}; full_ft "
        f"{quoted.by_rate('pets', 'full_ft', 'best_val_acc')}",
        tuple(checks), tuple(shown),
    )  # fmt: skip


def goes_with_retention(answers: Answers) -> Finding:
    checks: list[Check] = []
    for place in answers.places:
        group = Group("place", place) if len(answers.places) > 1 else Group()
        kept, learnt = (
            answers.row("sweep", "predictors", group, Estimand("Pearson", outcome, "entropy_drift"))
            for outcome in (answers.kept, answers.learnt)
        )
        checks.append(above(kept, f"{place}, with retention, r"))
        checks.append(within(learnt, APART, f"{place}, with accuracy, r"))
    said = [
        f"{name} {quoted.statistic(f'grid_{target}_zero_shot', 'zero-shot')}, "
        f"{quoted.statistic(f'grid_{target}_accuracy', 'accuracy')}"
        for target, name in quoted.NAMES.items()
    ]
    return Finding(
        6, "Within a target entropy drift goes with retention and hardly with accuracy",
        f"r with retention above 0; r with accuracy within ±{APART:g}; whole intervals over cells",
        f"{'; '.join(said)} (n is of runs; the numbers are those of 8 cell means each)", tuple(checks),
    )  # fmt: skip


def representation_orders(answers: Answers) -> Finding:
    name = Estimand("oriented rho", answers.kept, "representation_drift", term="entropy_drift")
    several = len(answers.places) > 1
    groups = [Group(), *(Group("place", place) for place in answers.places if several)]
    checks, shown = [], []
    for group in groups:
        words = "all targets together" if group.place is None else str(group.place)
        checks.append(above(answers.row("study", "predictors", group, name), f"{words}, difference of rho"))
        for signal in ("representation_drift", "entropy_drift"):
            row = answers.row("study", "predictors", group, Estimand("Spearman", answers.kept, signal))
            shown.append(stated(row, f"{words}, {signal}, rho"))
    return Finding(
        14, "Across configurations representation drift orders retention better than signed entropy drift",
        "rho with retention, taken in the direction fixed beforehand (more representation drift, less "
        "entropy: less kept), greater for representation drift; the difference's interval over cells above 0",
        "later evidence, without a table: CKA and embedding drift order retention across configurations, "
        "signed entropy drift does not",
        tuple(checks), tuple(shown),
    )  # fmt: skip


def findings(answers: Answers) -> Iterator[Finding]:
    for find in (lora_keeps_more, lora_underfits, goes_with_retention, representation_orders):
        yield find(answers)
