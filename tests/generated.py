"""Generated studies: real records, written by the project's own writer, of a made-up phenomenon.

Nothing is trained. Rates move weights; moved weights cost retention; LoRA moves less; late blocks move more;
entropy rises after small moves and falls after large ones; head diversity goes its own way; seeds scatter.
Every record is marked by ``environment["generated"]``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.config import RunConfig
from clipdrift.listing import MEASURES
from clipdrift.runs.maps import Maps
from clipdrift.runs.record import (
    Backbone,
    DataFacts,
    ImageCounts,
    ModelFacts,
    Point,
    Record,
    Transfer,
    Values,
)
from clipdrift.runs.store import Store
from clipdrift.study.folder import Manifest, PlannedRun, write_study_manifest
from clipdrift.study.plan import QUESTIONS, study_of

RATES = (1e-6, 5e-6, 1e-5, 5e-5)
SEEDS = (7, 11, 19, 42, 123)
REACH = {"full_ft": 1.0, "lora": 0.2, "linear_probe": 0.0, "last_blocks": 0.5, "bias_only": 0.1}
"""How far a method moves at a rate, as a share of full fine-tuning; other methods 0.35."""
HOLD = {"apr": 0.7, "entropy_floor": 0.3}
"""How strongly a penalty of weight 1 holds it back."""
CLASSES = {"eurosat": 10, "pets": 37, "cifar100": 100, "cifar10": 10}
ZERO_SHOT = {"cifar100": 60.0, "cifar10": 88.0}
"""The backbone's zero-shot accuracy, percent; 70 on other sets."""


def generated_study(
    folder: Path,
    *,
    targets: Sequence[str] = ("eurosat", "pets"),
    methods: Sequence[str] = ("full_ft", "lora"),
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = SEEDS,
    transfer: Sequence[str] = ("cifar100",),
    models: Sequence[str] = ("openai/clip-vit-base-patch32",),
    extras: bool = False,
    diverged: int = 0,
    failed: int = 0,
    missing: int = 0,
    epochs: int = 12,
    per_epoch: int = 1,
    blocks: int = 12,
    maps: int = 0,
    paths: bool = False,
) -> Manifest:
    """Write a study's folder as a finished (or, with ``missing``, broken off) ``study run`` leaves it.

    Without options: the 80 runs of two targets, two methods, four rates and five seeds.

    Args:
        extras: also, on the first target at 1e-5 and at most three seeds: penalties, frozen blocks, LoRA's
            ranks and matrices, weight decay, a linear probe.
        diverged, failed, missing: so many of the last runs of the plan end so.
        per_epoch: how often within an epoch internals were measured.
        maps: so many first runs of the plan have ``maps.npz``.
        paths: write ``paths.csv``, the way between backbone and adapted model of each run of the first seed.
    """
    plan: dict[str, Any] = {
        "name": "generated",
        "title": "Made-up numbers, for tests of figures and pages",
        "questions": list(QUESTIONS),
        "seeds": list(seeds),
        "base": {
            "model": models[0],
            "data": {"transfer": list(transfer)},
            "optim": {"epochs": epochs},
            "evaluation": {"per_epoch": per_epoch},
        },
        "axes": {
            "data.target": list(targets),
            "optim.learning_rate": list(rates),
            "method": list(methods),
        },
    }
    if len(models) > 1:
        plan["axes"]["model"] = list(models)
    if extras:
        plan["cells"] = [{"seeds": list(seeds[:3])} | cell for cell in _extra_cells(targets[0], methods)]
    study = study_of(plan)
    entries = tuple(PlannedRun(key=r.config.key, label=r.label, cell=r.cell) for r in study.runs)
    command = "clipdrift study run generated.toml"
    manifest = Manifest(
        name=study.name, title=study.title, questions=study.questions, runs=entries, command=command
    )
    write_study_manifest(folder, manifest)
    done = len(study.runs) - missing
    for index, planned in enumerate(study.runs[:done]):
        place = Store(folder).folder(planned.config.key)
        from_end = done - index
        if from_end <= failed:
            place.open(planned.config)
            place.fail(RuntimeError("the disk was taken out (generated)"))
            continue
        record = Course(planned.config, blocks).record(diverges=from_end - failed <= diverged)
        place.mend(record)
        place.finish(record)
        if index < maps:
            _write_maps(place.path / "maps.npz", blocks, Course(planned.config, blocks).moved)
    if paths:
        first = [run.config for run in study.runs[:done] if run.config.seed == seeds[0]]
        pd.concat([_path(config, blocks) for config in first]).to_csv(folder / "paths.csv", index=False)
    return manifest


