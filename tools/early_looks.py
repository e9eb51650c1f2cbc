"""The study early-warning: what signals tell in a training's first steps, and what stopping then costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from warning_records import KEPT, LEVELS, found, held_out, number, read

from clipdrift.analysis.warning import best_threshold, first_crossings, looks
from clipdrift.rules.ruling import DRIFT_BELOW

EARLY = (0.01, 0.02, 0.05, 0.1, 0.2)
KEPT_THEN = "retention_cifar100"
"""On the part that every look tests."""
LED = ("embedding_drift", "cka", "weight_drift", "entropy_size")


def dense_tables(place: Path) -> Iterator[str]:
    count, by_target = found(place, "target", EARLY)
    _, by_way = found(place, "way", EARLY)
    yield f"## The first steps: {count} runs of the study early-warning\n"
    for level in LEVELS:
        lost = int((read(place)[0][KEPT] < level).sum())
        yield f"### Below {level:.0f} % at the end: {lost} of {count} runs\n"
        for share in EARLY:
            after = f"Read after {100 * share:.0f} % of the training"
            known = max(r.runs for r in by_target if (r.share, r.level, r.held) == (share, level, ""))
            after += "" if known == count else f" ({known} runs that have had a step by then)"
            yield f"{after}; each target tested with the threshold of the others:\n"
            yield from held_out(by_target, share, level)
            yield ""
            yield f"{after}; each method, captions among them, tested with the threshold of the others:\n"
            yield from held_out(by_way, share, level)
            yield ""
    yield from begins(place)
    yield ""
    yield from leads(place)
    yield ""
    yield from stops(place)


def begins(place: Path) -> Iterator[str]:
    """When retention first fell, as a share of the training."""
    runs, history = read(place)
    yield "### When it happens\n"
    yield "Of the runs that end below a level: when zero-shot accuracy on 500 images first was below it.\n"
    yield "| below | method | runs | by 2 % of the training | by 10 % | by 20 % | by 50 % | median |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|"
    for level in LEVELS:
        lost = runs[runs[KEPT] < level]
        found_at = first_crossings(
            history, lost, signal="embedding_drift", threshold=np.inf, kept=KEPT_THEN, level=level
        )["lost"]
        for way, group in [("all", lost), *lost.groupby("way")]:
            at = found_at.reindex(group["run"])
            shares = [f"{(at <= share + 1e-9).mean():.2f}" for share in (0.02, 0.1, 0.2, 0.5)]
            yield (
                f"| {level:.0f} % | {way} | {len(group)} | {' | '.join(shares)} | {100 * at.median():.0f} % |"
            )


def leads(place: Path) -> Iterator[str]:
    """How long before the loss a rule warns."""
    runs, history = read(place)
    yield "### How long before the loss a warning comes\n"
    yield (
        "Of the lost runs: those warned of at a look before the one at which the model was lost, at the "
        "same, later, and never; by how many steps, and how much was kept when the warning came. The "
        "threshold is the default rule's, else the one that is best at the end for the other targets.\n"
    )
    heads = ("below", "rule", "lost runs", "before", "same look", "later", "never")
    more = ("median lead, steps", "kept the look before, %", "kept then, %", "kept at the end, %")
    yield f"| {' | '.join((*heads, *more))} |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for level in LEVELS:
        lost = runs[runs[KEPT] < level]
        for words, at in warned(runs, history, level):
            at = at.loc[lost["run"]]
            lead = at["lead"]
            never = int(at["warned"].isna().sum())
            parts = [int((lead > 0).sum()), int((lead == 0).sum()), int((lead < 0).sum()), never]
            late = len(at) - sum(parts)  # warned of, and at no look below the level on the part
            parts[0] += late
            kept = lost.set_index("run")[KEPT].reindex(at.index)
            yield (
                f"| {level:.0f} % | {words} | {len(at)} | {' | '.join(map(str, parts))} | "
                f"{number(lead.median(), 0)} | {number(at['kept_before'].median(), 0)} | "
                f"{number(at['kept_then'].median(), 0)} | {kept.median():.0f} |"
            )


def stops(place: Path) -> Iterator[str]:
    """What a training that stops at the warning has learnt and kept, beside one that goes on."""
    runs, history = read(place)
    heads = runs[runs["way"] != "captions"]
    yield "### What stopping at the warning costs and saves\n"
    yield (
        "Runs with classes, where accuracies can be compared. *learnt*: the best validation accuracy up to "
        "the warning, in points below the best of the whole run; 0 counts where no epoch had ended. *saved*: "
        "retention at the warning minus at the end, in points. Means, with the share of runs that lost less "
        "than 2 points.\n"
    )
    yield "| rule | runs that end | warned of | learnt, points | less than 2 points | saved, points |"
    yield "|---|---|--:|--:|--:|--:|"
    for level in LEVELS:
        for words, at in warned(runs, history, level):
            for name, chosen in (("below", heads[KEPT] < level), ("above", heads[KEPT] >= level)):
                group = heads[chosen]
                part = at.loc[group["run"]]
                hit = part["warned"].notna()
                if not hit.any():
                    yield f"| {words} | {name} {level:.0f} % | 0 of {len(group)} | – | – | – |"
                    continue
                cost = (part["learnt_then"] - part["learnt"])[hit]
                saved = (part["kept_then"] - group.set_index("run")[KEPT].reindex(part.index))[hit]
                told = f"{int(hit.sum())} of {len(group)} | {cost.mean():+.1f} | {(cost > -2).mean():.2f}"
                yield f"| {words} | {name} {level:.0f} % | {told} | {saved.mean():+.1f} |"


def warned(runs: pd.DataFrame, history: pd.DataFrame, level: float) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rules in words, and when each first warned: the default, then thresholds of the other targets."""
    yield (
        f"embedding_drift >= {DRIFT_BELOW[level]:g} (default)",
        _crossings(history, runs, "embedding_drift", DRIFT_BELOW[level], level),
    )
    for signal in LED:
        parts, thresholds = [], []
        for target, group in runs.groupby("target"):
            others = runs[runs["target"] != target]
            ends = looks(history, others, 1.0, [signal])[signal].to_numpy(float)
            threshold = best_threshold(ends, (others[KEPT] < level).to_numpy())
            thresholds.append(threshold)
            parts.append(_crossings(history, group, signal, threshold, level))
        yield f"{signal}, {min(thresholds):.3g} to {max(thresholds):.3g}", pd.concat(parts)


def _crossings(
    history: pd.DataFrame, runs: pd.DataFrame, signal: str, threshold: float, level: float
) -> pd.DataFrame:
    return first_crossings(history, runs, signal=signal, threshold=threshold, kept=KEPT_THEN, level=level)
