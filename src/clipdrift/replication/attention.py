"""Published findings about attention: how far it drifts, which way, where, when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clipdrift.outcomes.keys import Estimand, Group, Matching, Name
from clipdrift.outcomes.places import Place
from clipdrift.replication import quoted
from clipdrift.replication.answers import Answers
from clipdrift.replication.checks import (
    Check,
    EvidenceRow,
    Finding,
    above,
    below,
    rises,
    stated,
    within,
)
from clipdrift.texts import rate as rate_text

THIRDS: dict[Name, str] = {"early blocks": "early", "middle blocks": "middle", "late blocks": "late"}
APART = 0.5
"""Two measures are apart where their correlation lies within this of 0."""


def arm(place: Place, method: str) -> Group:
    """The runs of a method's usual arm."""
    return Group("arm", place, method, method)


def cell(place: Place, method: str, rate: float) -> Group:
    """The same at one rate."""
    return Group("cell", place, method, method, rate=rate)


def methods_apart(place: Place) -> Group:
    """full_ft beside lora, each with its usual options."""
    return Group("two arms", place, "full_ft", "full_ft", "lora")


def mean(answers: Answers, place: Place, method: str, rate: float, outcome: str) -> EvidenceRow:
    """A cell's mean over seeds."""
    return answers.row("sweep", "rate", cell(place, method, rate), Estimand("mean", outcome))


def at_rate(place: Place, method: str, rate: float) -> str:
    return f"{place}, {method} at {rate_text(rate)}"


def paired(
    answers: Answers, place: Place, matched: Matching, outcome: str
) -> tuple[EvidenceRow, EvidenceRow]:
    """full_ft minus lora over matched pairs: the row of the mean difference, and that of its paired t."""
    group = replace(methods_apart(place), matching=matched)
    size = answers.row("sweep", "methods", group, Estimand("mean difference", outcome))
    return size, answers.row("sweep", "methods", group, Estimand("t", outcome), "paired t")


def falls_with_rate(answers: Answers) -> Finding:
    checks: list[Check] = []
    shown: list[Check] = []
    for place in answers.places:
        name = Estimand("Spearman", "entropy_drift", "log_rate")
        whole = answers.row("sweep", "rate", arm(place, "full_ft"), name)
        rates = answers.rates(place, "full_ft")
        steps = [mean(answers, place, "full_ft", rate, "entropy_drift") for rate in rates]
        check = below(whole, f"{place}, rho", tested=whole)
        checks.append(replace(check, side="against") if rises(steps) else check)
        shown += [
            stated(step, at_rate(place, "full_ft", rate), "%")
            for step, rate in zip(steps, rates, strict=True)
        ]
    return Finding(
        1, "Entropy drift falls monotonically with the learning rate under full_ft",
        "rho's interval below 0 and p below 0.05 after Holm; against it also where a rate's mean lies above "
        "that of the rate before it, their intervals apart",
        f"{quoted.statistic('rate_spearman', 'EuroSAT, one run a rate:')}; "
        f"{quoted.statistic('rate_pearson')}; matched grid "
        f"{quoted.by_rate('eurosat', 'full_ft', 'entropy_drift')}; "
        f"{quoted.by_rate('pets', 'full_ft', 'entropy_drift')}",
        tuple(checks), tuple(shown),
    )  # fmt: skip


def broadens_then_contracts(answers: Answers) -> Finding:
    checks: list[Check] = []
    for place in answers.places:
        if rates := answers.rates(place, "full_ft"):
            low, high = rates[0], rates[-1]
            checks.append(above(mean(answers, place, "full_ft", low, "entropy_drift"),
                                at_rate(place, "full_ft", low), "%"))  # fmt: skip
            checks.append(below(mean(answers, place, "full_ft", high, "entropy_drift"),
                                at_rate(place, "full_ft", high), "%"))  # fmt: skip
    return Finding(
        2, "full_ft broadens attention at the smallest rate and contracts it at the largest",
        "mean entropy drift at the smallest rate above 0, at the largest below 0, intervals over seeds",
        f"{quoted.by_rate('eurosat', 'full_ft', 'entropy_drift')}; "
        f"{quoted.by_rate('pets', 'full_ft', 'entropy_drift')}",
        tuple(checks),
    )  # fmt: skip


def lora_positive(answers: Answers) -> Finding:
    place = answers.land_use
    checks = tuple(
        above(mean(answers, place, "lora", rate, "entropy_drift"), at_rate(place, "lora", rate), "%")
        for rate in answers.rates(place, "lora")
    )
    return Finding(
        3, "lora stays entropy-positive on the land-use target",
        "mean entropy drift above 0 at every rate, intervals over seeds",
        quoted.by_rate("eurosat", "lora", "entropy_drift"), checks,
    )  # fmt: skip


