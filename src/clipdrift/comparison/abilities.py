"""Zero-shot ability before and after: transfer sets and retrieval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipdrift import formulas
from clipdrift.comparison import CrossedTowers, JointSpace, Retrieval, TransferRow
from clipdrift.comparison.models import OpenedModel, PairError
from clipdrift.config import DataSet
from clipdrift.data.deck import Deck
from clipdrift.data.sources import open_source
from clipdrift.measures import embed, embed_texts, ranks_both_ways, recall_at
from clipdrift.measures.still import in_float32, still
from clipdrift.model.clip import Clip
from clipdrift.model.towers import unwrapped
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.reporter import Reporter
from clipdrift.training.decks import DeckFactory

Ranks = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Reading:
    """A Clip's text encoder as the images are read: in eval mode and float32, leaving no trace."""

    clip: Clip

    def __call__(self, texts: Sequence[str]) -> Tensor:
        with still(self.clip.model):
            found: Tensor = in_float32(_Texts(self.clip), texts)
            return found


class _Texts(nn.Module):
    """A text encoder as a module, around the live model."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.model = clip.model
        self.encode = clip.texts

    def forward(self, texts: Sequence[str]) -> Tensor:
        return self.encode(texts)


def texts_of(side: OpenedModel, other: OpenedModel) -> Clip:
    """A Clip whose texts are encoded by this side's own text tower, where it has one.

    A model in memory has no tokenizer; where it is of the other side's class, that side's is taken. Of any
    other class, such as one of images alone, it is tested with the other side's texts.

    Raises:
        PairError: neither side knows how to read texts.
    """
    if side.clip is not None:
        clip = side.clip
    elif other.clip is None:
        raise PairError("zero-shot needs a tokenizer: give BASE by name, by folder or as a Clip")
    elif has_texts(side, other):
        model, encoder = unwrapped(side.model), cast(Any, other.clip.texts)
        clip = replace(other.clip, model=model, texts=replace(encoder, model=model))
    else:
        clip = other.clip
    return replace(clip, texts=_Reading(clip))


def has_texts(side: OpenedModel, other: OpenedModel) -> bool:
    """Whether a side can be tested with texts of its own."""
    return side.clip is not None or type(unwrapped(side.model)) is type(unwrapped(other.model))


@dataclass(frozen=True, eq=False)
class TestSet:
    """A transfer set as both models are tested on it.

    Attributes:
        deck: its images, with labels.
        fingerprint: of their content.
    """

    __test__ = False  # its name begins as those of tests do

    name: str
    deck: Deck
    fingerprint: str | None
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of its classes by the first prompt."""
        return tuple(self.prompts[0].format(name) for name in self.classes)


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """What one model makes of a transfer set of n images and C classes: all that its row follows from.

    Attributes:
        images: (n, E) embeddings, on the CPU.
        texts: (C, E) features of the classes by the first prompt.
        ensemble: (C, E) by all prompts; None where there is one.
        scale: temperature by which cosines become logits.
    """

    images: Tensor
    texts: Tensor
    ensemble: Tensor | None
    scale: float

    @property
    def logits(self) -> Tensor:
        """(n, C) in float64."""
        return self.scale * _cosines(self.images, self.texts)

    def right(self, labels: Tensor) -> Tensor:
        """(n,) whether each image's nearest class text is the right one."""
        return _cosines(self.images, self.texts).argmax(-1) == labels


def open_test_set(spec: DataSet, size: int, factory: DeckFactory) -> TestSet:
    """Open a transfer set for models that take images of ``size`` pixels.

    Raises:
        DataError: what cannot be opened, and why.
    """
    source = open_source(spec, image_size=size, parts=("test",))
    deck, counted = factory.part(spec, source)
    return TestSet(spec.name, deck, counted.fingerprint, source.classes, source.prompts, source.notes)


def read_zero_shot(
    side: OpenedModel, clip: Clip, test: TestSet, batch_size: int | None, reporter: Reporter
) -> ZeroShot:
    """Read one model on a transfer set, texts by ``clip``.

    Raises:
        PairError: its temperature is beyond any number.
    """
    reporter.stage(f"zero-shot on {test.name}, {side.name}")
    images = replace(test.deck, device=next(side.model.parameters()).device)
    embedded = embed(side.model, images, batch_size, reporter.advance)
    features = class_features(clip, test.classes, test.prompts[:1])
    several = len(test.prompts) > 1
    ensemble = class_features(clip, test.classes, test.prompts) if several else None
    return ZeroShot(
        embedded.cpu(), features.cpu(), None if ensemble is None else ensemble.cpu(), _scale(clip, side.name)
    )


def transfer_row(test: TestSet, before: ZeroShot, after: ZeroShot) -> TransferRow:
    """Zero-shot ability on one set, the same images and prompts on both sides."""
    labels = torch.from_numpy(test.deck.labels)
    sides = (before, after)
    right = [100 * side.right(labels).double().mean().item() for side in sides]
    ensemble = [
        _percent(_cosines(side.images, side.ensemble), labels) for side in sides if side.ensemble is not None
    ]
    row = TransferRow(
        images=len(test.deck),
        classes=len(test.classes),
        prompts=test.prompts,
        before=right[0],
        after=right[1],
        agreement=float(formulas.zero_shot_agreement(before.logits, after.logits)),
        kl=float(formulas.zero_shot_kl(before.logits, after.logits)),
        ensemble_before=ensemble[0] if ensemble else None,
        ensemble_after=ensemble[1] if ensemble else None,
        crossed=_crossed_accuracy([(side.images, side.texts) for side in sides], labels),
        notes=test.notes,
    )
    kept = 100 * row.after / row.before if row.measurable else None
    return row.model_copy(update={"retention": kept})