def _extra_cells(target: str, methods: Sequence[str]) -> Iterable[dict[str, Any]]:
    at = {"data.target": target, "optim.learning_rate": 1e-5}
    penalties = [{"name": "apr", "weight": w} for w in (0.01, 0.1, 1.0)]
    penalties += [{"name": "entropy_floor", "weight": w} for w in (0.01, 0.1)]
    yield {"label": "penalties", "change": at | {"method": "full_ft"}, "axes": {"penalty": penalties}}
    frozen = {"method.frozen_blocks": [3, 6, 9]}
    yield {"label": "frozen", "change": at | {"method": "full_ft"}, "axes": frozen}
    ranks = [{"name": "lora", "rank": rank} for rank in (4, 16)]
    matrices = [{"name": "lora", "targets": t} for t in (["q"], ["q", "k", "v", "out"])]
    yield {"label": "lora", "change": at, "axes": {"method": ranks + matrices}}
    yield {"label": "decay", "change": at, "axes": {"optim.weight_decay": [0.0, 0.1]}}
    if "linear_probe" not in methods:
        change = at | {"method": "linear_probe", "optim.learning_rate": 1e-3}
        yield {"label": "probe", "change": change}


@dataclass(frozen=True)
class Course:
    """What the made-up phenomenon makes of one configuration."""

    config: RunConfig
    blocks: int

    @cached_property
    def draw(self) -> np.random.Generator:
        """Random numbers of this run alone."""
        return np.random.default_rng(zlib.crc32(self.config.key.encode()))

    @cached_property
    def own(self) -> np.ndarray:
        """(8,) what is particular to the run, standard normal."""
        return self.draw.normal(size=8)

    @property
    def target(self) -> str:
        return self.config.data.target.name

    @cached_property
    def hardness(self) -> float:
        """Of the target: 0 to 1."""
        return {"eurosat": 0.3, "pets": 0.8}.get(self.target, 0.5)

    @cached_property
    def moved(self) -> float:
        """How far the run has gone at its end; full fine-tuning at 1e-5: about 0.25."""
        method, optim = self.config.method, self.config.optim
        far = 0.25 * REACH.get(method.name, 0.35) * (optim.learning_rate / 1e-5) ** 0.6
        far *= 1 - 0.06 * getattr(method, "frozen_blocks", 0)
        far *= (getattr(method, "rank", 8) / 8) ** 0.15 * (len(getattr(method, "targets", "qv")) / 2) ** 0.3
        far *= 1 - 0.5 * optim.weight_decay
        for penalty in self.config.penalty:
            far *= 1 - HOLD.get(penalty.name, 0.5) * min(1.0, penalty.weight) ** 0.25
        return float(far * math.exp(0.07 * self.own[0]))

    @cached_property
    def profile(self) -> np.ndarray:
        """(L,) how much of the move falls on each block; mean 1, more in late blocks."""
        depth = np.linspace(0, 1, self.blocks)
        shape = 0.4 + 1.4 * depth**2 + 0.1 * np.sin(9 * depth)
        frozen = getattr(self.config.method, "frozen_blocks", 0)
        shape[: min(frozen, self.blocks - 1)] *= 0.15
        return shape / shape.mean()

    def record(self, diverges: bool = False) -> Record:
        """The whole record."""
        config, steps = self.config, 40
        looks = config.evaluation.per_epoch
        epochs = config.optim.epochs if not diverges else max(1, config.optim.epochs // 4)
        history = [
            self.point(epoch, steps * (epoch - 1) + steps * look // looks, look == looks)
            for epoch in range(1, epochs + 1)
            for look in range(1, looks + 1)
        ]
        best = last = None
        if not diverges:
            chosen = max((p for p in history if p.ends_epoch), key=lambda p: p.validation_accuracy or 0.0)
            best, last = self.final(chosen, tested=True), self.final(history[-1])
        return Record(
            key=config.key,
            status="diverged" if diverges else "done",
            reason="the loss became nan at step 130 (generated)" if diverges else None,
            config=config,
            environment={"generated": True, "python": "3.11", "device": "cpu", "packages": {}},
            model=ModelFacts(
                blocks=self.blocks, heads=12, patches=49, width=768, parameters=87_850_000,
                trained=int(87_850_000 * max(0.005, REACH.get(config.method.name, 0.35))),
            ),
            target=_facts(self.target, train=2000, validation=300, probe=200, test=2700),
            transfer={spec.name: _facts(spec.name, test=10_000) for spec in config.data.transfer},
            units={name: entry.unit for name, entry in MEASURES.items()},
            backbone=Backbone(
                measures={n: _values(v) for n, v in self.start().items()},
                zero_shot={spec.name: ZERO_SHOT.get(spec.name, 70.0) for spec in config.data.transfer},
            ),
            history=tuple(history),
            best=best,
            last=last,
            timings={"prepare": 2.0, "backbone": 1.0, "train": 60.0, "final": 5.0},
        )  # fmt: skip

    def start(self) -> dict[str, np.ndarray]:
        """The backbone's attention measures: (L,), or () where there are no blocks."""
        depth = np.linspace(0, 1, self.blocks)
        shift = 0.05 * self.hardness
        entropy = 3.80 - 0.22 * depth - shift + 0.05 * np.cos(7 * depth)
        gini = 0.16 + 0.24 * depth + shift + 0.04 * np.sin(5 * depth)
        found = {
            "entropy": entropy,
            "normalised_entropy": entropy / math.log(49),
            "erf95": 0.92 - 0.08 * depth - shift + 0.02 * np.cos(8 * depth),
            "gini": gini,
            "head_diversity": 0.08 + 0.06 * np.sin(4.5 * depth + 0.4) ** 2 - 0.4 * shift * depth,
            "cls_self": 0.05 + 0.1 * depth**2,
            "sink_share": 0.06 + 0.05 * depth,
            "sink_patches": np.zeros(self.blocks),
            "head_diversity_of_mean": 0.05 + 0.04 * np.sin(4.5 * depth + 0.4) ** 2,
        }
        return found | {
            "rollout_entropy": np.array(5.59), "rollout_erf95": np.array(0.94),
            "rollout_gini": np.array(0.09), "patch_entropy": 5.0 - 0.4 * depth,
        }  # fmt: skip

    def point(self, epoch: int, step: int, ends_epoch: bool) -> Point:
        """One look at the model, as the history keeps it: no flow, no whole zero-shot test."""
        share = step / (40 * self.config.optim.epochs)
        before = {n: v for n, v in self.start().items() if "rollout" not in n and n != "patch_entropy"}
        loss = (1 + self.hardness) * math.exp(-6 * share) + 0.02 + 0.005 * self.draw.uniform()
        return Point(
            epoch=epoch,
            step=step,
            ends_epoch=ends_epoch,
            learning_rate=self.config.optim.learning_rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * share))),
            train_loss=loss,
            train_accuracy=min(100.0, self.accuracy(share) + 0.5),
            validation_accuracy=self.accuracy(share) if ends_epoch else None,
            measures=self.measures(share, before),
        )

    def final(self, point: Point, tested: bool = False) -> Point:
        """The point with every measure and zero-shot accuracy."""
        share = point.step / (40 * self.config.optim.epochs)
        found: dict[str, Transfer] = {}
        for index, spec in enumerate(self.config.data.transfer):
            kept = self.retention(share) ** (1 - 0.3 * index) * 100 ** (0.3 * index)
            found[spec.name] = Transfer(accuracy=kept * ZERO_SHOT.get(spec.name, 70.0) / 100, retention=kept)
        return point.model_copy(
            update={
                "measures": self.measures(share, self.start()),
                "transfer": found,
                "test_accuracy": self.accuracy(share) - 0.4 if tested else None,
            }
        )

    def accuracy(self, share: float) -> float:
        """Percent; saturates with rate and time, suffers from too large a move."""
        chance = 100 / CLASSES.get(self.target, 20)
        top = 99.3 - 8 * self.hardness**2 - 9 * self.hardness * max(0.0, self.moved - 0.4)
        reach = (self.config.optim.learning_rate / 1e-6) ** 0.6 / (0.4 + self.hardness)
        reach *= 1.6 if self.config.method.name == "full_ft" else 0.6
        noise = 0.3 * self.own[1] + 0.4 * self.hardness * self.draw.normal() * (1.1 - share)
        found = chance + (top - chance) * (1 - math.exp(-1.2 * reach * share)) + 0.4 * share + noise
        return min(100.0, found)

    def retention(self, share: float) -> float:
        """Percent of the backbone's zero-shot accuracy."""
        lost = (4.2 + 1.5 * self.hardness) * self.moved * self.travelled(share)
        return float(100.8 * math.exp(-lost) * math.exp(0.03 * self.own[2]))

    def travelled(self, share: float) -> float:
        return 1 - math.exp(-4 * share)

    def measures(self, share: float, before: dict[str, np.ndarray]) -> dict[str, Values]:
        """Every measure at a share of the training, with its drift."""
        far = self.moved * self.travelled(share) * self.profile  # (L,)
        rise = 1.6 * (1 - self.hardness) * far / 0.08 * np.exp(1 - far / 0.08) / math.e
        entropy = rise - 9 * far**1.6 + 0.12 * self.own[3] + 0.05 * self.draw.normal(size=self.blocks)
        depth = np.linspace(0, 1, self.blocks)
        change = {
            "entropy": entropy, "normalised_entropy": entropy,
            "erf95": 1.6 * entropy + 0.2 * self.own[4] - 3 * far,
            "gini": -3.0 * entropy + 0.4 * self.own[5] + 6 * far,
            "head_diversity": (30 * np.cos(6 * depth) - 8) * far + 0.8 * self.own[6],
            "head_diversity_of_mean": -14 * far + 1.0 * self.own[6],
            "cls_self": 40 * far, "sink_share": -2 * entropy, "sink_patches": 0.0 * far,
            "patch_entropy": 0.3 * entropy,
        }  # fmt: skip
        whole = float(entropy.mean())
        rolled = {"rollout_entropy": 0.05, "rollout_erf95": 0.1, "rollout_gini": -0.8}
        change |= {name: np.array(factor * whole) for name, factor in rolled.items()}
        found = {}
        for name, start in before.items():
            absolute = name == "sink_patches"
            drift = change[name]
            now = start + drift if absolute else start * (1 + drift / 100)
            total = float(now.mean() - start.mean())
            percent = total if absolute else 100 * total / float(start.mean())
            found[name] = _values(now, percent, drift, absolute)
        lost = far * (1 + 0.03 * self.own[7])
        found["cka"] = _values(np.exp(-1.4 * lost))
        found["cka_biased"] = _values(0.3 + 0.7 * np.exp(-1.4 * lost))
        found["cka_embedding"] = _values(np.array(math.exp(-2.2 * lost.mean())))
        found["embedding_drift"] = _values(np.array(1 - math.exp(-1.5 * lost.mean())))
        found["weight_drift"] = _values(0.03 * lost)
        found["weight_drift_projection"] = _values(np.array(0.04 * lost.mean()))
        acts = {"q": 1.2, "k": 1.1, "v": 0.9, "out": 0.8, "fc1": 1.0, "fc2": 0.9}
        trained = getattr(self.config.method, "targets", tuple(acts))
        for kind, factor in acts.items():
            found[f"weight_drift_{kind}"] = _values(0.03 * factor * lost * (kind in trained))
        return found


