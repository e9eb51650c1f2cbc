"""Text of rows: their ``group`` and ``statistic`` in words. Nothing reads it back."""

from __future__ import annotations

from clipdrift.outcomes.keys import Estimand, Group, Matching, Name

_STATISTICS: dict[Name, str] = {
    "Pearson": "Pearson of {signal} with {outcome}",
    "Spearman": "Spearman of {signal} with {outcome}",
    "correlation with": "correlation with {outcome}",
    "with": "{signal} with {outcome}",
    "oriented rho": "oriented rho of {signal} - of {term}, with {outcome}",
    "AUC": "AUC of {signal} for {outcome} < {level:g} %",
    "mean": "mean of {outcome}",
    "mean difference": "mean difference of {outcome}",
    "t": "t of {outcome}",
    "U": "U of {outcome}",
    "W": "W of {outcome}",
    "outcome": "{outcome}",
    "mixed model": "mixed model of {outcome}",
    "depth": "{outcome} by depth",
    "early blocks": "{outcome}, early blocks, mean drift in %",
    "middle blocks": "{outcome}, middle blocks, mean drift in %",
    "late blocks": "{outcome}, late blocks, mean drift in %",
    "late against others": "{outcome}, late blocks' |drift| minus the others', points",
    "foremost block": "{outcome}, block of the largest drift",
    "F by third": "F of {outcome} by third",
    "regret": "regret in {outcome} of the pick by {signal}",
    "regret in": "regret in {outcome}",
    "nothing to choose": "regret",
    "Pareto set": "{outcome} on the Pareto set of {signal} and {outcome}",
    "onset step": "step at which entropy has fallen by {level:g} %",
    "steepest step": "largest change of entropy per step, % of the backbone's",
    "spread of last epochs": "spread of the last {level:g} epochs' validation accuracy, points",
    "above the line": "{outcome}: most above the line between the ends, points",
    "nothing": "{term}",
}
"""A statistic's name -> its words; of those that are not here the name itself."""
_MATCHINGS: dict[Matching, str] = {"all rates": ", all common rates"}


def group_words(group: Group) -> str:
    """``pets: full_ft - lora, matched rate``."""
    rate = "" if group.rate is None else f", rate {group.rate:g}"
    match group.population:
        case "all":
            return "all"
        case "place":
            return str(group.place)
        case "method":
            return f"{group.place}, {group.method}"
        case "within places":
            return "within target, pooled"
        case "within methods":
            return "within target x method, pooled"
        case "run":
            return f"{group.place}: {group.arm}{rate}, seed {group.seed} ({group.run})"
        case "two arms":
            sides = f"{group.place}: {group.arm} - {group.against}"
            if group.matching in ("rate", "blocks"):
                return f"{sides}{rate}{', by block' if group.matching == 'blocks' else ''}"
            return sides + _MATCHINGS.get(group.matching, f", {group.matching}" if group.matching else "")
        case _:
            return f"{group.place}: {group.arm}{rate}"


def statistic_words(statistic: Estimand, group: Group) -> str:
    """``Spearman of epoch1_entropy_drift with retention_cifar100``."""
    signal = f"{statistic.moment}_{statistic.signal}" if statistic.moment else statistic.signal
    outcome = statistic.outcome
    if group.matching == "blocks":  # of the blocks themselves, no column of the runs
        outcome = outcome.replace("_", " ")
    words = _STATISTICS.get(statistic.name, statistic.name).format(
        signal=signal, outcome=outcome, term=statistic.term, level=statistic.level
    )
    if statistic.name == "mixed model" and (signal or statistic.term):
        words += f": {' x '.join(filter(None, (signal, statistic.term)))}"
    return f"{words}, over {statistic.over}s" if statistic.over else words
