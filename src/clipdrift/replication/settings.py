"""Published findings about penalties and options of a method, on the land-use target."""

from __future__ import annotations

from collections.abc import Iterator

from clipdrift.outcomes.keys import Estimand, Group
from clipdrift.outcomes.places import Place
from clipdrift.replication import quoted
from clipdrift.replication.answers import Answers, Variant
from clipdrift.replication.checks import Check, EvidenceRow, Finding, above, below, stated, unresolved, within
from clipdrift.texts import signed_hundredths

POINT = 1.0
"""Little is less than this: percentage points of accuracy, percent of entropy."""


def _apart(place: Place, method: str, variant: Variant, against: str) -> Group:
    """Pairs of runs of equal rate and seed, of an unusual arm and what it is compared with."""
    return Group("two arms", place, method, variant.name, against, "matched rate")


def _difference(answers: Answers, question: str, group: Group, outcome: str) -> EvidenceRow:
    return answers.row("study", question, group, Estimand("mean difference", outcome))


def penalties(answers: Answers) -> Finding:
    place = answers.land_use
    lifts: list[Check] = []
    costs: list[Check] = []
    none: list[Check] = []
    for variant in answers.variants(place, "full_ft"):
        if "penalty" not in variant.changed:
            continue
        group, name = _apart(place, "full_ft", variant, "none"), _short(variant)
        lifts.append(
            above(_difference(answers, "penalties", group, "entropy_drift"), f"{name}, entropy", "%")
        )
        costs.append(
            above(
                _difference(answers, "penalties", group, answers.learnt),
                f"{name}, accuracy",
                "points",
                than=-POINT,
            )
        )
        tested = answers.row("study", "penalties", group, Estimand("t", "entropy_drift"), "paired t")
        none.append(unresolved(tested, f"{name}, paired t"))
    said = [
        f"{name} {signed_hundredths(quoted.run(run, 'entropy_drift') - base[0])} % and "
        f"{signed_hundredths(quoted.run(run, 'best_val_acc') - base[1])} points"
        for base in [(quoted.run("E2", "entropy_drift"), quoted.run("E2", "best_val_acc"))]
        for name, run in (
            ("apr 0.01", "R1-0.01"), ("0.1", "R1-0.1"), ("1", "R1-1.0"), ("entropy_floor 0.01", "R2-0.01"),
            ("0.1", "R2-0.1"),
        )
    ]  # fmt: skip
    return Finding(
        9, "Penalties lift entropy at little cost in accuracy, and none survives Holm",
        f"entropy drift with the penalty above that without; accuracy not lower by {POINT:g} point or more; "
        "p of the paired t of entropy drift not below 0.05 after Holm; pairs of equal seed",
        f"{', '.join(said)} (entropy drift and accuracy against none, one run each); over 12 blocks "
        f"{quoted.statistic('apr_0.01', 'apr 0.01')}; "
        f"{quoted.statistic('entropy_floor_0.1', 'entropy_floor 0.1')}",
        (*lifts, *costs, *none),
    )  # fmt: skip


def _more(matrices: str, usual: str) -> bool:
    """Whether ``q+k+v+out`` has those of the usual ``q+v``, and others."""
    return set(matrices.split("+")) > set(usual.split("+"))


def _of(name: str, column: str) -> str:
    return signed_hundredths(quoted.run(name, column))


def _short(variant: Variant) -> str:
    """Penalty and weight: ``apr 0.1``."""
    return " ".join(variant.changed[n] for n in ("penalty", "penalty_weight") if n in variant.changed)


def rank_and_matrices(answers: Answers) -> Finding:
    place = answers.land_use
    checks: list[Check] = []
    shown: list[Check] = []
    for variant in answers.variants(place, "lora"):
        group = _apart(place, "lora", variant, "lora")
        option = " ".join(f"{name}={value}" for name, value in variant.changed.items())
        drift = _difference(answers, "options", group, "entropy_drift")
        words = f"{option}, entropy"
        rank, matrices = (variant.changed.get(n) for n in ("rank", "matrices"))
        if len(variant.changed) > 1:  # not the one option alone
            continue
        if rank is not None:
            lower = float(rank) < float(answers.usual(place, "lora", "rank"))
            checks.append((above if lower else below)(drift, words, "%"))
        elif matrices is not None and _more(matrices, answers.usual(place, "lora", "matrices")):
            checks.append(within(drift, POINT, words, "%"))
        else:
            continue
        for outcome, unit in ((answers.learnt, "points"), (answers.kept, "points")):
            name = "kept" if outcome == answers.kept else "accuracy"
            shown.append(stated(_difference(answers, "options", group, outcome), f"{option}, {name}", unit))
    runs = {"r = 4": "E4", "8": "E5", "16": "E6", "8 on q, k, v and out": "A2"}
    drifts = ", ".join(
        f"{signed_hundredths(quoted.run(n, 'entropy_drift'))} % ({w})" for w, n in runs.items()
    )
    kept = ", ".join(f"{quoted.kept(n):.2f}" for n in ("E4", "E5", "E6"))
    return Finding(
        10, "lora's entropy drift falls with its rank; more adapted matrices change it little",
        "entropy drift of the lower rank above, of the higher rank below that of the usual one; that of "
        f"adapters on q, k, v and out within ±{POINT:g} % of it; pairs of equal seed",
        f"{drifts}; CIFAR-100 {kept} % at r = 4, 8, 16; one run each", tuple(checks), tuple(shown),
    )  # fmt: skip


def freezing(answers: Answers) -> Finding:
    place = answers.land_use
    checks: list[Check] = []
    shown: list[Check] = []
    for variant in answers.variants(place, "full_ft"):
        if list(variant.changed) != ["frozen_blocks"]:
            continue
        group = _apart(place, "full_ft", variant, "full_ft")
        name = f"first {variant.changed['frozen_blocks']} frozen"
        for outcome, what, unit in (
            ("entropy_drift", "entropy", "%"),
            (answers.learnt, "accuracy", "points"),
        ):
            row = _difference(answers, "options", group, outcome)
            checks.append(within(row, POINT, f"{name}, {what}", unit))
        shown.append(stated(_difference(answers, "options", group, answers.kept), f"{name}, kept", "points"))
    runs = {"none": "E2", "3": "A3-3", "6": "A3-6", "9 of 12": "A3-9"}
    said = ", ".join(
        f"{_of(name, 'entropy_drift')} % and {quoted.run(name, 'best_val_acc'):.2f} % ({words})"
        for words, name in runs.items()
    )
    return Finding(
        11, "Freezing early blocks matters little",
        f"entropy drift within ±{POINT:g} %, accuracy within ±{POINT:g} point of full_ft; pairs of equal "
        "seed, whole intervals",
        f"entropy drift and accuracy with the first blocks frozen: {said}; one run each",
        tuple(checks), tuple(shown),
    )  # fmt: skip


def findings(answers: Answers) -> Iterator[Finding]:
    for find in (penalties, rank_and_matrices, freezing):
        yield find(answers)
