"""The page of a forecast: one HTML file with everything inside."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdrift.decision.result import Estimate
from clipdrift.forecasting import Forecast
from clipdrift.forecasting.words import computed, standing, tested
from clipdrift.pages.cells import PageCell, field_of
from clipdrift.pages.compare import environment_of, part
from clipdrift.runs.files import write_text
from clipdrift.texts import number, one_decimal, rate, signed_hundredths, typeset

Cells = Sequence[PageCell | None]

_KNOWN = {
    "zero_shot": ("zero-shot accuracy, %", "by the names of its classes"),
    "probe": ("linear probe, %", "logistic regression on the embeddings, cross-validated"),
    "room": ("room to gain, points", "probe minus zero-shot, paired by image"),
    "entropy": ("entropy", "of the zero-shot distribution; 0 sure, 1 no idea which class"),
}
_UNITS = {"cell": "cells", "target": "targets", "target and method": "groups"}


@dataclass(frozen=True)
class Worth:
    """What became of a number in the committed studies."""

    words: str
    outcome: str
    verdict: str
    why: str
    rho: Cells
    units: str


def write_forecast_page(found: Forecast, figure: bytes, sentences: Sequence[str], path: Path) -> Path:
    """Write the page: one file that loads nothing, runs no script, and works in narrow windows and print.

    Args:
        figure: PNG of all panels.
        sentences: those that open the page, the most important first; none of its notes.
    """
    environment = environment_of()
    text = environment.get_template("forecast.html.j2").render(
        f=found,
        css=part(environment, "compare.css"),
        sentences=sentences,
        uri=f"data:image/png;base64,{base64.b64encode(figure).decode()}",
        known=list(_known(found)),
        transfer=[(name, _transfer(found, name)) for name in found.transfer],
        steps=list(_steps(found)),
        threshold=None if found.suggestion is None else field_of(found, "suggestion", "threshold"),
        gradient=_gradient(found),
        worth=list(_worth(found)),
        how=list(_how(found)),
        command=_command(found),
    )
    write_text(path, text)
    return path


def _known(found: Forecast) -> Iterator[tuple[str, str, Cells]]:
    """Name, meaning, and value with the ends of its interval of what is known of the target."""
    for name, (title, about) in _KNOWN.items():
        estimate: Estimate | None = getattr(found, name)
        if estimate is not None:
            yield title, about, _interval(found, name)


def _interval(found: Forecast, *path: str) -> Cells:
    """Value and ends of an estimate, in percent, points or as they are."""
    cells = [field_of(found, *path, end) for end in ("value", "low", "high")]
    shown = number if path == ("entropy",) else _points if path == ("room",) else one_decimal
    return [
        None if math.isnan(cell.value) else PageCell(shown(cell.value), cell.key, cell.value)
        for cell in cells
    ]


def _points(value: float) -> str:
    return typeset(f"{value:+.1f}")


def _transfer(found: Forecast, name: str) -> Cells:
    """Zero-shot accuracy with its interval, overlap, images, classes."""
    own = [field_of(found, "transfer", name, field) for field in ("overlap", "images", "classes")]
    return [*_interval(found, "transfer", name, "zero_shot"), *own]


def _steps(found: Forecast) -> Iterator[tuple[str, Cells, Cells, str]]:
    """Rate; drift, 1 - CKA and drift on the transfer sets; the ends over draws; beside the threshold."""
    for place, step in enumerate(found.first_steps):
        moved = [field_of(found, "first_steps", place, name) for name in ("drift", "cka_loss")]
        for name in found.transfer:
            there = name in step.transfer_drift
            moved.append(
                field_of(found, "first_steps", place, "transfer_drift", name)
                if there
                else PageCell("n/a", "")
            )
        order = sorted(range(len(step.drift_draws)), key=step.drift_draws.__getitem__)
        ends = [
            field_of(found, "first_steps", place, "drift_draws", order[end]) for end in (0, -1)[: len(order)]
        ]
        yield rate(step.rate), moved, ends, standing(found, step)


def _gradient(found: Forecast) -> list[tuple[str, PageCell]]:
    if found.gradient is None:
        return []
    rows = [("whole image tower", field_of(found, "gradient", "total"))]
    rows.append(("its standard deviation over draws", field_of(found, "gradient", "spread")))
    for block in range(len(found.gradient.blocks)):
        rows.append((f"block {block + 1}", field_of(found, "gradient", "blocks", block)))
    return [*rows, ("projection", field_of(found, "gradient", "projection"))]


def _worth(found: Forecast) -> Iterator[Worth]:
    for one in filter(None, (tested(found, name) for name in computed(found))):
        place = found.tested.index(one)
        known = [end for end in ("rho", "low", "high") if getattr(one, end) is not None]
        yield Worth(
            one.words,
            one.outcome.removesuffix(", %").removesuffix(", points"),
            one.verdict,
            one.why,
            [_correlation(found, place, end) for end in known],
            f"{one.units} {_UNITS[one.unit]}",
        )


def _correlation(found: Forecast, place: int, end: str) -> PageCell:
    cell = field_of(found, "tested", place, end)
    return PageCell(signed_hundredths(cell.value), cell.key, cell.value)


def _how(found: Forecast) -> Iterator[tuple[str, PageCell]]:
    """What the numbers were read with."""
    for name in ("base", "fingerprint", "steps", "draws", "batch_size", "weight_decay", "seed"):
        yield name.replace("_", " "), field_of(found, name)
    for name, _ in found.method.items():
        yield f"method: {name.replace('_', ' ')}", field_of(found, "method", name)
    for name in ("source", "count", "stepped", "held_out", "fingerprint"):
        yield f"images: {name.replace('_', ' ')}", field_of(found, "images", name)
    for name in found.timings:
        yield f"seconds: {name.replace('_', ' ')}", field_of(found, "timings", name)


def _command(found: Forecast) -> str:
    """Command that makes the forecast again; empty where something was never on disk."""
    if "memory" in found.base + found.images.source:
        return ""
    words = ["clipdrift", "forecast", found.base, "--images", found.images.source]
    words += ["--labels"] if found.images.labelled else []
    for name in found.transfer:
        words += ["--transfer", name]
    if found.first_steps:
        words += ["--rates", ",".join(rate(step.rate) for step in found.first_steps)]
    words += ["--method", str(found.method["name"]), "--steps", str(found.steps), "--draws", str(found.draws)]
    return shlex.join([*words, "--train-batch", str(found.batch_size), "--seed", str(found.seed)])
