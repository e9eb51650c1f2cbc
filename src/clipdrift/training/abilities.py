"""What the model can do during one run: zero-shot and retrieval, beside the backbone's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from clipdrift.adapt import Adapted
from clipdrift.config import ContrastiveObjective, Flyp, RunConfig
from clipdrift.data.caption_store import CaptionSource
from clipdrift.data.deck import Deck
from clipdrift.data.splits import balanced
from clipdrift.measures import accuracy, embed, embed_texts, retrieval, zero_shot_accuracy
from clipdrift.model.zero_shot import class_features, predict
from clipdrift.runs.record import CrossedTowers, Retrieval, Transfer
from clipdrift.shapes import ClassFeatures
from clipdrift.training.decks import TransferSet
from clipdrift.training.preparation import RunInputs

TEST = "test"
VALIDATION = "validation"


@dataclass(frozen=True, eq=False)
class Abilities:
    """Tests the model during one run; holds the backbone's side.

    Attributes:
        zero_shot: the backbone's accuracy (percent) by transfer set, or mean recall at 1.
        part: the same on the part that is tested after each epoch.
        retrieval: the backbone's, where there are captions.
        before: the backbone's embeddings of images and texts by set, where both towers will change.
    """

    inputs: RunInputs
    config: RunConfig
    zero_shot: dict[str, float]
    part: dict[str, float]
    retrieval: dict[str, Retrieval]
    before: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, inputs: RunInputs, config: RunConfig) -> Abilities:
        """Test the backbone, or find it tested; to be called before anything is adapted."""
        size, few = config.evaluation.batch_size, config.evaluation.epoch_transfer_per_class
        captioned = _captioned(inputs)
        embeddings, found = {}, {}
        for name, (deck, captions) in captioned.items():
            words = list(captions)
            embeddings[name] = _kept_embeddings(inputs, name, deck, captions.fingerprint(), words, size)
            found[name] = retrieval(*embeddings[name], words)
        if both := _changes_both(config):
            embeddings |= {
                name: (_kept_images(inputs, name, transfer, size), transfer.features.cpu())
                for name, transfer in inputs.transfer.items()
                if transfer.features is not None
            }
        return cls(
            inputs=inputs,
            config=config,
            zero_shot={
                name: found[name].recall if name in found else _baseline(inputs, name, size)
                for name in inputs.transfer
            },
            part={
                name: _baseline(inputs, name, size, few, config.data.seed)
                for name, transfer in inputs.transfer.items()
                if few and transfer.features is not None
            },
            retrieval=found,
            before=embeddings if both else {},
        )

    def validation(self, adapted: Adapted) -> tuple[float, dict[str, Retrieval]]:
        """Accuracy on the validation images, or mean recall at 1, and the retrieval behind it."""
        if self.inputs.pairs is None:
            return self._accuracy(adapted, self.inputs.validation), {}
        found = self._retrieval(VALIDATION)[0]
        return found.recall, {VALIDATION: found}

    def test(self, adapted: Adapted) -> tuple[float, dict[str, Retrieval], dict[str, CrossedTowers]]:
        """The same on the test images, and what each adapted tower does there beside the backbone's other."""
        if self.inputs.pairs is None:
            return self._accuracy(adapted, self.inputs.test), {}, {}
        found, crossed = self._retrieval(TEST)
        return found.recall, {TEST: found}, {} if crossed is None else {TEST: crossed}

    def transfer_part(self, adapted: Adapted) -> dict[str, Transfer]:
        """Zero-shot on a fixed, balanced part of the sets that have classes."""
        few, seed = self.config.evaluation.epoch_transfer_per_class, self.config.data.seed
        now = {}
        for name in self.part:
            transfer = self.inputs.transfer[name]
            part = _part(transfer, few, seed)
            now[name] = _percent(self._images(part), self._features(adapted, transfer), part)
        return _retention(now, self.part)

    def transfer(
        self, adapted: Adapted
    ) -> tuple[dict[str, Transfer], dict[str, Retrieval], dict[str, CrossedTowers]]:
        """Zero-shot and retrieval on the whole of every transfer set, and each adapted tower alone."""
        now: dict[str, float] = {}
        found: dict[str, Retrieval] = {}
        crossed: dict[str, CrossedTowers] = {}
        for name, transfer in self.inputs.transfer.items():
            if transfer.captions is not None:
                found[name], apart = self._retrieval(name)
                now[name] = found[name].recall
            else:
                images, features = self._images(transfer.deck), self._features(adapted, transfer)
                now[name] = _percent(images, features, transfer.deck)
                apart = None
                if name in self.before:
                    old_images, old_features = self.before[name]
                    apart = CrossedTowers(
                        tuned_image=_percent(images, old_features, transfer.deck),
                        tuned_text=_percent(old_images, features, transfer.deck),
                    )
            if apart is not None:
                crossed[name] = apart
        return _retention(now, self.zero_shot), found, crossed

    def _retrieval(self, name: str) -> tuple[Retrieval, CrossedTowers | None]:
        """Retrieval on a set with captions by the model as it is, and by each of its towers alone."""
        deck, captions = _captioned(self.inputs)[name]
        words = list(captions)
        images, texts = _embeddings(self.inputs, deck, words, self.config.evaluation.batch_size)
        found, crossed = retrieval(images, texts, words), None
        if name in self.before and name != VALIDATION:
            old_images, old_texts = self.before[name]
            crossed = CrossedTowers(
                tuned_image=retrieval(images, old_texts, words).recall,
                tuned_text=retrieval(old_images, texts, words).recall,
            )
        return found, crossed

    def _accuracy(self, adapted: Adapted, deck: Deck) -> float:
        return accuracy(adapted.clip.model, adapted.head, deck, self.config.evaluation.batch_size)

    def _images(self, deck: Deck) -> Tensor:
        return embed(self.inputs.clip.model, deck, self.config.evaluation.batch_size)

    def _features(self, adapted: Adapted, transfer: TransferSet) -> ClassFeatures:
        """Of a set's classes, made anew where the text tower is trained."""
        if adapted.trains_texts:
            return class_features(adapted.clip, transfer.facts.classes, transfer.facts.prompts)
        assert transfer.features is not None
        return transfer.features


