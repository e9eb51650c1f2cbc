"""Table of study figures; to add one, write its function and its line here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from clipdrift.figures import (
    choices,
    options,
    over_blocks,
    over_rates,
    over_training,
    overview,
    relations,
    study_attention,
    study_statistics,
)
from clipdrift.figures.look import Canvas, style
from clipdrift.figures.source import NotDrawnError, StudySource
from clipdrift.runs.files import write_atomically

FORMATS = ("pdf", "svg", "png")
DPI = 300
_SIZE = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class FigureEntry:
    """One figure.

    Attributes:
        draw: tables and a canvas in, figure out.
        title: what it shows, as a heading.
        text: how to read it, one or two sentences.
        needs: tables that it draws from.
    """

    draw: Callable[[StudySource, Canvas], Figure]
    title: str
    text: str
    needs: tuple[str, ...] = ("runs",)


FIGURES: dict[str, FigureEntry] = {
    "dashboard": FigureEntry(
        overview.dashboard, "The study at a glance",
        "Accuracy, drift and retention over the rate, the course of training, depth, and the trade.",
        ("runs", "history", "blocks"),
    ),
    "matched_rates": FigureEntry(
        over_rates.matched_rates, "Methods at the same learning rate",
        "Accuracy on the target, entropy drift and what is kept of zero-shot accuracy.",
    ),
    "rate_sweep": FigureEntry(
        over_rates.rate_sweep, "Learning rate and attention",
        "Drift of the four attention measures from the backbone; 0 is no change.",
    ),
    "representation_sweep": FigureEntry(
        over_rates.representation_sweep, "Learning rate, representation and weights",
        "CKA with the backbone, turn of the embedding and relative change of the weights.",
    ),
    "zero_shot": FigureEntry(
        over_rates.zero_shot, "Zero-shot accuracy after fine-tuning",
        "Bars by rate and method; the dashed line is the backbone before fine-tuning.",
    ),
    "drift_zero_shot": FigureEntry(
        relations.drift_zero_shot, "Drift against zero-shot retention",
        "Each run's retention over four kinds of drift: which of them goes with the loss?",
    ),
    "frontier": FigureEntry(
        choices.frontier, "Learnt against kept",
        "Accuracy over retention; ringed runs are those that no other run beats in both.",
        ("runs", "choosing"),
    ),
    "choosing": FigureEntry(
        choices.choosing, "Which signal picks a good run?",
        "Retention lost by the run that each label-free signal picks; shorter is better.",
        ("runs", "choosing"),
    ),
    "predictors": FigureEntry(
        relations.predictors, "Which measure goes with retention?",
        "Signals ranked by rank correlation with retention, and how well they tell lost runs from kept ones.",
        ("runs", "predictors"),
    ),
    "training": FigureEntry(
        over_training.training, "Accuracy and entropy during training",
        "Validation accuracy and entropy drift by epoch, light lines for small rates, dark for large.",
        ("runs", "history"),
    ),
    "trajectories": FigureEntry(
        over_training.trajectories, "Methods against each other during training",
        "Entropy drift by epoch at each matched rate.", ("runs", "history"),
    ),
    "onset": FigureEntry(
        over_training.onset, "Onset of the fall of entropy",
        "Entropy drift by step of every run; triangles mark the first look at or below the dashed line.",
        ("runs", "history", "onset"),
    ),
    "head_diversity": FigureEntry(
        over_training.head_diversity, "Head diversity during training",
        "Drift of the diversity of heads by epoch.", ("runs", "history"),
    ),
    "gini_erf": FigureEntry(
        over_training.gini_erf, "Gini and receptive field during training",
        "Drift of inequality and of the effective receptive field by epoch.", ("runs", "history"),
    ),
    "convergence": FigureEntry(
        over_rates.convergence, "Has accuracy settled?",
        "Highest minus lowest validation accuracy of the last epochs; 0 is settled.",
        ("runs", "history", "convergence"),
    ),
    "entropy_heat": FigureEntry(
        over_training.entropy_heat, "Entropy drift by block and epoch",
        "Blue: narrower attention than the backbone's, orange: wider.", ("runs", "history_blocks"),
    ),
    "baseline": FigureEntry(
        over_blocks.baseline, "Attention of the backbone",
        "The untouched model on the probe images of each target, by block.", ("backbone_blocks",),
    ),
    "block_drift": FigureEntry(
        over_blocks.block_drift, "Drift by block",
        "Entropy drift and CKA at the chosen epoch, block by block.", ("runs", "blocks"),
    ),
    "rate_blocks": FigureEntry(
        over_blocks.rate_blocks, "Drift by block and rate",
        "Entropy, Gini and CKA: where in the tower, and from which rate on.", ("runs", "blocks"),
    ),
    "attention": FigureEntry(
        study_attention.attention, "The same images before and after",
        "What the class token attends to in the backbone and in the adapted models.", ("maps",),
    ),
    "penalties": FigureEntry(
        options.penalties, "Penalties against none",
        "Accuracy, entropy drift and retention with each penalty and weight.",
    ),
    "frozen_blocks": FigureEntry(
        options.frozen_blocks, "Frozen blocks", "What freezing the first blocks does.",
    ),
    "lora_targets": FigureEntry(
        options.lora_targets, "Matrices that get an adapter", "What LoRA's place does.",
    ),
    "lora_ranks": FigureEntry(options.lora_ranks, "Rank of the adapters", "What LoRA's rank does."),
    "weight_decay": FigureEntry(options.weight_decay, "Weight decay", "What weight decay does."),
    "statistics": FigureEntry(
        study_statistics.statistics, "Statistics",
        "Correlations with the rate, effect sizes between methods, coefficients of the mixed model.",
        ("rate", "methods"),
    ),
    "measures": FigureEntry(
        relations.measures, "Which measures move together?",
        "Correlations between the drifts of all measures over cells.", ("measures",),
    ),
    "interpolation": FigureEntry(
        choices.interpolation, "Between backbone and adapted model",
        "Accuracy and retention of weights mixed in the share alpha.", ("paths",),
    ),
}  # fmt: skip
"""Every figure by name, in the order of a report."""


def canvas_of(size: str = "paper") -> Canvas:
    """``paper``, ``slide``, or width x height in inches as in ``7x3.5``.

    Raises:
        NotDrawnError: another size.
    """
    found = _SIZE.fullmatch(size)
    if size in ("paper", "slide"):
        return Canvas(slide=size == "slide")
    if found is None or not all(1 <= float(x) <= 100 for x in found.groups()):
        raise NotDrawnError(f"size {size}: paper, slide, or inches from 1 to 100 as in 7x3.5")
    return Canvas((float(found[1]), float(found[2])))


def draw(name: str, tables: StudySource, size: str = "paper") -> Figure:
    """One figure of a study.

    Args:
        name: a key of :data:`FIGURES`.
        size: as :func:`canvas_of` takes it.

    Raises:
        NotDrawnError: no such figure or size, or the study lacks what it shows.
    """
    if name not in FIGURES:
        raise NotDrawnError(f"no figure {name}; `clipdrift ls figures` lists them")
    with style():
        return FIGURES[name].draw(tables, canvas_of(size))


def write(figure: Figure, file: str | Path, format: str, dpi: int = DPI) -> Path:
    """Write a figure; the same figure gives the same bytes.

    Args:
        dpi: of a PNG.

    Raises:
        NotDrawnError: another format than pdf, svg or png.
    """
    if format not in FORMATS:
        raise NotDrawnError(f"no figures as {format}: choose from {', '.join(FORMATS)}")
    place = Path(file)
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    with style():
        write_atomically(place, lambda out: figure.savefig(out, format=format, dpi=dpi, metadata=stamp))
    return place
