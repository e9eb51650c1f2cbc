"""The verdict of a comparison in words: how far, where, and what it did to transfer. Loads no torch.

It rests on what is shown to order lost transfer across configurations, the change of the representation
(CKA, embedding drift); attention is described and not judged. It computes nothing: every number is a field
of the comparison.
"""

from __future__ import annotations

from clipdrift.comparison import Compared, Comparison, CrossedTowers, TransferRow
from clipdrift.comparison.index_words import index_lines
from clipdrift.listing import absences
from clipdrift.texts import drift, share

_WORDS = ((0.995, "hardly moved"), (0.95, "moved a little"), (0.8, "moved clearly"), (-1.0, "moved far"))
"""By debiased CKA, mean over blocks. Names for a reader, not thresholds that were tested."""


def verdict(found: Comparison) -> list[str]:
    """Lines for a reader, the most important first."""
    lines = [_how_far(found), *_grafted(found), *_interpolated(found), *_where(found)]
    lines += [*_beside(found), *_texts(found)]
    index = [] if found.index is None else index_lines(found.index)
    lines += [*_head(found), *_transfer(found), *index]
    return lines if _images_alike(found) else [*lines, *_attention(found)]


def _images_alike(found: Comparison) -> bool:
    """Whether TUNED is a text tower alone, so that both image towers are BASE's."""
    return "image tower" in found.tuned.grafted


def _grafted(found: Comparison) -> list[str]:
    """What TUNED lacks, and what zero-shot is therefore that of."""
    *first, last = found.tuned.grafted or ("",)
    if not last:
        return []
    parts = f"{', '.join(first)} and {last}" if first else last
    own = (
        "BASE's image tower with TUNED's text tower"
        if _images_alike(found)
        else f"TUNED's image tower with BASE's {'projection and ' * _lends_projection(found)}text tower"
    )
    return [f"TUNED is half a model: {parts} are BASE's, so zero-shot is that of {own}."]


def _interpolated(found: Comparison) -> list[str]:
    """Whose positions are not those of its file."""
    return [
        f"{name}'s positions were interpolated from images of {side.interpolated_from} pixels to those of "
        f"{found.shape.image_size}, so it is not the model that was trained."
        for name, side in (("BASE", found.base), ("TUNED", found.tuned))
        if side.interpolated_from is not None
    ]


def _lends_projection(found: Comparison) -> bool:
    return "visual projection" in found.tuned.grafted


def _head(found: Comparison) -> list[str]:
    head = found.head
    if head is None:
        return []
    return [
        f"TUNED's own head on {head.target}: {head.accuracy:.1f} % of {head.images} images (chance "
        f"{head.chance:.1f} %)."
    ]


def _how_far(found: Comparison) -> str:
    if _images_alike(found):
        return (
            "The image tower is BASE's own, since TUNED is a text tower alone: what is measured on images "
            "compares BASE with itself."
        )
    cka, turned, weight = (_value(found, name) for name in ("cka", "embedding_drift", "weight_drift"))
    if weight == 0 and turned < 1e-9:
        return "The image tower of TUNED is that of BASE: none of its weights differs."
    word = next(word for least, word in _WORDS if cka >= least)
    return (
        f"The image tower {word}: CKA with BASE {_three(cka)} (1 = unchanged), embedding drift "
        f"{_three(turned)} (0 = unchanged), weights changed by {share(100 * weight)}."
    )


def _where(found: Comparison) -> list[str]:
    cka = found.measures["cka"].value_blocks
    lines = []
    if len(cka) > 1 and min(cka) < 0.9999:
        lowest = min(range(len(cka)), key=cka.__getitem__)
        lines.append(
            f"CKA falls from {_three(cka[0])} after block 1 to {_three(cka[-1])} after block {len(cka)}; "
            f"it is lowest after block {lowest + 1} ({_three(cka[lowest])})."
            if cka[-1] < cka[0]
            else f"CKA is lowest after block {lowest + 1} ({_three(cka[lowest])})."
        )
    kinds = {
        name.removeprefix("weight_drift_"): values.value
        for name, values in found.measures.items()
        if name.startswith("weight_drift_") and values.value
    }
    if kinds:
        most = max(kinds, key=lambda kind: kinds[kind] or 0)
        lines.append(
            f"Relative to their size, most changed: {_KINDS[most]} ({share(100 * (kinds[most] or 0))})."
        )
    return lines