def _changes_both(config: RunConfig) -> bool:
    if isinstance(config.objective, ContrastiveObjective):
        return len(config.objective.trained_towers(config.method)) == 2
    return isinstance(config.method, Flyp) and config.method.train_texts


def _captioned(inputs: RunInputs) -> dict[str, tuple[Deck, CaptionSource]]:
    """Sets with captions that are tested: validation and test images of the target, and transfer sets."""
    pairs = inputs.pairs
    found = (
        {}
        if pairs is None
        else {
            VALIDATION: (inputs.validation, pairs.validation),
            TEST: (inputs.test, pairs.test),
        }
    )
    return found | {
        name: (transfer.deck, transfer.captions)
        for name, transfer in inputs.transfer.items()
        if transfer.captions is not None
    }


def _embeddings(
    inputs: RunInputs, deck: Deck, words: Sequence[Sequence[str]], size: int | None
) -> tuple[Tensor, Tensor]:
    """(N, E) of images and (M, E) of all their captions, by the model as it is."""
    texts = [text for own in words for text in own]
    return embed(inputs.clip.model, deck, size).cpu(), embed_texts(inputs.clip, texts)


def _kept_embeddings(
    inputs: RunInputs,
    name: str,
    deck: Deck,
    fingerprint: str,
    words: Sequence[Sequence[str]],
    size: int | None,
) -> tuple[Tensor, Tensor]:
    """The backbone's :func:`_embeddings`, kept for the next run.

    Args:
        fingerprint: of the captions, ``words``.
    """
    transfer = inputs.transfer.get(name)
    facts = inputs.target.images[name] if transfer is None else transfer.facts.images["test"]
    given = [facts.fingerprint, facts.count, fingerprint, size]
    make = lambda: dict(zip(("images", "texts"), _embeddings(inputs, deck, words, size), strict=True))  # noqa: E731
    found = inputs.backbone_cache.tensors("embeddings", given, make)
    return found["images"], found["texts"]


def _kept_images(inputs: RunInputs, name: str, transfer: TransferSet, size: int | None) -> Tensor:
    """The backbone's embeddings of a transfer set's images, kept for the next run."""
    facts = transfer.facts.images["test"]
    found = inputs.backbone_cache.tensors(
        "embeddings",
        [facts.fingerprint, facts.count, None, size],
        lambda: {"images": embed(inputs.clip.model, transfer.deck, size).cpu()},
    )
    return found["images"]


def _percent(images: Tensor, features: Tensor, deck: Deck) -> float:
    """Accuracy of embeddings (n, E) of a deck's images among features (C, E)."""
    predicted = predict(images, features.to(images.device)).cpu()
    return 100 * (predicted == torch.from_numpy(deck.labels)).double().mean().item()


def _part(transfer: TransferSet, per_class: int | None, seed: int) -> Deck:
    """A set's images, or a fixed balanced part of them."""
    deck = transfer.deck
    if per_class is None:
        return deck
    return deck.subset(balanced(deck.labels, per_class, seed, classes=transfer.facts.classes))


def _zero_shot(
    inputs: RunInputs, transfer: TransferSet, size: int | None, per_class: int | None, seed: int
) -> float:
    """The backbone's accuracy on all images, or a fixed balanced part."""
    assert transfer.features is not None
    return zero_shot_accuracy(inputs.clip.model, transfer.features, _part(transfer, per_class, seed), size)


def _baseline(
    inputs: RunInputs, name: str, size: int | None, per_class: int | None = None, seed: int = 0
) -> float:
    """:func:`_zero_shot`, kept for the next run."""
    transfer = inputs.transfer[name]
    images = transfer.facts.images["test"]
    labels = hashlib.sha256(transfer.deck.labels.tobytes()).hexdigest()
    given = [images.fingerprint, images.count, labels, transfer.facts.classes, transfer.facts.prompts, size]
    if per_class is not None:
        given += [per_class, seed]
    work = partial(_zero_shot, inputs, transfer, size, per_class, seed)
    return inputs.backbone_cache.number("zero-shot", given, work)


def _retention(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, Transfer]:
    return {
        name: Transfer(accuracy=value, retention=100 * value / before[name] if before[name] else None)
        for name, value in now.items()
    }
