"""The demo: the study ``quickstart``, what it found as a table, and a plain page with pictures."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clipdrift.adapt import load_adapted
from clipdrift.data.deck import Deck
from clipdrift.engines.here import run_here
from clipdrift.engines.jobs import How, Job, Outcome, Watcher, jobs_of, manifest_of
from clipdrift.figures import attention_maps, block_drift
from clipdrift.figures.studies import matched_rates
from clipdrift.files import write_text
from clipdrift.frame import cells_frame, records_in, runs_frame
from clipdrift.layout import WEIGHTS
from clipdrift.model.clip import Clip, load
from clipdrift.model.trace import trace
from clipdrift.record import Record
from clipdrift.reporter import Silent
from clipdrift.stage import pick_device, prepare
from clipdrift.store import Store
from clipdrift.studied import write_manifest
from clipdrift.study import Study, load_study

STUDY = "quickstart"
RATE = 1e-3
"""Of the runs whose inside the pictures show, with the study's first seed."""
PANELS = (
    ("accuracy", "accuracy on the target, %"),
    ("retention_objects-100", "zero-shot kept, % of before"),
    ("cka", "CKA with the backbone"),
    ("entropy_drift", "entropy drift, %"),
)
_SHOWN = 5


@dataclass(frozen=True)
class Demo:
    """What the demo leaves.

    Attributes:
        outcomes: of every run, in the order of the plan.
        runs: the tidy table, a row for each finished run.
        records: of the runs that the pictures show, by method.
    """

    outcomes: tuple[Outcome, ...]
    runs: pd.DataFrame
    records: dict[str, Record]
    pictures: tuple[Path, ...]
    page: Path


def run_demo(out: Path, cache: Path, device: str, watcher: Watcher, study: Study | None = None) -> Demo:
    """Do the study (or take its runs from ``out`` where they are done), draw the pictures, write the page.

    Args:
        study: another than ``quickstart``, as for a test.
    """
    study = study or load_study(STUDY)
    jobs = jobs_of(study)
    manifest = manifest_of(study, jobs, "clipdrift demo")
    write_manifest(out, manifest)
    outcomes = run_here(jobs, How(out=out, cache=cache, device=device, keep_weights=True), watcher)
    runs = runs_frame(records_in(out, manifest.keys), manifest.labels)
    records: dict[str, Record] = {
        job.config.method.name: Store(out).folder(job.key).record() for job in _inside(jobs, outcomes)
    }
    pictures = []
    if not runs.empty:
        pictures.append(matched_rates(runs, PANELS, out / "matched_rates.png"))
    if records:
        pictures.append(block_drift(records, out / "block_drift.png"))
        pictures.append(_attention(records, out, cache, device))
    page = out / "index.html"
    write_text(page, _page(study, runs, pictures))
    return Demo(outcomes, runs, records, tuple(pictures), page)


def _inside(jobs: tuple[Job, ...], outcomes: tuple[Outcome, ...]) -> list[Job]:
    """The runs that are drawn: those of the first seed at one rate, where they ended well."""
    seed = jobs[0].config.seed
    rates = {job.config.optim.learning_rate for job in jobs}
    rate = RATE if RATE in rates else max(rates)
    return [
        job
        for job, outcome in zip(jobs, outcomes, strict=True)
        if outcome.ending == "done" and (job.config.seed, job.config.optim.learning_rate) == (seed, rate)
    ]


def _attention(records: dict[str, Record], out: Path, cache: Path, device: str) -> Path:
    """Attention of the same probe images before and after."""
    first = next(iter(records.values()))
    stage = prepare(first.config, cache, pick_device(device), Silent())
    models: dict[str, Clip] = {"backbone": load(first.config.model)}
    for method, record in records.items():
        models[method] = load_adapted(out / record.key / WEIGHTS, record.config.model)
    probe = stage.probe
    # one image of each of the first classes
    chosen = probe.subset([int(np.flatnonzero(probe.labels == k)[0]) for k in range(_SHOWN)])
    maps = {label: last_block_attention(clip, chosen) for label, clip in models.items()}
    titles = [first.target.classes[k] for k in chosen.labels]
    return attention_maps(chosen.data[chosen.rows], maps, titles, out / "attention_maps.png")


@torch.no_grad()
def last_block_attention(clip: Clip, deck: Deck) -> NDArray[np.float64]:
    """(n, side, side) CLS-to-patch attention of the last block, mean over heads, summing to 1 per image."""
    clip.model.to(deck.device)
    rows = trace(clip.model, deck.images(slice(None)), rows=True).rows
    assert rows is not None
    over_patches = rows[-1, :, :, 1:].double().mean(1)
    side = round(over_patches.shape[-1] ** 0.5)
    return (over_patches / over_patches.sum(-1, keepdim=True)).view(-1, side, side).cpu().numpy()


def _page(study: Study, runs: pd.DataFrame, pictures: list[Path]) -> str:
    """A plain page: the table and the pictures."""
    columns = [(name, title) for name, title in PANELS if name in runs]
    head = "".join(f"<th>{escape(h)}</th>" for h in ["method", "rate", "runs", *(t for _, t in columns)])
    rows = []
    for _, cell in cells_frame(runs).iterrows():
        values = [_value(cell[name], cell[f"{name}_sd"], name) for name, _ in columns]
        texts = [str(cell["method"]), f"{cell['learning_rate']:g}", str(cell["runs"]), *values]
        rows.append("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>")
    shown = "".join(f'<p><img src="{p.name}" alt="{escape(p.stem)}"></p>' for p in pictures)
    target = "" if runs.empty else str(runs["target"].iloc[0])
    return _TEMPLATE.format(
        title=escape(study.title), target=escape(target), head=head, body="".join(rows), pictures=shown
    )


def _value(mean: float, spread: float, name: str) -> str:
    if pd.isna(mean):
        return ""
    digits = 3 if name == "cka" else 1
    sign = "+" if name.endswith("_drift") else ""
    return f"{mean:{sign}.{digits}f}" + ("" if pd.isna(spread) else f" ± {spread:.{digits}f}")


_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>clipdrift demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left; font-weight: normal }}
img {{ max-width: 100% }}
</style>
<h1>{title}</h1>
<p><code>clipdrift/mini</code> was fine-tuned on <code>{target}</code> at four rates, in full and with LoRA.
Zero-shot kept is 100 x accuracy after / before on a set that no fine-tuning saw. Values are means over seeds
(± standard deviation) at the epoch chosen on validation images.</p>
<table><tr>{head}</tr>{body}</table>
{pictures}
</html>
"""