def _beside(found: Comparison) -> list[str]:
    """Whether what was added points the way of other models of BASE; a line for each that was named."""
    lines = []
    for other in found.beside:
        if other.cosine is None:
            still = "TUNED's" if other.weight_drift else "its"
            lines.append(
                f"Beside {other.side.name}: {still} image tower is BASE's own, so there is no angle."
            )
            continue
        known = {at: value for at, value in enumerate(other.cosine_blocks, start=1) if value is not None}
        text = (
            f"Beside {other.side.name}, which moved by {share(100 * other.weight_drift)}: the cosine between "
            f"what both added to BASE is {_three(other.cosine)} (1: the same way, 0: at right angles)"
        )
        if len(known) > 1:
            least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            text += f", from {_three(known[least])} in block {least} to {_three(known[most])} in block {most}"
        lines.append(f"{text}.")
    return lines


_KINDS = {
    "projection": "the visual projection",
    "q": "the query matrices",
    "k": "the key matrices",
    "v": "the value matrices",
    "out": "the attention's output matrices",
    "fc1": "the MLPs' first matrices",
    "fc2": "the MLPs' second matrices",
    "fc1_g": "the MLPs' gates",
    "fc1_x": "what the MLPs' gates let through",
    "conv1": "the first convolutions of residual blocks",
    "conv2": "the second convolutions of residual blocks",
    "conv3": "the third convolutions of residual blocks",
    "conv_dw": "the depthwise convolutions",
}


def _texts(found: Comparison) -> list[str]:
    """What moved in the text tower; nothing where it is the same on both sides."""
    towers = found.text_tower
    if towers is None or towers.same:
        return []
    weights = f"weights changed by {share(100 * _value(found, 'text_weight_drift'))}"
    if not towers.count:
        return [f"The text tower moved: {weights}."]
    cka = found.measures["text_cka"]
    last = (cka.value_blocks or (cka.value or 0.0,))[-1]
    return [
        f"The text tower moved, on {towers.count} {towers.source}: CKA of the last block {_three(last)}, "
        f"embedding drift {_three(_value(found, 'text_embedding_drift'))}, {weights}."
    ]


def _transfer(found: Comparison) -> list[str]:
    if not found.transfer:
        return [
            "What is left of its zero-shot ability was not tested: name a set with --transfer. Across the "
            "configurations of one study a lower CKA went with more lost transfer, but no CKA promises a "
            "retention."
        ]
    lines = []
    for name, row in found.transfer.items():
        kept, doubt = "", "; BASE is not above chance here, so what was kept is not measurable"
        if row.measurable:
            kept, doubt = "" if row.retention is None else f", {row.retention:.1f} % of it kept", ""
        lines.append(
            f"Zero-shot on {name}: {row.before:.1f} % before, {row.after:.1f} % after{kept} (chance "
            f"{row.chance:.1f} %){doubt}."
        )
        if row.crossed is not None and row.measurable:
            lines.append(_whose(row, row.crossed))
    return lines


def _whose(row: TransferRow, crossed: CrossedTowers) -> str:
    """Which tower's change costs what, where both have changed."""
    image, text = row.before - crossed.tuned_image, row.before - crossed.tuned_text
    more = "image" if image > text else "text"
    most = "" if abs(image - text) < 1 else f" The {more} tower's change costs more."
    return (
        f"TUNED's image tower with BASE's text tower: {crossed.tuned_image:.1f} %; BASE's image tower with "
        f"TUNED's text tower: {crossed.tuned_text:.1f} %.{most}"
    )


def _attention(found: Comparison) -> list[str]:
    """What became of attention, and which measures there are none of."""
    entropy = found.measures.get("entropy")
    told = [] if entropy is None else [_told_of_attention(found, entropy)]
    return [*told, *absences(found.shape.absent)]


def _told_of_attention(found: Comparison, entropy: Compared) -> str:
    text = (
        f"Attention of the {found.shape.reader}: entropy {_three(entropy.before or 0)} to "
        f"{_three(entropy.after or 0)} {entropy.unit} ({drift(entropy.drift, entropy.absolute)})"
    )
    blocks = entropy.drift_blocks
    if blocks:
        block = max(range(len(blocks)), key=lambda i: abs(blocks[i]))
        text += f", most in block {block + 1} ({drift(blocks[block], entropy.absolute)})"
    return f"{text}. Its sign alone does not tell what transfer was lost."


def _value(found: Comparison, name: str) -> float:
    value = found.measures[name].value
    assert value is not None
    return value


def _three(value: float) -> str:
    return f"{value:.3f}"
