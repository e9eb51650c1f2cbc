"""Measure a model at one setting of a repair against the backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.comparison import Compared
from clipdrift.comparison.tables import compared
from clipdrift.data.deck import Batches, Deck
from clipdrift.errors import ClipdriftError
from clipdrift.measures import Internals, accuracy, read_internals, readings, zero_shot_accuracy
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights
from clipdrift.model.zero_shot import class_features
from clipdrift.repair import Step, TransferTest
from clipdrift.repair.endpoints import Endpoints
from clipdrift.runs.record import Transfer
from clipdrift.runs.reporter import Reporter
from clipdrift.shapes import ClassFeatures

_ROUNDING = 1e-10
"""Relative change of weights below which float32 may round every trace of it away."""


class NotMovedError(ClipdriftError):
    """Weights were moved and no embedding was: what is measured is not the model at its setting."""


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """A transfer set: its images, the names of its classes, prompt templates."""

    deck: Deck
    classes: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StepMeasurer:
    """A live model and everything that it is read on.

    Attributes:
        endpoints: the live model.
        probe: the images on which internals are read.
        texts: encodes class texts; by the live model's own text tower where it has one.
        sets: transfer sets by name.
        head: the run's own; it stays, or is among what the endpoints move.
        labelled: images on which the head is tested.
        test: images on which it is tested once, at the setting that is saved.
        refresh: makes a head anew that follows the text tower, as flyp's does.
        recall: of a run on captions, which has no head: mean recall at 1 on such images, percent.
        batch_size: images per pass; none: by the number of tokens.
        flow: rollout and patch entropy too, which need whole attention maps.
    """

    endpoints: Endpoints
    probe: Batches
    texts: Clip | None
    sets: Mapping[str, ZeroShot]
    head: nn.Module | None
    labelled: Deck | None
    test: Deck | None
    reporter: Reporter
    refresh: Callable[[Any], None] | None = None
    recall: Callable[[Deck], float] | None = None
    batch_size: int | None = None
    flow: bool = False

    @property
    def device(self) -> torch.device:
        place: Any = next(self.endpoints.model.parameters()).device
        return torch.device(place)

    def read(self) -> Internals:
        return read_internals(
            self.endpoints.model, self.probe, self.batch_size, flow=self.flow, progress=self.reporter.advance
        )

    def accuracy(self, deck: Deck | None) -> float | None:
        """Percent, by the head or by retrieval; None where there is neither or nothing to test on."""
        if self.recall is not None and deck is not None:
            return self.recall(deck)
        if self.head is None or deck is None:
            return None
        if self.refresh is not None:
            self.refresh(self.head)
        return accuracy(self.endpoints.model, self.head, deck, self.batch_size)

    def features(self, name: str) -> ClassFeatures:
        assert self.texts is not None  # without a tokenizer there are no transfer sets
        return class_features(self.texts, self.sets[name].classes, self.sets[name].prompts)

    def zero_shot(self, name: str, features: ClassFeatures) -> float:
        """Percent."""
        deck = replace(self.sets[name].deck, device=self.device)
        return zero_shot_accuracy(self.endpoints.model, features.to(self.device), deck, self.batch_size)


@dataclass(frozen=True, eq=False)
class StepComparer:
    """A step measurer with the backbone's readings, which every step is compared with."""

    measurer: StepMeasurer
    internals: Internals
    weights: Mapping[str, Tensor]
    features: Mapping[str, ClassFeatures]
    before: Mapping[str, float]

    @classmethod
    def of(cls, measurer: StepMeasurer) -> StepComparer:
        """Read the backbone; the live model is the tuned one again afterwards."""
        measurer.reporter.stage("reading the backbone")
        measurer.endpoints.put(0)
        try:
            features = {name: measurer.features(name) for name in measurer.sets}
            return cls(
                measurer=measurer,
                internals=measurer.read(),
                weights={name: w.clone() for name, w in effective_weights(measurer.endpoints.model).items()},
                features=features,
                before={name: measurer.zero_shot(name, found) for name, found in features.items()},
            )
        finally:
            measurer.endpoints.put(1)

    @property
    def tested(self) -> dict[str, TransferTest]:
        """The transfer sets, with what the backbone reaches."""
        return {
            name: TransferTest(
                images=len(found.deck),
                classes=len(found.classes),
                prompts=found.prompts,
                before=self.before[name],
            )
            for name, found in self.measurer.sets.items()
        }

    def look(self, label: str, **setting: Any) -> Step:
        """Measure the live model as it is now, in every way but on test images.

        Raises:
            NotMovedError, MeasureError: what is measured is not the model, or a measure is undefined.
        """
        measurer = self.measurer
        measurer.reporter.stage(f"reading {label}")
        measures = self._measures(label)
        transfer = self._transfer()
        right = measurer.accuracy(measurer.labelled)
        return Step(label=label, accuracy=right, measures=measures, transfer=transfer, **setting)

    def retention(self) -> dict[str, float | None]:
        """Retention of the live model as it is now, by transfer set."""
        return {name: row.retention for name, row in self._transfer().items()}

    def _transfer(self) -> dict[str, Transfer]:
        found, tested, measurer = {}, self.tested, self.measurer
        for name, before in self.before.items():
            # where the text tower moves too, the class texts are made anew
            features = measurer.features(name) if measurer.endpoints.moves_texts else self.features[name]
            now = measurer.zero_shot(name, features)
            kept = 100 * now / before if tested[name].measurable else None
            found[name] = Transfer(accuracy=now, retention=kept)
        return found

    def tested_at(self, step: Step) -> Step:
        """The step with test accuracy, for the setting at which the live model is now."""
        return step.model_copy(update={"test_accuracy": self.measurer.accuracy(self.measurer.test)})

    def _measures(self, label: str) -> dict[str, Compared]:
        now = self.measurer.read()
        found = readings(self.internals, now, self.weights, effective_weights(self.measurer.endpoints.model))
        change = max(reading.value for name, reading in found.items() if name.startswith("weight_drift"))
        if change > _ROUNDING and torch.equal(now.embedding, self.internals.embedding):
            raise NotMovedError(
                f"{label}: weights differ from the backbone's and no embedding does; what is measured is "
                "not the model at this setting"
            )
        return compared(found)
