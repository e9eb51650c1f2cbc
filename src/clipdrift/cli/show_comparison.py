"""Terminal output of a comparison: the verdict, a table by family, a strip per measure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.cli.show import strip
from clipdrift.cli.show_index import index_table
from clipdrift.comparison import AT_ONE, FAMILIES, Compared, Comparison, Shape
from clipdrift.comparison.verdict import verdict
from clipdrift.outcomes.chance import NOT_MEASURABLE
from clipdrift.texts import decimal, drift, percent, share


def comparison_report(found: Comparison) -> RenderableType:
    """The verdict first, then notes, then the numbers."""
    shape = found.shape
    lines: list[RenderableType] = [Text(f"{found.base.name}  against  {found.tuned.name}", style="bold")]
    lines.append(
        Text(
            f"{sizes(shape)}; "
            f"{found.images.count} images of {found.images.source}"
            f"{'; the text towers are the same' if found.text_tower and found.text_tower.same else ''}",
            style="dim",
        )
    )
    lines += [Text(f"\n{line}" if i == 0 else line) for i, line in enumerate(verdict(found))]
    lines += [Text(f"note: {note}", style="yellow") for note in found.notes]
    lines.append(Text())
    lines.append(_table(found))
    if found.head:
        head = found.head
        told = f"head of TUNED on {head.target}: {percent(head.accuracy)} of {head.images} images"
        lines += [Text(), Text(f"{told}, {head.classes} classes (chance {head.chance:.1f} %)")]
    if found.beside:
        lines += [Text(), _beside(found)]
    if found.transfer:
        lines += [Text(), _transfer(found)]
    if found.retrieval:
        lines += [Text(), _retrieval(found)]
    if found.index:
        lines += [Text(), index_table(found.index)]
    if found.subsets:
        lines.append(_stability(found))
    return Group(*lines)


def sizes(shape: Shape) -> str:
    """Sizes of an image tower in words."""
    if not shape.heads:
        return f"{shape.blocks} blocks, no heads of attention that are read, {shape.patches} patches"
    return f"{shape.blocks} blocks, {shape.heads} heads, {shape.patches} patches"


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", no_wrap=True, min_width=26)
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right", no_wrap=True, min_width=7)
    table.add_column("by block, 1 first", no_wrap=True)
    for family in FAMILIES:
        rows = {name: v for name, v in found.measures.items() if v.family == family}
        if not rows:
            continue
        table.add_row(Text(family, style="bold"))
        for name, values in rows.items():
            shown = name.removeprefix("text_")  # its family says so, and lines are short
            table.add_row(f"  {shown}{_unit(values)}", *_cells(name, values))
    return table


def _unit(values: Compared) -> str:
    return f" ({values.unit.removesuffix(' of patches')})" if values.unit else ""


def _cells(name: str, values: Compared) -> list[RenderableType]:
    if values.value is not None:
        blocks = values.value_blocks
        shown = strip([v - 1 for v in blocks] if name in AT_ONE else blocks)
        return ["", decimal(values.value), "", _marked(shown, blocks)]
    assert values.before is not None
    assert values.after is not None
    change = drift(values.drift, values.absolute)
    blocks = values.drift_blocks
    return [decimal(values.before), decimal(values.after), change, _marked(strip(blocks), blocks, values)]


def _marked(shown: Text, blocks: tuple[float, ...], values: Compared | None = None) -> Text:
    """The strip with its largest value, by which its heights are scaled."""
    if not blocks:
        return Text()
    if values is None:
        return shown + Text(f"  {decimal(min(blocks))} to {decimal(max(blocks))}", style="dim")
    largest = max(blocks, key=abs)
    return shown + Text(f"  largest {drift(largest, values.absolute)}", style="dim")


def _beside(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("beside")
    table.add_column("weights", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("by block, 1 first", no_wrap=True)
    for other in found.beside:
        cosine = "" if other.cosine is None else decimal(other.cosine)
        blocks = "  ".join("-" if value is None else f"{value:.2f}" for value in other.cosine_blocks)
        table.add_row(Text(other.side.name), decimal(other.weight_drift), cosine, blocks)
    return table


def _transfer(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("zero-shot", "before", "after", "kept", "chance", "same class", "KL (nats)", "prompts"):
        table.add_column(title, justify="left" if title == "zero-shot" else "right")
    for name, row in found.transfer.items():
        kept = percent(row.retention) if row.measurable else NOT_MEASURABLE
        common = [f"{row.chance:.1f} %", f"{100 * row.agreement:.1f} %", decimal(row.kl)]
        table.add_row(Text(name), percent(row.before), percent(row.after), kept, *common, "1")
        if row.ensemble_before is not None and row.ensemble_after is not None:
            before, after = row.ensemble_before, row.ensemble_after
            kept = f"{100 * after / before:.1f} %" if row.measurable else ""
            blank = ["", "", "", str(len(row.prompts))]
            table.add_row("", f"{before:.1f} %", f"{after:.1f} %", kept, *blank)
        if row.crossed is not None:
            alone = {"images alone": row.crossed.tuned_image}
            alone |= {"texts alone": row.crossed.tuned_text}
            for label, value in alone.items():
                table.add_row(Text(f"  {label}", style="dim"), "", f"{value:.1f} %")
    return table


def _retrieval(found: Comparison) -> Table:
    assert found.retrieval is not None
    rows = found.retrieval
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (f"retrieval, {rows.images} images", "k", "before", "after"):
        table.add_column(title, justify="left" if "retrieval" in title else "right")
    for label, before, after in (
        ("image to text", rows.image_to_text_before, rows.image_to_text_after),
        ("text to image", rows.text_to_image_before, rows.text_to_image_after),
    ):
        for k in before:
            table.add_row(label, str(k), f"{100 * before[k]:.1f} %", f"{100 * after[k]:.1f} %")
    for label, ranks in (
        ("image to text", rows.image_to_text_rank),
        ("text to image", rows.text_to_image_rank),
    ):
        if ranks is not None:
            table.add_row(f"{label}, median rank", "", f"{ranks[0]:g}", f"{ranks[1]:g}")
    if rows.space_before is not None and rows.space_after is not None:
        old, new = rows.space_before.model_dump(), rows.space_after.model_dump()
        for name in old:
            table.add_row(name.replace("_", " "), "", decimal(old[name]), decimal(new[name]))
    return table


def _stability(found: Comparison) -> Text:
    assert found.subsets is not None
    entropy, cka = found.subsets.measures.get("entropy"), found.subsets.measures["cka"]
    parts = []
    if entropy is not None and entropy.after is not None:
        parts.append(f"entropy {share(100 * entropy.after)}")
    if cka.after is not None:
        parts.append(f"CKA {share(100 * cka.after)}")
    text = f"\nover {found.subsets.count} disjoint subsets of {found.subsets.images} images these vary by "
    return Text(text + ", ".join(parts) + " (coefficient of variation)", style="dim")
