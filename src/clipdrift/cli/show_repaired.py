"""Terminal output of a repair: a row per step, or before and after."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.cli.show_comparison import sizes
from clipdrift.comparison import FAMILIES, Compared
from clipdrift.repair import Repaired, Step
from clipdrift.texts import decimal, drift, percent

_TITLES = {"interpolate": "path", "rewind": "blocks put back", "soften": "intruder dimensions"}


def repaired_report(found: Repaired) -> RenderableType:
    """The table, then the words, then notes."""
    shape = found.shape
    title = f"{found.base.name}  to  {found.tuned.name}: {_TITLES[found.kind]}"
    said = f"{sizes(shape)}; {found.images.count} images of {found.images.source}"
    said += f"; accuracy on {found.accuracy_of}" if found.accuracy_of else "; no head, so no accuracy"
    steps = found.kind == "interpolate" or len(found.steps) > 2
    lines: list[RenderableType] = [Text(title, style="bold"), Text(said, style="dim"), Text()]
    lines += [_by_step(found) if steps else _by_measure(found), Text()]
    lines += [Text(line) for line in found.summary().splitlines()]
    lines += [Text(f"note: {note}", style="yellow") for note in found.notes]
    return Group(*lines)


def _by_step(found: Repaired) -> Table:
    """One row per step, the columns that matter."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", no_wrap=True)
    accurate, sets = bool(found.accuracy_of), list(found.transfer)
    heads = ["accuracy"] * accurate
    # with several sets their accuracies would not fit; they stand in the files
    heads += ["zero-shot", "kept"] if len(sets) == 1 else [f"kept on {name}" for name in sets]
    intruded = any(sum(step.intruders.values()) for step in found.steps)
    attends = all("entropy" in step.measures for step in found.steps)
    heads += ["intruders"] * intruded + ["CKA", "embedding", "weights"] + ["entropy"] * attends
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for index, step in enumerate(found.steps):
        cells = [percent(step.accuracy)] * accurate
        if len(sets) == 1:
            cells.append(percent(step.transfer[sets[0]].accuracy))
        cells += [percent(step.transfer[name].retention) for name in sets]
        cells += [str(sum(step.intruders.values()))] * intruded
        cells += [decimal(step.value(name)) for name in ("cka", "embedding_drift", "weight_drift")]
        if attends:
            entropy = step.measures["entropy"]
            cells.append(drift(entropy.drift, entropy.absolute))
        mark = index == found.chosen
        label = f"{step.label}{'  <' * mark}"
        table.add_row(Text(label), *cells, style="bold" if mark else None)
    return table


def _by_measure(found: Repaired) -> Table:
    """One row per measure, the backbone and every step side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", no_wrap=True)
    table.add_column("backbone", justify="right")
    for step in found.steps:
        table.add_column(step.label, justify="right")
    if found.accuracy_of:
        table.add_row("accuracy", "", *(percent(step.accuracy) for step in found.steps))
    for name, tested in found.transfer.items():
        table.add_row(
            Text(f"zero-shot {name}"), f"{tested.before:.1f} %", *(_kept(step, name) for step in found.steps)
        )
    first = found.steps[0]
    if sum(first.intruders.values()):
        for kind, count in first.intruders.items():
            if count:
                left = [str(step.intruders[kind]) for step in found.steps]
                table.add_row(f"intruder dimensions, {kind}", "0", *left)
    for family in FAMILIES:
        for name, values in first.measures.items():
            if values.family == family:
                before = "" if values.before is None else decimal(values.before)
                cells = [_cell(step.measures[name]) for step in found.steps]
                table.add_row(name, before, *cells)
    return table


def _cell(values: Compared) -> str:
    if values.value is not None:
        return decimal(values.value)
    assert values.after is not None
    return f"{decimal(values.after)}  {drift(values.drift, values.absolute)}"


def _kept(step: Step, name: str) -> str:
    row = step.transfer[name]
    kept = "" if row.retention is None else f", {row.retention:.1f} %"
    return f"{row.accuracy:.1f} %{kept}"
