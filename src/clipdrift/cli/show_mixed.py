"""Terminal output of a mix: a row for each model, then the cosines, then the words."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.mixing import Mixed
from clipdrift.repair import Step
from clipdrift.texts import decimal, drift, percent


def mixed_report(found: Mixed) -> RenderableType:
    """The table, the words, notes; where several runs were mixed, the cosine of every pair."""
    shape = found.shape
    said = (
        f"{shape.blocks} blocks, {shape.heads} heads, {shape.patches} patches; "
        f"{found.images.count} images of {found.images.source}; accuracy on {found.accuracy_of}"
    )
    lines: list[RenderableType] = [
        Text(f"{len(found.runs)} runs on {found.base.name}, mixed", style="bold"),
        Text(said, style="dim"),
        Text(),
        _models(found),
        Text(),
        _cosines(found),
        Text(),
    ]
    lines += [Text(line) for line in found.summary().splitlines()]
    lines += [Text(f"note: {note}", style="yellow") for note in found.notes]
    return Group(*lines)


def _models(found: Mixed) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", overflow="fold")  # in narrow windows words give way, never numbers
    table.add_column("of runs", overflow="fold")
    sets = list(found.transfer)
    heads = (
        ["accuracy", "zero-shot", "kept"] if len(sets) == 1 else ["accuracy", *(f"kept on {s}" for s in sets)]
    )
    for head in [*heads, "CKA", "embedding", "weights", "entropy"]:
        table.add_column(head, justify="right", no_wrap=True)
    inside = {mix.step.label: "+".join(map(str, mix.runs)) for mix in found.mixes.values()}
    chosen = None if found.chosen is None else found.mixes[found.chosen].step.label
    for label, step in found.steps.items():
        mark = label == chosen
        name = Text(f"{label}{'  <' * mark}")
        table.add_row(name, inside.get(label, ""), *_cells(step, sets), style="bold" if mark else None)
    return table


def _cells(step: Step, sets: list[str]) -> list[str]:
    cells = [percent(step.accuracy)]
    if len(sets) == 1:
        cells.append(percent(step.transfer[sets[0]].accuracy))
    cells += [percent(step.transfer[name].retention) for name in sets]
    cells += [decimal(step.value(name)) for name in ("cka", "embedding_drift", "weight_drift")]
    entropy = step.measures["entropy"]
    return [*cells, drift(entropy.drift, entropy.absolute)]


def _cosines(found: Mixed) -> Table:
    """The cosine of every pair, and its range over blocks."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task vectors of runs", no_wrap=True)
    for title in ("cosine", "least by block", "most by block"):
        table.add_column(title, justify="right", no_wrap=True)
    for pair in found.cosines:
        blocks = [value for value in pair.blocks if value is not None]
        cells = ["" if pair.value is None else decimal(pair.value)]
        cells += [decimal(min(blocks)), decimal(max(blocks))] if blocks else ["", ""]
        table.add_row(f"{pair.one} and {pair.other}", *cells)
    return table