def late_blocks(answers: Answers) -> Finding:
    checks, shown = [], []
    for place in answers.places:
        for rate in answers.rates(place, "full_ft")[-1:]:
            group, name = cell(place, "full_ft", rate), Estimand("late against others", "entropy")
            checks.append(above(answers.row("sweep", "depth", group, name), at_rate(place, "full_ft", rate)))
            for third, words in THIRDS.items():
                row = answers.row("sweep", "depth", group, Estimand(third, "entropy"))
                shown.append(stated(row, f"{place}, {words}", "%"))
    return Finding(
        7, "Late blocks move most under full_ft at a high rate",
        "at the highest rate the late third's mean |entropy drift| above that of the other blocks, interval "
        "over runs",
        f"E2 (EuroSAT, 1e-5) {quoted.foremost('E2')}, E3 (Pets, 1e-5) {quoted.foremost('E3')}, but "
        f"A1 (EuroSAT, 1e-4) {quoted.foremost('A1-1e-4')} of 12",
        tuple(checks), tuple(shown),
    )  # fmt: skip


def _pair(answers: Answers, first: str, second: str) -> EvidenceRow:
    """The correlation of two signals, whichever of them the analysis names first."""
    found = [
        answers.row("sweep", "measures", Group(), Estimand("Pearson", b, a))
        for a, b in ((first, second), (second, first))
    ]
    return next((source for source in found if source.row is not None), found[0])


def move_together(answers: Answers) -> Finding:
    checks = (
        above(_pair(answers, "entropy_drift", "erf95_drift"), "entropy with ERF, r"),
        below(_pair(answers, "entropy_drift", "gini_drift"), "entropy with Gini, r"),
        within(_pair(answers, "entropy_drift", "head_diversity_drift"), APART, "entropy with diversity, r"),
    )
    return Finding(
        8, "Entropy, ERF and Gini move together, head diversity apart",
        f"r of entropy with ERF above 0, with Gini below 0, with head diversity within ±{APART:g}, whole "
        "intervals",
        f"{quoted.statistic('runs_entropy_erf95', 'ERF')}; "
        f"{quoted.statistic('runs_entropy_gini', 'Gini')}; "
        f"{quoted.statistic('runs_entropy_head_diversity', 'head diversity')}, while the published table "
        "of the same runs gives +0.99, −0.99 and −0.89",
        checks,
    )  # fmt: skip


def cka_and_entropy(answers: Answers) -> Finding:
    checks: list[Check] = []
    for place in answers.places:
        size, tested = paired(answers, place, "matched rate", "representation_drift")
        checks.append(above(size, f"{place}, 1 − CKA, full_ft minus lora", tested=tested))
    checks.append(below(_pair(answers, "entropy_drift", "representation_drift"), "entropy with 1 − CKA, r"))
    return Finding(
        12, "lora keeps higher CKA, and CKA goes with entropy drift",
        "at matched rate and seed 1 − CKA lower under lora (interval, and p below 0.05 after Holm); r of "
        "entropy drift with 1 − CKA below 0",
        f"mean CKA over 12 blocks {quoted.cka('E2'):.3f} (full_ft, 1e-5) against "
        f"{quoted.cka('E5'):.3f} (lora, 1e-4); with entropy drift {quoted.statistic('cka_pearson')}",
        tuple(checks),
    )  # fmt: skip


def starts_earlier(answers: Answers) -> Finding:
    checks = []
    for place in answers.places:
        name = Estimand("Spearman", "onset", "log_rate")
        row = answers.row("sweep", "onset", arm(place, "full_ft"), name)
        checks.append(below(row, f"{place}, full_ft, rho", tested=row))
    return Finding(
        13, "Drift starts earlier at higher rates",
        "rho of the rate with the share of training after which entropy has fallen by 1 % (never counts as "
        "later than all) below 0, and p below 0.05 after Holm",
        f"EuroSAT full_ft: never at 1e-5, {quoted.onset('A1-5e-5')} of training at 5e-5, "
        f"{quoted.onset('A1-1e-4')} at 1e-4; one run each",
        tuple(checks),
    )  # fmt: skip


def findings(answers: Answers) -> Iterator[Finding]:
    for find in (
        falls_with_rate, broadens_then_contracts, lora_positive, late_blocks, move_together, cka_and_entropy,
        starts_earlier,
    ):  # fmt: skip
        yield find(answers)
