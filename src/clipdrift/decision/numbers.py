"""The number of a comparison that a rule is about, or why there is none. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipdrift.comparison import AT_ONE, Compared, Comparison, Retrieval
from clipdrift.listing import MEASURES, why_absent
from clipdrift.outcomes.chance import chance_note
from clipdrift.rules import BY_MATRIX, BY_SET, DIRECTIONS, OF_ROWS, RECALLS, WORST, Rule

_OF_IMAGES = ("attention", "flow", "representation", "weights")
"""Families of measures of the image tower."""


class NotMeasured(Exception):  # noqa: N818 - an outcome of one rule, not a failure
    """There is no such number in this comparison; says why."""


@dataclass(frozen=True)
class Number:
    """Value of a rule's measure.

    Attributes:
        value: with its sign.
        block: from 1, where it is that of one block.
        images: of a transfer set, how many it was tested on.
    """

    value: float
    block: int | None = None
    images: int | None = None


def spread_out(rules: Iterable[Rule], sets: Sequence[str]) -> tuple[Rule, ...]:
    """Rules with one number each: one for each transfer set or direction where a rule names none."""
    found: list[Rule] = []
    for rule in rules:
        parts = sets if rule.name in BY_SET else DIRECTIONS if rule.name in RECALLS else ()
        found += [rule] if rule.part or not parts else [rule.of(part) for part in parts]
    return tuple(found)


def number_of(found: Comparison, rule: Rule) -> Number:
    """Look up the number that ``rule`` bounds.

    Raises:
        NotMeasured: it is not there, and why.
    """
    name = rule.name
    if name == "accuracy":
        raise NotMeasured(
            "it needs a head trained on the target; what a check measures is zero_shot_accuracy"
        )
    if name in OF_ROWS:
        raise NotMeasured(f"{name} is measured while a model trains, by a DriftMonitor; a check does not")
    if name in BY_SET:
        return _of_set(found, rule)
    if name in RECALLS:
        return _recall(found.retrieval, rule)
    drift = name not in MEASURES
    plain = name.removesuffix("_drift") if drift else name
    lacks_images = "image tower" in found.tuned.grafted
    if lacks_images and (plain not in MEASURES or MEASURES[plain].family in _OF_IMAGES):
        raise NotMeasured("TUNED is a text tower alone; the image tower is BASE's own on both sides")
    if name in BY_MATRIX:
        return _of_matrices(found, rule)
    entry = found.measures.get(plain)
    if entry is None:
        return _without(found, plain, drift)
    if drift and (entry.drift is None or entry.absolute):
        raise NotMeasured(
            f"{plain} of BASE is zero somewhere or changes its sign, so its change has no percentage; bound "
            f"{plain} itself"
        )
    whole, blocks = _values(entry, drift)
    return _of_blocks(rule, whole, blocks)


def _values(entry: Compared, drift: bool) -> tuple[float, tuple[float, ...]]:
    if drift:
        assert entry.drift is not None
        return entry.drift, entry.drift_blocks
    if entry.value is not None:
        return entry.value, entry.value_blocks
    assert entry.after is not None
    return entry.after, entry.after_blocks


def _of_blocks(rule: Rule, whole: float, blocks: Sequence[float]) -> Number:
    if not rule.part:
        return Number(whole)
    if not blocks:
        raise NotMeasured(f"{rule.name} has one value here and none for each block")
    if rule.part == WORST:
        block = worst(rule, blocks) + 1
    else:
        assert rule.block is not None
        block = rule.block
    if block > len(blocks):
        raise NotMeasured(f"the model has {len(blocks)} blocks")
    return Number(blocks[block - 1], block)


def worst(rule: Rule, values: Sequence[float]) -> int:
    """Position of the value that is nearest to breaking a rule, or furthest beyond it."""
    sizes = [abs(value) for value in values] if rule.magnitude else list(values)
    return sizes.index(min(sizes) if rule.at_least else max(sizes))


def _of_set(found: Comparison, rule: Rule) -> Number:
    row = found.transfer.get(rule.part)
    if row is None:
        tested = ", ".join(found.transfer) or "none"
        raise NotMeasured(f"no transfer set {rule.part or 'was named'}; tested: {tested} (--transfer)")
    if rule.name == "retention":
        if row.retention is None or not row.measurable:
            raise NotMeasured(
                chance_note(rule.part, row.before, row.images, row.classes) or "BASE is not above chance"
            )
        return Number(row.retention, images=row.images)
    values = {"zero_shot_accuracy": row.after, "zero_shot_agreement": row.agreement, "zero_shot_kl": row.kl}
    return Number(values[rule.name], images=row.images)


def _recall(found: Retrieval | None, rule: Rule) -> Number:
    if found is None:
        raise NotMeasured("the images have no captions, so there is nothing to retrieve")
    recalls = found.image_to_text_after if rule.part == DIRECTIONS[0] else found.text_to_image_after
    k = int(rule.name.rpartition("_")[2])
    if k not in recalls:
        raise NotMeasured(f"too few captioned images for recall at {k}")
    return Number(recalls[k], images=found.images)


def _of_matrices(found: Comparison, rule: Rule) -> Number:
    kind = "" if rule.part == WORST else rule.part
    rows = [row for row in found.spectra if not kind or row.kind == kind]
    if not rows:
        raise NotMeasured(
            f"no {f'{kind} ' if kind else ''}matrix has changed, or BASE's weights were not there to compare"
        )
    values = [row.effective_rank if rule.name == "effective_rank" else float(row.intruders) for row in rows]
    if rule.part == WORST:
        return Number(values[worst(rule, values)])
    return Number(sum(values) / len(values))


def _without(found: Comparison, name: str, drift: bool) -> Number:
    """The number of a measure that a comparison leaves out: known where the text towers are the same."""
    entry = MEASURES[name]
    if reason := why_absent(found.shape.absent, name):
        raise NotMeasured(f"these models have no {name}: {reason}")
    if entry.family == "text" and found.text_tower is not None and found.text_tower.same:
        if drift or name.endswith("_drift") or "weight_drift" in name:
            return Number(0.0)
        if name in AT_ONE:
            return Number(1.0)
        raise NotMeasured("the text towers are the same, and so were not measured; bound its _drift instead")
    if entry.family == "weights":
        raise NotMeasured("it needs BASE's weights, which a baseline does not hold; give BASE itself")
    if entry.family == "text":
        raise NotMeasured("the text towers were not measured; the notes say why")
    if entry.family == "flow":
        raise NotMeasured("whole attention maps were not read; a baseline made by --save-baseline has them")
    raise NotMeasured(f"{name} was not measured on these models")