def _values(
    now: np.ndarray, drift: float | None = None, blocks: np.ndarray | None = None, absolute: bool = False
) -> Values:
    blocks_now = np.atleast_1d(now).tolist()
    shown = now.ndim > 0
    return Values(
        mean=math.fsum(blocks_now) / len(blocks_now),
        blocks=tuple(blocks_now) if shown else (),
        drift=drift,
        drift_blocks=tuple(blocks.tolist()) if shown and blocks is not None else (),
        absolute=absolute,
    )


def _facts(name: str, **counts: int) -> DataFacts:
    classes = tuple(f"{name} {i}" for i in range(1, CLASSES.get(name, 20) + 1))
    images = {purpose: ImageCounts(count=n, fingerprint=f"{name}-{purpose}") for purpose, n in counts.items()}
    return DataFacts(kind="hub", classes=classes, prompts=("a photo of a {}.",), images=images)


def _path(config: RunConfig, blocks: int) -> pd.DataFrame:
    """Accuracy and retention on the way from the backbone (alpha 0) to the adapted model (1), percent."""
    course = Course(config, blocks)
    alpha = np.linspace(0, 1, 6)
    chance = 100 / CLASSES.get(course.target, 20)
    rows: dict[str, Any] = {"run": config.key, "alpha": alpha}
    rows["accuracy"] = chance + (course.accuracy(1.0) - chance) * np.sin(alpha * math.pi / 2) ** 0.7
    for spec in config.data.transfer:
        rows[f"retention_{spec.name}"] = 100 - (100 - course.retention(1.0)) * alpha**1.8
    return pd.DataFrame(rows)