def _crossed_accuracy(towers: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> CrossedTowers | None:
    """Accuracy (percent) of each image tower with the other text tower.

    Args:
        towers: embeddings of images (n, E) and of classes (C, E), before and after.
    """
    (old_images, old_texts), (new_images, new_texts) = towers
    if _alike(old_texts, new_texts) or old_texts.shape != new_texts.shape:
        return None
    return CrossedTowers(
        tuned_image=_percent(_cosines(new_images, old_texts), labels),
        tuned_text=_percent(_cosines(old_images, new_texts), labels),
    )


def _alike(before: Tensor, after: Tensor) -> bool:
    """Whether two lists of text embeddings (n, E) are the same but for rounding."""
    one, other = before.float().cpu(), after.float().cpu()
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """(n, m) in float64, which neither an autocast nor the precision settings around us can lower."""
    left, right = (normalize(features.cpu().double(), dim=-1) for features in (images, texts))
    return left @ right.T


def _percent(scores: Tensor, labels: Tensor) -> float:
    return 100 * (scores.argmax(-1) == labels).double().mean().item()


@torch.no_grad()
def _scale(clip: Clip, name: str) -> float:
    """The temperature by which a model turns cosines into logits."""
    log = clip.model.logit_scale.detach().float()
    scale = float(log.exp())
    if not math.isfinite(scale):
        raise PairError(f"{name}: its logit scale, exp({float(log):g}), is beyond any number; it is broken")
    return scale


def same_texts(base: OpenedModel, tuned: OpenedModel) -> bool:
    """Whether both text towers give the same embedding of a text."""
    one, other = texts_of(base, tuned), texts_of(tuned, base)
    return _alike(*(clip.texts(["a photo of a cat"]) for clip in (one, other)))


def retrieval(
    base: OpenedModel,
    tuned: OpenedModel,
    embeddings: Sequence[Tensor],
    captions: Mapping[int, tuple[str, ...]],
) -> Retrieval:
    """Recall at k between the images that have captions and all their captions, on both sides.

    A caption is right for every image that has one of the same words.

    Args:
        embeddings: (N, E) of all probe images, before and after.
        captions: texts by position.

    Raises:
        PairError: no tokenizer is known.
    """
    positions = sorted(captions)
    texts = [text for position in positions for text in captions[position]]
    owner = torch.tensor([i for i, position in enumerate(positions) for _ in captions[position]])
    own = [captions[position] for position in positions]
    clips = texts_of(base, tuned), texts_of(tuned, base)
    encoded = [embed_texts(clip, texts) for clip in clips]
    pictures = [embedded[positions] for embedded in embeddings]
    ranks = [_ranks(*pair, own) for pair in zip(pictures, encoded, strict=True)]
    found = [_recalls(*both) for both in ranks]
    crossed: list[dict[int, CrossedTowers]] = [{}, {}]
    if not _alike(*encoded) and encoded[0].shape == encoded[1].shape:
        image = _recalls(*_ranks(pictures[1], encoded[0], own))
        words = _recalls(*_ranks(pictures[0], encoded[1], own))
        crossed = [
            {k: CrossedTowers(tuned_image=image[way][k], tuned_text=words[way][k]) for k in image[way]}
            for way in (0, 1)
        ]
    to_text, to_image = ([float(np.median(both[way])) for both in ranks] for way in (0, 1))
    spaces = [
        _space(images, words, owner, _scale(clip, side.name))
        for images, words, clip, side in zip(pictures, encoded, clips, (base, tuned), strict=True)
    ]
    return Retrieval(
        images=len(positions),
        captions=len(texts),
        image_to_text_before=found[0][0],
        image_to_text_after=found[1][0],
        text_to_image_before=found[0][1],
        text_to_image_after=found[1][1],
        image_to_text_crossed=crossed[0],
        text_to_image_crossed=crossed[1],
        image_to_text_rank=(to_text[0], to_text[1]),
        text_to_image_rank=(to_image[0], to_image[1]),
        space_before=spaces[0],
        space_after=spaces[1],
    )


def _ranks(images: Tensor, texts: Tensor, captions: Sequence[Sequence[str]]) -> tuple[Ranks, Ranks]:
    """Ranks of the best match both ways, as of :func:`clipdrift.measures.ranks_both_ways`."""
    left, right = (normalize(found.cpu().double(), dim=-1) for found in (images, texts))
    return ranks_both_ways(left, right, captions)


def _recalls(to_text: Ranks, to_image: Ranks) -> tuple[dict[int, float], dict[int, float]]:
    """Recall at each k of images by captions, and of captions by images."""
    return recall_at(to_text, len(to_image)), recall_at(to_image, len(to_text))


def _space(images: Tensor, captions: Tensor, owner: Tensor, scale: float) -> JointSpace | None:
    """The space of images (n, E) and captions (m, E), of which ``owner`` (m,) says whose each is.

    None where it is not defined: two images at least, captions that have a direction.
    """
    words = captions.cpu().double()
    if len(images) < 2 or len(words) < 2 or not bool((words.norm(dim=1) > 0).all()):
        return None
    pictures = images.cpu().double()
    return JointSpace(
        modality_gap=float(formulas.modality_gap(pictures, words)),
        alignment=float(formulas.alignment(pictures[owner], words)),
        uniformity_images=float(formulas.uniformity(pictures)),
        uniformity_captions=float(formulas.uniformity(words)),
        logit_scale=scale,
    )
