"""A forecast in sentences: what there is to gain, which rates, what of it the studies bear out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clipdrift.decision.result import Estimate
from clipdrift.forecasting.result import FirstStep, Forecast
from clipdrift.forecasting.tested import Tested
from clipdrift.texts import decimal, fixed, percent, rate

KEPT, GAINED = "zero-shot accuracy kept, %", "accuracy gained over zero-shot, points"
JUDGED_BY = {
    "drift": KEPT, "cka_loss": KEPT, "transfer_drift": KEPT, "gradient": KEPT, "zero_shot": GAINED,
    "probe": GAINED, "room": GAINED, "entropy": KEPT, "overlap": KEPT,
}  # fmt: skip
"""The outcome that a number of a forecast would have to order to give advice."""


def words(found: Forecast) -> list[str]:
    """Lines for a reader, the most important first."""
    return [
        *_gain(found),
        *_rates(found),
        *_loss(found),
        *without_advice(found),
        *(f"Not computed: {name}: {why}." for name, why in _missing(found)),
        *(f"note: {note}" for note in found.notes),
    ]


def _gain(found: Forecast) -> Iterator[str]:
    if found.zero_shot is None or found.probe is None or found.room is None:
        return
    zero, probe, room = found.zero_shot, found.probe, found.room
    yield (
        f"On {found.images.source} the model knows {spanned(zero)} by its class names; a linear probe on its "
        f"embeddings reaches {spanned(probe)}: {room.value:+.1f} points ({room.low:+.1f} to "
        f"{room.high:+.1f}) without moving the image tower."
        if room.low is not None and room.high is not None
        else f"On {found.images.source}: zero-shot {spanned(zero)}, linear probe {spanned(probe)}."
    )


def _rates(found: Forecast) -> Iterator[str]:
    advice, method = found.suggestion, found.method["name"]
    if not found.first_steps:
        return
    first = "first step" if found.steps == 1 else f"first {found.steps} steps"
    if advice is None:
        yield f"No rates are suggested: no threshold for the drift of the {first} was tested."
        return
    bound = f"the drift of the {first} stays below {fixed(advice.threshold)}"
    highest = found.first_steps[-1].rate
    if advice.most is None:
        smallest = rate(found.first_steps[0].rate)
        yield (
            f"Even {smallest}, the smallest candidate, moves more than runs that kept "
            f"{advice.level:.0f} % did ({first} below {fixed(advice.threshold)}): try smaller rates."
        )
    elif advice.open_above:
        yield (
            f"{method}: at every candidate up to {rate(highest)} {bound}, as in runs that kept "
            f"{advice.level:.0f} % of their zero-shot accuracy; larger rates may do too."
        )
    else:
        ends = ""
        if advice.low is not None and advice.high is not None and advice.low < advice.high:
            ends = f" ({_two(advice.low)} to {_two(advice.high)} over draws)"
        yield (
            f"{method}: rates up to {_two(advice.most)}{ends}: there {bound}, as in runs that kept "
            f"{advice.level:.0f} % of their zero-shot accuracy."
        )
    yield (
        f"That threshold is from {advice.source}. On targets left out of the choice it caught "
        f"{100 * advice.sensitivity:.0f} % of what lost more; it is no bound for other models."
    )
    if method not in advice.methods:
        yield f"None of those runs was trained by {method}; they were by {', '.join(advice.methods)}."


def _two(value: float) -> str:
    """A rate with two digits, never rounded up."""
    power = math.floor(math.log10(value)) - 1
    return rate(math.floor(value / 10.0**power + 1e-9) * 10.0**power)


def _loss(found: Forecast) -> Iterator[str]:
    for name, facts in found.transfer.items():
        yield f"At stake on {name}: {spanned(facts.zero_shot)} zero-shot."


def without_advice(found: Forecast) -> Iterator[str]:
    """The numbers that give no advice, with what became of them in the committed studies."""
    shown = values(found)
    by_why: dict[str, list[str]] = {}
    for name, text in shown.items():
        one = tested(found, name)
        if one is not None and one.verdict != "predicts":
            by_why.setdefault(f"{one.verdict} ({one.why})", []).append(text)
    for why, texts in by_why.items():
        yield f"No advice follows from {', '.join(texts)}: {why}."


def values(found: Forecast) -> dict[str, str]:
    """The numbers that know no rate, in words, by the name under which they were tested."""
    shown = {}
    if found.entropy is not None:
        shown["entropy"] = f"entropy {decimal(found.entropy.value)} (1: no idea which class)"
    for name, facts in found.transfer.items():
        if facts.overlap is not None:
            shown["overlap"] = f"CKA with {name} {decimal(facts.overlap)}"
    if found.gradient is not None:
        shown["gradient"] = f"gradient norm {decimal(found.gradient.total)}"
    if found.room is not None:
        shown["room"] = f"room to gain {found.room.value:+.1f} points"
    return shown


def computed(found: Forecast) -> list[str]:
    """The numbers that were computed, by the name under which they were tested."""
    there = {
        "drift": bool(found.first_steps),
        "cka_loss": bool(found.first_steps),
        "transfer_drift": bool(found.first_steps and found.transfer),
        "gradient": found.gradient is not None,
        "overlap": any(facts.overlap is not None for facts in found.transfer.values()),
    }
    return [name for name in JUDGED_BY if there.get(name, getattr(found, name, None) is not None)]


def tested(found: Forecast, number: str) -> Tested | None:
    """What became of a number in the committed studies, beside the outcome it would have to order."""
    outcome = JUDGED_BY[number]
    suffix = (
        f"_{found.steps}" if found.steps > 1 and number in ("drift", "cka_loss", "transfer_drift") else ""
    )
    return next(
        (one for one in found.tested if (one.number, one.outcome) == (number + suffix, outcome)), None
    )


def standing(found: Forecast, step: FirstStep) -> str:
    """How a rate stands to the threshold, in a word; or in how many draws it broke the model."""
    if step.broken:
        return f"broke the model in {step.broken} of {found.draws} draws"
    if found.suggestion is None or step.drift is None:
        return ""
    return "above" if step.drift >= found.suggestion.threshold else "below"


def _missing(found: Forecast) -> Iterator[tuple[str, str]]:
    """What was not computed, and why, together where the reason is the same."""
    by_why: dict[str, list[str]] = {}
    for name, why in found.missing.items():
        by_why.setdefault(why.rstrip("."), []).append(name.replace("_", " "))
    for why, names in by_why.items():
        yield " and ".join(names), why


def spanned(estimate: Estimate) -> str:
    """``19.5 % (15.8 to 23.5)``."""
    text = percent(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:.1f} to {estimate.high:.1f})"
