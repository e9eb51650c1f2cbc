"""Test the head of an image classifier on a labelled set of its own classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.comparison import HeadRow
from clipdrift.comparison.models import OpenedModel, PairError
from clipdrift.config import DataSet
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import Source, open_source
from clipdrift.measures.still import in_float32, still
from clipdrift.model.half_loading import Classifier
from clipdrift.model.towers.base import per_pass
from clipdrift.runs.reporter import Reporter
from clipdrift.training.decks import DeckFactory

_NAMED = 3
"""Classes that a message names."""


@dataclass(frozen=True, eq=False)
class OpenedHead:
    """A head and the set that it is to be tested on.

    Attributes:
        outputs: for each class of the set, which output of the head it is.
    """

    name: str
    classifier: Classifier
    spec: DataSet
    source: Source
    outputs: tuple[int, ...]


def open_head(tuned: OpenedModel, spec: DataSet, image_size: int) -> OpenedHead:
    """Open the set and match its classes with the head's by their names.

    Raises:
        PairError: TUNED has no head, or the classes differ.
        DataError: the set cannot be opened.
    """
    if tuned.head is None:
        raise PairError(
            f"{tuned.name}: --target tests the head of an image classifier, and this has none; zero-shot "
            "ability is tested with --transfer, and the accuracy of a run's own head is in its record.json"
        )
    source = open_source(spec, image_size=image_size, parts=("test",))
    names = [source.classes, *([source.own_names] if source.own_names else [])]
    outputs = [_matched(tuned.head.classes, classes) for classes in names]
    found = next((one for one in outputs if one is not None), None)
    if found is None:
        raise PairError(_odd(tuned.name, tuned.head.classes, spec.name, source.classes))
    return OpenedHead(tuned.name, tuned.head, spec, source, found)


def plain_name(name: str) -> str:
    """A class's name as names are compared: Unicode NFC, without case, underscores as spaces."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").casefold().split())


def _matched(head: Sequence[str], classes: Sequence[str]) -> tuple[int, ...] | None:
    """The head's output for each class; None: the names are not the same ones, each once."""
    position = {plain_name(name): i for i, name in enumerate(head)}
    wanted = [plain_name(name) for name in classes]
    if len(position) < len(head) or len(set(wanted)) < len(wanted) or position.keys() != set(wanted):
        return None
    return tuple(position[name] for name in wanted)


def _odd(name: str, head: Sequence[str], data: str, classes: Sequence[str]) -> str:
    if all(one == f"LABEL_{i}" for i, one in enumerate(head)):
        why = f"its {len(head)} classes have no names; set id2label in its config.json"
    else:
        left, right = ({plain_name(one): one for one in names} for names in (head, classes))
        only = [
            f"{len(missing)} only in {where} ({_some(missing)})"
            for where, missing in (
                ("the head", [left[one] for one in left.keys() - right.keys()]),
                (data, [right[one] for one in right.keys() - left.keys()]),
            )
            if missing
        ]
        why = f"{len(head)} classes against {len(classes)}, {', '.join(only) or 'of which some share a name'}"
    return f"{name}: its head does not know the classes of {data}: {why}; give the set that it was trained on"


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def head_preprocess(tuned: OpenedModel, shared: Preprocess | None) -> Preprocess | None:
    """The classifier's own preprocessing; where it has none, that of the comparison."""
    return (tuned.head.preprocess if tuned.head else None) or shared


class _Logits(nn.Module):
    """A classifier as a module from images to logits."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values=images).logits
        return logits


def head_accuracy(
    head: OpenedHead, factory: DeckFactory, place: torch.device, batch_size: int | None, reporter: Reporter
) -> HeadRow:
    """Percent of the set's images that the head classifies rightly, in float32 and eval mode.

    Args:
        factory: decodes the images by the preprocessing that the head is tested with.
        place: where a head that was loaded here is run; one in memory stays where it is.

    Raises:
        DataError: images that cannot be read.
    """
    reporter.stage(f"head of {head.name} on {head.spec.name}")
    model = head.classifier.model
    if not head.classifier.in_memory:
        model.to(place)
    where = next(model.parameters()).device
    deck, counted = factory.part(head.spec, head.source)
    images = replace(deck, device=where)
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    per = per_pass(side * side + 1, where) if batch_size is None else batch_size
    outputs = torch.tensor(head.outputs)
    labels = torch.from_numpy(deck.labels)
    right = 0
    with still(model):
        run = _Logits(model)
        for batch, piece in images.batches(per):
            predicted = in_float32(run, batch.float()).argmax(-1).cpu()
            right += int((predicted == outputs[labels[piece]]).sum())
            reporter.advance(piece.stop, len(deck))
    return HeadRow(
        target=head.spec.name,
        images=len(deck),
        classes=len(head.source.classes),
        accuracy=100 * right / len(deck),
        fingerprint=counted.fingerprint,
        notes=head.source.notes,
    )
