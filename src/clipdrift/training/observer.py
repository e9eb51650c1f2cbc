"""Measure the model during one run against the backbone, and prove that adapters act."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from clipdrift.adapt import Adapted, effective_weights
from clipdrift.config import RunConfig
from clipdrift.data.splits import balanced
from clipdrift.errors import ClipdriftError
from clipdrift.measures import (
    Internals,
    Reading,
    accuracy,
    own_readings,
    read_internals,
    readings,
    representation,
    zero_shot_accuracy,
)
from clipdrift.measures.packing import pack, unpack
from clipdrift.model.towers import tower_of
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.record import Backbone, ModelFacts, Point, Transfer, Values
from clipdrift.training.preparation import RunInputs
from clipdrift.training.progress import Moment

_ROUNDING = 1e-10
"""Relative change of weights below which float32 may round every trace of it away."""


class InactiveAdapterError(ClipdriftError):
    """Weights changed but no embedding did, or the reverse: what is measured is not what was trained."""


@dataclass(frozen=True, eq=False)
class RunObserver:
    """Looks at the model during one run; holds the backbone's side of every comparison."""

    inputs: RunInputs
    config: RunConfig
    internals: Internals
    weights: dict[str, Tensor]
    zero_shot: dict[str, float]
    part_zero_shot: dict[str, float]

    @classmethod
    def of(cls, inputs: RunInputs, config: RunConfig) -> RunObserver:
        """Measure the backbone, or find it measured; to be called before anything is adapted."""
        model, size = inputs.clip.model, config.evaluation.batch_size
        probe = inputs.target.images["probe"]
        packed = inputs.backbone_cache.tensors(
            "measurement",
            [probe.fingerprint, probe.count, size],
            lambda: pack(read_internals(model, inputs.probe, size, flow=True)),
        )
        internals = unpack(packed, tower_of(model).reader)
        representation(internals, internals)  # what is undefined already now is no matter of training
        return cls(
            inputs=inputs,
            config=config,
            internals=internals,
            weights={k: v.detach().to("cpu", copy=True) for k, v in effective_weights(model).items()},
            zero_shot=_baseline(inputs, size),
            part_zero_shot=_baseline(
                inputs, size, config.evaluation.epoch_transfer_per_class, config.data.seed
            ),
        )

    def backbone(self) -> Backbone:
        values = {name: _values(reading) for name, reading in own_readings(self.internals).items()}
        return Backbone(measures=values, zero_shot=self.zero_shot)

    def facts(self, adapted: Adapted) -> ModelFacts:
        clip = self.inputs.clip
        return ModelFacts(
            blocks=clip.blocks,
            heads=clip.heads,
            patches=clip.patches,
            width=clip.width,
            parameters=sum(w.numel() for w in self.weights.values()),
            trained=sum(p.numel() for _, p in adapted.parameters()),
            notes=clip.notes,
        )

    def look(self, adapted: Adapted, moment: Moment) -> Point:
        """Measure internals now and, at an epoch's end, validation accuracy."""
        size = self.config.evaluation.batch_size
        validation = None
        part: dict[str, Transfer] = {}
        adapted.eval()
        if moment.ends_epoch:
            validation = accuracy(adapted.clip.model, adapted.head, self.inputs.validation, size)
            per_class = self.config.evaluation.epoch_transfer_per_class
            now = self._zero_shot_now(adapted, per_class)
            part = _retention(now, self.part_zero_shot)
        return Point(
            epoch=moment.epoch,
            step=moment.step,
            ends_epoch=moment.ends_epoch,
            learning_rate=moment.learning_rate,
            train_loss=moment.loss,
            train_accuracy=moment.accuracy,
            validation_accuracy=validation,
            measures=self.measure(adapted),
            transfer=part,
        )

    def _zero_shot_now(self, adapted: Adapted, per_class: int | None = None) -> dict[str, float]:
        """Zero-shot accuracy by set, with class texts made anew where the text tower is trained."""
        inputs = self.inputs
        if adapted.trains_texts:
            fresh = {
                name: replace(t, features=class_features(inputs.clip, t.facts.classes, t.facts.prompts))
                for name, t in inputs.transfer.items()
            }
            inputs = replace(inputs, transfer=fresh)
        return _zero_shot(inputs, self.config.evaluation.batch_size, per_class, self.config.data.seed)

    def measure(self, adapted: Adapted, flow: bool = False) -> dict[str, Values]:
        """Every measure of the model as it is now, with its drift; proves that adapters are active.

        Those that need whole attention maps only with ``flow``.
        """
        size = self.config.evaluation.batch_size
        now = read_internals(adapted.clip.model, self.inputs.probe, size, flow=flow)
        found = readings(
            self.internals, now, self.weights, effective_weights(adapted.clip.model), minibatch=False
        )
        change = max(
            found[name].value for name in ("weight_drift", "weight_drift_projection") if name in found
        )
        same = torch.equal(now.embedding, self.internals.embedding)
        if change > _ROUNDING if same else change == 0:
            what = "changed but no embedding did" if same else "did not change but embeddings did"
            raise InactiveAdapterError(
                f"the image tower's weights {what}: what is measured is not the model that was trained"
            )
        return {name: _values(reading) for name, reading in found.items()}

    def final(self, adapted: Adapted, point: Point) -> Point:
        """The point with zero-shot accuracy on the whole of every transfer set, and with all measures."""
        adapted.eval()
        now = self._zero_shot_now(adapted)
        found = {"transfer": _retention(now, self.zero_shot), "measures": self.measure(adapted, flow=True)}
        return point.model_copy(update=found)


