"""Terminal output of a run: a progress bar, then a compact table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from clipdrift.errors import printable
from clipdrift.outcomes.chance import NOT_MEASURABLE, answers, measurable
from clipdrift.runs.record import Point, Recall, Record, Values
from clipdrift.texts import decimal, percent
from clipdrift.texts import rate as rate_text

console = Console()
_STRIP = "▁▂▃▄▅▆▇█"


class RunDisplay:
    """A reporter with one bar: stages by name, then training with loss, accuracy, entropy drift and CKA.

    Args:
        shown: where it is shown, unless on :data:`console`.
    """

    def __init__(self, shown: Console | None = None) -> None:
        self._console = shown or console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._note = ""
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._bar.stop()

    @property
    def bar(self) -> Progress:
        """Renderable bar, for a display that holds this one."""
        return self._bar

    def clear(self) -> None:
        """Show that nothing is going on."""
        self._close()

    def _close(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def stage(self, text: str) -> None:
        self._close()
        self._note = ""
        self._task = self._bar.add_task(text, total=None, note="")

    def warn(self, text: str) -> None:
        self._console.print(Text(f"warning: {printable(text)}", style="yellow"), soft_wrap=True)

    def note(self, text: str) -> None:
        if text not in self._noted:  # the runs of a study read the same data
            self._noted.add(text)
            self._console.print(Text(f"note: {printable(text)}", style="yellow"), soft_wrap=True)

    def advance(self, done: int, total: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def step(self, step: int, steps: int, loss: float) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, note=f"loss {loss:.3f}  {self._note}")

    def point(self, point: Point) -> None:
        entropy, cka = point.measures.get("entropy"), point.measures["cka"]
        validation = point.validation_accuracy
        self._note = "  ".join(
            [
                *([] if validation is None else [f"{_what(point)} {validation:.1f} %"]),
                *([] if entropy is None else [f"entropy {entropy.drift_text()}"]),
                f"CKA {cka.mean:.3f}",
            ]
        )
        if point.ends_epoch and not console.is_terminal:  # a log keeps a line per epoch, a terminal the bar
            console.print(f"epoch {point.epoch}  loss {point.train_loss:.3f}  {self._note}")


class PretrainDisplay(RunDisplay):
    """Display that keeps every stage's line, since these carry the zero-shot accuracy as it grows."""

    def stage(self, text: str) -> None:
        if text.startswith("step "):
            console.print(text)
        else:
            super().stage(text)


def _what(point: Point) -> str:
    return "recall at 1" if point.retrieval else "accuracy"


def strip(values: Sequence[float]) -> Text:
    """One character per block, its height the size of the change, blue for up and red for down."""
    largest = max((abs(v) for v in values), default=0.0)
    text = Text()
    for value in values:
        height = 0 if largest == 0 else round(abs(value) / largest * (len(_STRIP) - 1))
        text.append(_STRIP[height], style="blue" if value >= 0 else "red")
    return text


