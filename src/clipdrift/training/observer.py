"""Measure the model during one run against the backbone, and prove that adapters act."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipdrift.adapt import Adapted, effective_weights
from clipdrift.config import RunConfig
from clipdrift.errors import ClipdriftError
from clipdrift.listing import absences
from clipdrift.measures import (
    Internals,
    Reading,
    own_readings,
    read_internals,
    readings,
    representation,
)
from clipdrift.measures.packing import pack, unpack
from clipdrift.model.towers import tower_of
from clipdrift.runs.record import Backbone, ModelFacts, Point, Retrieval, Transfer, Values
from clipdrift.training.abilities import Abilities
from clipdrift.training.choice import takes_last
from clipdrift.training.preparation import RunInputs
from clipdrift.training.progress import Moment
from clipdrift.training.text_observer import TextObserver

_ROUNDING = 1e-10
"""Relative change of weights below which float32 may round every trace of it away."""

_LAST_BITS = 1e-5
"""Share of the largest embedding within which two passes through the same weights may differ."""


class InactiveAdapterError(ClipdriftError):
    """Weights changed but no embedding did, or the reverse: what is measured is not what was trained."""


@dataclass(frozen=True, eq=False)
class RunObserver:
    """Looks at the model during one run; holds the backbone's side of every comparison."""

    inputs: RunInputs
    config: RunConfig
    internals: Internals
    weights: dict[str, Tensor]
    abilities: Abilities
    texts: TextObserver | None

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
            abilities=Abilities.of(inputs, config),
            texts=TextObserver.of(inputs, config),
        )

    @property
    def entropies(self) -> tuple[float, ...]:
        """The backbone's mean attention entropy in each block; none of a model without attention."""
        if "entropy" not in self.internals.measures:
            return ()
        return tuple(self.internals.blocks("entropy").tolist())

    def backbone(self) -> Backbone:
        values = {name: _values(reading) for name, reading in own_readings(self.internals).items()}
        able = self.abilities
        return Backbone(measures=values, zero_shot=able.zero_shot, retrieval=able.retrieval)

    def facts(self, adapted: Adapted) -> ModelFacts:
        clip = self.inputs.clip
        return ModelFacts(
            blocks=clip.blocks,
            heads=clip.heads,
            patches=clip.patches,
            width=clip.width,
            parameters=sum(w.numel() for w in self.weights.values()),
            trained=sum(p.numel() for _, p in adapted.parameters()),
            notes=(*clip.notes, *absences(tower_of(clip.model).absent)),
        )

    def look(self, adapted: Adapted, moment: Moment) -> Point:
        """Measure internals now, validation accuracy at an epoch's end, zero-shot on a part when asked."""
        validation = None
        part: dict[str, Transfer] = {}
        retrieved: dict[str, Retrieval] = {}
        adapted.eval()
        if moment.ends_epoch:
            validation, retrieved = self.abilities.validation(adapted)
        if moment.ends_epoch or self.config.evaluation.transfer_at == "looks":
            part = self.abilities.transfer_part(adapted)
        return Point(
            epoch=moment.epoch,
            step=moment.step,
            ends_epoch=moment.ends_epoch,
            learning_rate=moment.learning_rate,
            train_loss=moment.loss,
            train_accuracy=None if takes_last(self.config) else moment.accuracy,
            validation_accuracy=validation,
            measures=self.measure(adapted),
            transfer=part,
            retrieval=retrieved,
            logit_scale=self._scale(adapted),
        )

    def _scale(self, adapted: Adapted) -> float | None:
        return None if self.inputs.pairs is None else float(adapted.clip.model.logit_scale.detach().exp())

    def measure(self, adapted: Adapted, flow: bool = False) -> dict[str, Values]:
        """Every measure of the model as it is now, with its drift; proves that adapters are active.

        Those that need whole attention maps only with ``flow``.
        """
        size = self.config.evaluation.batch_size
        now = read_internals(adapted.clip.model, self.inputs.probe, size, flow=flow)
        found = readings(
            self.internals, now, self.weights, effective_weights(adapted.clip.model), minibatch=False
        )
        _same_or_not("image", found, "", self.internals.embedding, now.embedding)
        if self.texts is not None:
            texts, embedding = self.texts.readings(adapted)
            _same_or_not("text", texts, "text_", self.texts.internals.embedding, embedding)
            found |= texts
        return {name: _values(reading) for name, reading in found.items()}

    def final(self, adapted: Adapted, point: Point) -> Point:
        """The point with the whole of every transfer set, and with all measures."""
        adapted.eval()
        transfer, retrieved, crossed = self.abilities.transfer(adapted)
        return point.model_copy(
            update={
                "transfer": transfer,
                "retrieval": point.retrieval | retrieved,
                "crossed": crossed,
                "measures": self.measure(adapted, flow=True),
            }
        )

    def tested(self, adapted: Adapted, point: Point) -> Point:
        """The point with the test images, which are read once."""
        accuracy, retrieved, crossed = self.abilities.test(adapted)
        return point.model_copy(
            update={
                "test_accuracy": accuracy,
                "retrieval": point.retrieval | retrieved,
                "crossed": point.crossed | crossed,
            }
        )


def _same_or_not(
    tower: str, found: Mapping[str, Reading], prefix: str, before: Tensor, after: Tensor
) -> None:
    """Refuse weights that changed where no embedding did, and the reverse.

    Args:
        found: readings of the tower, whose names begin with ``prefix``.
        before, after: embeddings. Of the same weights they may differ in their last bits, as torch takes
            another way through OpenCLIP's attention once weights are not to be trained.
    """
    names = [prefix + name for name in ("weight_drift", "weight_drift_projection")]
    change = max(found[name].value for name in names if name in found)
    same = torch.equal(before, after)
    rounded = bool((after - before).abs().max() <= _LAST_BITS * before.abs().max())
    if change > _ROUNDING if same else change == 0 and not rounded:
        what = "changed but no embedding did" if same else "did not change but embeddings did"
        raise InactiveAdapterError(
            f"the {tower} tower's weights {what}: what is measured is not the model that was trained"
        )


def prove_trained(adapted: Adapted, trained: Collection[str]) -> None:
    """After training: the loss had a gradient in the model, unless the method trains the head alone.

    Args:
        trained: names of the parameters that have had one.

    Raises:
        InactiveAdapterError: the head alone has learnt; the rest was frozen or no part of the forward pass.
    """
    if adapted.artefact != "head" and all(name.startswith("head.") for name in trained):
        raise InactiveAdapterError("no weight of the model took part in training; only the head has learnt")


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