def prove_trained(adapted: Adapted, trained: Collection[str]) -> None:
    """After training: the loss had a gradient in the image tower, unless the method trains the head alone.

    Args:
        trained: names of the parameters that have had one.

    Raises:
        InactiveAdapterError: the head alone has learnt; the rest was frozen or no part of the forward pass.
    """
    if adapted.artefact != "head" and all(name.startswith("head.") for name in trained):
        raise InactiveAdapterError(
            "no weight of the image tower took part in training; only the head has learnt"
        )


def _zero_shot(
    inputs: RunInputs, batch_size: int | None, per_class: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Accuracy by set, through the model as it is; on all images, or a fixed balanced part (0: none)."""
    out = {}
    for name, transfer in inputs.transfer.items():
        deck = transfer.deck
        if per_class == 0:
            continue
        if per_class is not None:
            deck = deck.subset(balanced(deck.labels, per_class, seed, classes=transfer.facts.classes))
        out[name] = zero_shot_accuracy(inputs.clip.model, transfer.features, deck, batch_size)
    return out


def _baseline(
    inputs: RunInputs, batch_size: int | None, per_class: int | None = None, seed: int = 0
) -> dict[str, float]:
    """:func:`_zero_shot` of the untouched backbone, kept for the next run."""
    out = {}
    for name, transfer in inputs.transfer.items():
        if per_class == 0:
            continue
        images = transfer.facts.images["test"]
        labels = hashlib.sha256(transfer.deck.labels.tobytes()).hexdigest()
        given = [images.fingerprint, images.count, labels, transfer.facts.classes, transfer.facts.prompts]
        given += [batch_size]
        if per_class is not None:
            given += [per_class, seed]
        work = partial(_zero_shot, replace(inputs, transfer={name: transfer}), batch_size, per_class, seed)
        out[name] = inputs.backbone_cache.number("zero-shot", given, lambda: work()[name])  # noqa: B023
    return out


def _retention(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, Transfer]:
    return {
        name: Transfer(accuracy=value, retention=100 * value / before[name] if before[name] else None)
        for name, value in now.items()
    }


def _values(reading: Reading) -> Values:
    change = reading.drift
    if change is None:
        return Values(mean=reading.value, blocks=reading.blocks)
    return Values(
        mean=reading.value,
        blocks=reading.blocks,
        drift=change.mean,
        drift_blocks=change.blocks,
        absolute=change.absolute,
    )