def run_table(record: Record, folder: Path) -> RenderableType:
    """The end of a run: what it is, accuracy, drift per measure, retention, where the files are."""
    config = record.config
    title = f"{config.method.name} on {config.data.target.name}, rate {rate_text(config.optim.learning_rate)}"
    title += f", run {record.key}"
    if record.status != "done":
        return Text(
            f"{title}\n{record.status}: {record.reason}\nrecord    {folder / 'record.json'}", style="red"
        )
    lines: list[RenderableType] = [Text(title, style="bold")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading, _ in _moments(record):
        table.add_column(heading, justify="right")
    for label, cells in _rows(record):
        table.add_row(label, *cells)
    lines.append(table)
    measures = _moments(record)[0][1].measures
    entropy = measures["entropy"].drift_blocks if "entropy" in measures else ()
    if entropy:  # a pooling head's attention has no blocks
        marked = Text("entropy drift by block  1 ") + strip(entropy) + Text(f" {len(entropy)}   ")
        lines.append(
            marked + Text(f"largest {max(entropy, key=abs):+.1f} %  (blue up, red down)", style="dim")
        )
    lines += [Text(note, style="dim") for note in record.model.notes]
    lines += [Text(f"step {remark.step}: {remark.text}", style="yellow") for remark in record.remarks]
    bad = sum(len(images.bad) for images in record.target.images.values())
    bad += sum(len(images.bad) for facts in record.transfer.values() for images in facts.images.values())
    if bad:
        lines.append(Text(f"{bad} unreadable images left out; the record lists them", style="yellow"))
    lines.append(Text(f"record    {folder / 'record.json'}"))
    if record.artefacts:
        lines.append(Text(f"weights   {folder / record.artefacts['weights']}  ({record.artefacts['kind']})"))
    return Group(*lines)


def _moments(record: Record) -> list[tuple[str, Point]]:
    found = []
    if record.best is not None:
        found.append((f"chosen epoch {record.best.epoch}", record.best))
    if record.last is not None and record.best is not None and record.last.epoch != record.best.epoch:
        found.append((f"last epoch {record.last.epoch}", record.last))
    return found


def _rows(record: Record) -> list[tuple[str, list[str]]]:
    points = [point for _, point in _moments(record)]
    what = "accuracy" if record.target.classes else "recall at 1"
    rows = [
        (f"validation {what}", [percent(p.validation_accuracy) for p in points]),
        (f"test {what}{_before(record)}", [percent(p.test_accuracy) for p in points]),
        *_retrieval(record, points),
    ]
    for name, was in record.backbone.measures.items():
        unit = f" {record.units[name]}" if record.units.get(name) else ""
        rows.append((f"{name} (before {was.mean:.3f}{unit})", [_change(p.measures[name]) for p in points]))
    compared = ("cka", "embedding_drift", "weight_drift")
    for name in (*compared, *(f"text_{name}" for name in compared if f"text_{name}" in points[0].measures)):
        rows.append((name, [decimal(p.measures[name].mean) for p in points]))
    for name, before in record.backbone.zero_shot.items():
        cells = []
        for point in points:
            now = point.transfer[name]
            kept = "" if now.retention is None else f"  keeps {now.retention:.1f} %"
            if not measurable(record.chance_p(name)):
                kept = f"  {NOT_MEASURABLE}"
            cells.append(f"{now.accuracy:.1f} %{kept}")
        facts = record.transfer[name]
        chance = 100 / answers(facts.images["test"].count, len(facts.classes))
        kind = "zero-shot" if facts.classes else "recall at 1"
        rows.append((f"{kind} {name} (before {before:.1f} %, chance {chance:.1f} %)", cells))
        if crossed := [point.crossed[name] for point in points if name in point.crossed]:
            rows.append((f"{kind} {name}, this image tower alone", [percent(c.tuned_image) for c in crossed]))
            rows.append((f"{kind} {name}, this text tower alone", [percent(c.tuned_text) for c in crossed]))
    return rows


def _before(record: Record) -> str:
    was = record.backbone.retrieval.get("test")
    return "" if was is None else f" (before {was.recall:.1f} %)"


def _retrieval(record: Record, points: Sequence[Point]) -> list[tuple[str, list[str]]]:
    """Recall at each k and median rank on the test images, which the chosen epoch alone has."""
    was = record.backbone.retrieval.get("test")
    if was is None:
        return []
    rows = []
    for title, way in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
        before: Recall = getattr(was, way)
        cells = []
        for point in points:
            now: Recall | None = getattr(point.retrieval.get("test"), way, None)
            cells.append("" if now is None else _recalls(now))
        rows.append((f"{title}, R@{'/'.join(map(str, before.at))}, rank (before {_recalls(before)})", cells))
    return rows


def _recalls(recall: Recall) -> str:
    return f"{'/'.join(f'{value:.1f}' for value in recall.at.values())} %, {recall.median_rank:g}"


def _change(values: Values) -> str:
    return f"{values.mean:.3f}  {values.drift_text()}"
