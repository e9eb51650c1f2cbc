"""The demo: a small CLIP fine-tuned in full and with LoRA at one rate, laid side by side."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.adapt import load_adapted
from clipdrift.config import RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.figures import attention_maps, block_drift
from clipdrift.files import write_text
from clipdrift.layout import WEIGHTS
from clipdrift.model.clip import Clip, load
from clipdrift.model.trace import trace
from clipdrift.record import Record
from clipdrift.reporter import Reporter
from clipdrift.runner import run
from clipdrift.stage import pick_device, prepare

RATE = 1e-3
METHODS = ("full_ft", "lora")
_SHOWN = 5


@dataclass(frozen=True)
class Demo:
    """What the demo leaves: records by method, pictures, and a page that shows them."""

    records: dict[str, Record]
    pictures: tuple[Path, ...]
    page: Path


def demo_config(method: str) -> RunConfig:
    """2,000 land-cover images, eight epochs; zero-shot ability tested on 1,000 coloured shapes."""
    return parse_config(
        {
            "model": "clipdrift/mini",
            "data": {
                "target": "terrain-10",
                "transfer": [{"name": "objects-100", "per_class": 10}],
                "train_per_class": 200,
                "validation_per_class": 20,
                "probe_per_class": 20,
            },
            "method": method,
            "optim": {"learning_rate": RATE, "epochs": 8},
        },
        RunConfig,
    )


def run_demo(out: Path, cache: Path, device: str, reporter: Reporter) -> Demo:
    """Do both runs (or take them from ``out`` where they are done) and draw the pictures."""
    records: dict[str, Record] = {}
    models: dict[str, Clip] = {"backbone": load("clipdrift/mini")}
    for method in METHODS:
        records[method], folder = run(demo_config(method), out, cache=cache, device=device, reporter=reporter)
        models[method] = load_adapted(folder.path / WEIGHTS, records[method].config.model)
    reporter.stage("drawing")
    place = pick_device(device)
    probe = prepare(records[METHODS[0]].config, cache, place, reporter).probe
    # one image of each of the first classes
    chosen = probe.subset([int(np.flatnonzero(probe.labels == k)[0]) for k in range(_SHOWN)])
    maps = {label: last_block_attention(clip, chosen) for label, clip in models.items()}
    classes = records[METHODS[0]].target.classes
    titles = [classes[k] for k in chosen.labels]
    pictures = (
        block_drift(records, out / "block_drift.png"),
        attention_maps(chosen.data[chosen.rows], maps, titles, out / "attention_maps.png"),
    )
    page = out / "index.html"
    write_text(page, _page(records, pictures))
    return Demo(records, pictures, page)


@torch.no_grad()
def last_block_attention(clip: Clip, deck: Deck) -> NDArray[np.float64]:
    """(n, side, side) CLS-to-patch attention of the last block, mean over heads, summing to 1 per image."""
    clip.model.to(deck.device)
    rows = trace(clip.model, deck.images(slice(None)), rows=True).rows
    assert rows is not None
    over_patches = rows[-1, :, :, 1:].double().mean(1)
    side = round(over_patches.shape[-1] ** 0.5)
    return (over_patches / over_patches.sum(-1, keepdim=True)).view(-1, side, side).cpu().numpy()


def _page(records: dict[str, Record], pictures: tuple[Path, ...]) -> str:
    """A plain page: the table and the pictures."""
    first = next(iter(records.values()))
    rows: list[tuple[str, list[str]]] = [
        ("trained parameters", ["", *(f"{r.model.trained:,}" for r in records.values())]),
        ("accuracy on the target (test), %", ["", *(_number(r, "test") for r in records.values())]),
    ]
    for name, before in first.backbone.zero_shot.items():
        after = [r.best.transfer[name] for r in records.values() if r.best is not None]
        rows.append((f"zero-shot on {name}, %", [f"{before:.1f}", *(f"{t.accuracy:.1f}" for t in after)]))
        kept = ["" if t.retention is None else f"{t.retention:.1f}" for t in after]
        rows.append((f"retention on {name}, %", ["100.0", *kept]))
    for name in ("cka", "embedding_drift"):
        still = "1.000" if name == "cka" else "0.000"
        rows.append((name, [still, *(_number(r, name) for r in records.values())]))
    for name, values in first.backbone.measures.items():
        unit = f", {first.units[name]}" if first.units.get(name) else ""
        rows.append((name + unit, [f"{values.mean:.3f}", *(_number(r, name) for r in records.values())]))
    head = "".join(f"<th>{escape(h)}</th>" for h in ["", "backbone", *records])
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"
        for label, cells in rows
    )
    shown = "".join(f'<p><img src="{p.name}" alt="{escape(p.stem)}"></p>' for p in pictures)
    return _TEMPLATE.format(
        target=escape(first.config.data.target.name),
        rate=f"{first.config.optim.learning_rate:g}",
        head=head,
        body=body,
        pictures=shown,
    )


def _number(record: Record, name: str) -> str:
    point = record.best
    if point is None:
        return record.status
    if name == "test":
        return "" if point.test_accuracy is None else f"{point.test_accuracy:.1f}"
    values = point.measures[name]
    return f"{values.mean:.3f}  {values.drift_text()}".rstrip()


_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>clipdrift demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child {{ text-align: left; font-weight: normal }}
img {{ max-width: 100% }}
</style>
<h1>What fine-tuning did to a small CLIP</h1>
<p><code>clipdrift/mini</code> was fine-tuned on <code>{target}</code> at rate {rate}, in full and with LoRA.
Retention is 100 x zero-shot accuracy after / before on a set that the fine-tuning never saw.
Values are those of the epoch chosen on validation images.</p>
<table><tr>{head}</tr>{body}</table>
{pictures}
</html>
"""