def _write_maps(path: Path, blocks: int, moved: float) -> None:
    """Three images with attention of backbone and adapted model."""
    images, before, after = attention_of(blocks, moved)
    side = math.isqrt(before.shape[-1])
    titles = tuple(f"blob {i}" for i in range(1, len(images) + 1))
    Maps(images, titles, before.astype(np.float32), after.astype(np.float32), (side, side)).save(path)


def attention_of(
    blocks: int = 12, moved: float = 0.3, images: int = 3, heads: int = 12, side: int = 7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, S, S, 3) bytes and two (N, L, H, P) maps: blobs, attention on them, narrower and shifted after."""
    size = 16 * side
    y, x = np.mgrid[:size, :size] / size
    py, px = (np.mgrid[:side, :side] + 0.5) / side
    pictures: list[Any] = []
    before: list[Any] = []
    after: list[Any] = []
    for i in range(images):
        cx, cy = 0.3 + 0.2 * i, 0.65 - 0.15 * i
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.03)
        base = np.stack([0.35 + 0.2 * y, 0.45 + 0.1 * x, 0.3 + 0 * x], -1)
        pictures.append((255 * np.clip(base + blob[..., None] * (0.5, 0.2 * i, 0.1), 0, 1)).astype(np.uint8))
        for out, far in ((before, 0.0), (after, moved)):
            block, head, _ = np.mgrid[1 : blocks + 1, :heads, :1]
            wide = (0.25 - 0.12 * block / blocks - 0.1 * far) * (1 + 0.3 * np.cos(head))
            dx = px.ravel() - cx - 0.3 * far * np.sin(head + block)
            dy = py.ravel() - cy - 0.3 * far * np.cos(head - block)
            map_ = np.exp(-(dx**2 + dy**2) / wide)
            out.append(map_ / map_.sum(-1, keepdims=True))
    return np.stack(pictures), np.stack(before), np.stack(after)
