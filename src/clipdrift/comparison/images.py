"""Open the images of a comparison: a folder, a data set's name, pictures or tensors in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import ImageProcessingMixin, ProcessorMixin

from clipdrift.comparison import ProbeImages
from clipdrift.config import DataSet
from clipdrift.data.captions import Captions, captions_of_rows, read_captions
from clipdrift.data.catalog import CATALOG, DEFAULT_PROMPTS
from clipdrift.data.deck import Batches, Deck, Prepared
from clipdrift.data.decode import decode
from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.folders import all_images, class_level
from clipdrift.data.images import Files, ImageSet, TableRows, shown
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import holds_tables, open_source
from clipdrift.data.splits import balanced_subsets
from clipdrift.data.tree import Folder, PassedOver, passed_notes, passed_over, read_tree
from clipdrift.data.worlds import WORLDS
from clipdrift.model.clip import Clip
from clipdrift.training.decks import DeckFactory

ImagesLike = str | Path | DataSet | Deck | Tensor | Sequence[Any]
"""A folder of images, a data set's name, a Deck, preprocessed floats (n, 3, S, S), or pictures in a list."""

LEAST = 4
"""Debiased CKA needs as many images."""


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """The images on which both models are read.

    Attributes:
        images: as the models take them.
        facts: what they are.
        labels: (n,) where they have classes, for balanced subsets.
        titles: a short text for each image.
        captions: texts by position, where the folder has them.
        class_texts: a prompt for each class, where they have names.
    """

    images: Batches
    facts: ProbeImages
    labels: NDArray[np.int64] | None
    titles: tuple[str, ...]
    captions: Mapping[int, tuple[str, ...]]
    class_texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def pictures(self, positions: Sequence[int]) -> NDArray[np.uint8] | None:
        """(k, H, W, 3) bytes to show; None for tensors, whose pictures are lost."""
        if not isinstance(self.images, Deck):
            return None
        return self.images.data[self.images.rows[list(positions)]]

    def on(self, device: torch.device) -> Batches:
        """Return the images, to be moved to another device."""
        assert isinstance(self.images, Deck | Prepared)
        return replace(self.images, device=device)


def open_images(
    given: ImagesLike,
    *,
    limit: int,
    seed: int,
    preprocess: Preprocess | None,
    image_size: int,
    device: torch.device,
    factory: DeckFactory | None,
) -> ProbeSet:
    """Open, choose at most ``limit`` (balanced over classes where there are any), preprocess.

    Args:
        preprocess: the model's; needed for anything but tensors and decks.
        factory: decodes files into the cache; needed for names and folders.

    Raises:
        DataError: nothing there, unreadable images, fewer than four images, or no preprocessing known.
    """
    if isinstance(given, Tensor):
        probe = _of_tensor(given, device)
    elif isinstance(given, Deck):
        probe = _of_deck(given, "a deck of images")
    elif isinstance(given, str | Path | DataSet):
        if factory is None:
            raise DataError(
                "images by name or folder need the model's preprocessing: give the model by name or as a "
                "Clip, say preprocess=, or give preprocessed tensors (n, 3, S, S)"
            )
        return _enough(_of_source(given, limit, seed, image_size, factory))
    else:
        if preprocess is None:
            raise DataError(
                "pictures need the model's preprocessing: give the model by name or as a Clip, say "
                "preprocess=, or give preprocessed tensors (n, 3, S, S)"
            )
        probe = _of_pictures(list(given), preprocess, device, factory is not None and factory.skip_bad)
    return _enough(_limited(_fitting(probe, image_size), limit, seed))


def _fitting(probe: ProbeSet, size: int) -> ProbeSet:
    assert isinstance(probe.images, Deck | Prepared)
    shape = probe.images.data.shape[1:3] if isinstance(probe.images, Deck) else probe.images.images.shape[2:]
    if len(probe) and tuple(shape) != (size, size):
        raise DataError(
            f"{probe.facts.source}: {shape[0]} x {shape[1]} pixels, where the model takes {size} x {size}; "
            "preprocess them as it needs"
        )
    return probe


def _enough(probe: ProbeSet) -> ProbeSet:
    if len(probe) < LEAST:
        raise DataError(f"{probe.facts.source}: {len(probe)} images; at least {LEAST} are needed")
    return probe


def _of_tensor(images: Tensor, device: torch.device) -> ProbeSet:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(
            f"images of shape {tuple(images.shape)}, {kind}; preprocessed floats (n, 3, S, S) are needed"
        )
    facts = ProbeImages(source="tensors in memory", count=len(images))
    return ProbeSet(Prepared(images, device), facts, None, _numbered(len(images)), {})


def _of_deck(deck: Deck, source: str) -> ProbeSet:
    facts = ProbeImages(source=source, count=len(deck))
    return ProbeSet(deck, facts, deck.labels, _numbered(len(deck)), {})


def _of_pictures(given: list[Any], preprocess: Preprocess, device: torch.device, skip_bad: bool) -> ProbeSet:
    pictures, titles, bad = [], [], []
    for index, one in enumerate(given, start=1):
        where = str(one) if isinstance(one, str | Path) else f"image {index}"
        try:
            pictures.append(preprocess.apply(_picture(one, where)))
            titles.append(Path(where).name)
        except BadImage as error:
            if not skip_bad:
                raise
            bad.append((error.where, error.reason))
    if not pictures:
        raise DataError("no images were given" if not bad else f"none of the {len(bad)} images can be read")
    shapes = sorted({picture.shape[:2] for picture in pictures})
    if len(shapes) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in shapes[:3])
        raise DataError(f"preprocessing leaves pictures of different sizes: {sizes}; it needs a centre crop")
    count = len(pictures)
    deck = Deck(np.stack(pictures), np.arange(count), np.zeros(count, np.int64), preprocess, device)
    facts = ProbeImages(source="pictures in memory", count=count, bad=tuple(bad))
    return ProbeSet(deck, facts, None, tuple(titles), {})


def _picture(one: Any, where: str) -> Image.Image:
    if isinstance(one, Image.Image):
        return one
    if isinstance(one, str | Path):
        return decode(Files((Path(one).expanduser(),)).read(0), where)
    if isinstance(one, np.ndarray) and one.dtype == np.uint8:
        return decode(one, where)
    raise DataError(
        f"{where} is a {type(one).__name__}, not a PIL image, a path or an array of bytes (H, W, 3)"
    )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"image {i + 1}" for i in range(count))


def _limited(probe: ProbeSet, limit: int, seed: int) -> ProbeSet:
    if len(probe) <= limit:
        return probe
    chosen = choose(probe.labels, len(probe), limit, seed)
    images: Batches
    if isinstance(probe.images, Prepared):
        images = Prepared(probe.images.images[torch.from_numpy(chosen)], probe.images.device)
    else:
        assert isinstance(probe.images, Deck)
        images = probe.images.subset(chosen)
    return ProbeSet(
        images,
        probe.facts.model_copy(update={"count": len(chosen)}),
        None if probe.labels is None else probe.labels[chosen],
        tuple(probe.titles[i] for i in chosen),
        {},
    )


def choose(labels: NDArray[np.int64] | None, count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Choose ``limit`` positions, in order: balanced over classes as far as they go, else drawn at random."""
    if labels is not None and len(np.unique(labels)) > 1:
        try:
            return np.asarray(balanced_subsets(labels, 1, limit, seed)[0])
        except DataError:  # a class has too few images: as many of each as there are
            pass
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        seen: dict[int, int] = {}
        rank = []
        for label in labels[order].tolist():
            seen[label] = seen.get(label, -1) + 1
            rank.append(seen[label])
        order = order[np.argsort(rank, kind="stable")]  # the first of every class, then the second
    return np.sort(order[:limit])


def _of_source(
    given: str | Path | DataSet, limit: int, seed: int, image_size: int, factory: DeckFactory
) -> ProbeSet:
    spec = given if isinstance(given, DataSet) else DataSet.model_validate(named_source(str(given)))
    folder = None if spec.path is None else Path(spec.path).expanduser()
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    prompt = spec.prompts[0] if spec.prompts else DEFAULT_PROMPTS[0]
    passed: tuple[PassedOver, ...] = ()
    tree = None if folder is None or not folder.is_dir() or holds_tables(folder) else read_tree(folder)
    if tree is not None:
        images, classes = _of_folder(tree)
    else:
        source = open_source(spec, image_size=image_size, parts=("test",), labelled=False)
        if source.test is None:
            raise DataError(f"{source.name}: no test split")
        images, classes, notes, passed = source.test, source.classes, source.notes, source.passed
        prompt = next(iter(source.prompts), prompt)  # none where there are no classes
    if len(images) > limit:
        known = images.labels if classes else None
        images = images.subset(choose(known, len(images), limit, seed))
    deck, counted = factory.deck(images, f"{spec.name} (images)")
    bad = dict(counted.bad)
    kept = [i for i in range(len(images)) if images.where(i) not in bad]
    rows = [int(images.rows[i]) for i in kept]
    captions = Captions()
    if tree is not None and isinstance(images.store, Files):
        captions = read_captions(tree.path, [images.store.paths[row] for row in rows])
        passed = passed_over(tree, {*images.store.paths, *_with_those_beside(captions, images.store)})
        notes = passed_notes(shown(tree.path), passed)
    elif isinstance(images.store, TableRows):
        captions = captions_of_rows(images.store, rows)
    notes = (*notes, *captions.notes)
    facts = ProbeImages(
        source=spec.path or spec.name,
        count=len(deck),
        fingerprint=counted.fingerprint,
        classes=len(classes) if classes else None,
        bad=counted.bad,
        notes=notes,
        passed=tuple(map(astuple, passed)),
    )
    titles = tuple(
        classes[label] if classes else Path(images.where(i)).name
        for i, label in zip(kept, deck.labels, strict=True)
    )
    labels = deck.labels if classes else None
    texts = tuple(prompt.format(name) for name in classes or ())
    return ProbeSet(deck, facts, labels, titles, captions.texts, texts)


def named_source(name: str) -> dict[str, str]:
    """A data set as it was written down: a folder that is there or is written as one, or a name.

    Raises:
        DataError: a file, which is no name of a data set.
    """
    place = Path(name).expanduser()
    if place.is_file() and name not in CATALOG and name not in WORLDS:
        raise DataError(f"{shown(place)}: a file; give the folder that holds the images")
    if place.is_dir() or name.startswith(("/", "./", "../", "~")):
        return {"name": place.name or name, "path": name}
    return {"name": name}


def _with_those_beside(captions: Captions, store: Files) -> frozenset[Path]:
    """Files of captions; where they lie beside images, those of images that were not chosen too."""
    beside = frozenset(path.with_suffix(".txt") for path in store.paths)
    return captions.files | beside if captions.files & beside else captions.files


def _of_folder(tree: Folder) -> tuple[ImageSet, tuple[str, ...] | None]:
    """List all images below a folder; where all are in folders of several names, those are classes."""
    images = all_images(tree)
    assert isinstance(images.store, Files)
    own = class_level(tree.path, images.store.paths)
    names = tuple(sorted(set(own)))
    if len(names) < 2 or "" in names:
        return images, None
    position = {name: label for label, name in enumerate(names)}
    labels = np.asarray([position[name] for name in own])
    return ImageSet(labels, images.rows, images.store), tuple(map(shown, names))


def preprocess_of(given: object, clip: Clip | None) -> Preprocess | None:
    """A Preprocess, a transformers (image) processor, or a dictionary; none given: the Clip's own.

    Raises:
        DataError: anything else, or one that is not understood.
    """
    if given is None:
        return None if clip is None else clip.preprocess
    if isinstance(given, Preprocess):
        return given
    if isinstance(given, ProcessorMixin):  # of images and texts
        processor: Any = given
        given = processor.image_processor
    if isinstance(given, ImageProcessingMixin):
        given = given.to_dict()
    if isinstance(given, Mapping):
        inner = given.get("image_processor")
        return Preprocess.from_config(inner if isinstance(inner, Mapping) else given)
    raise DataError(
        f"preprocess= is a {type(given).__name__}; a transformers image processor, its dictionary or a "
        "Preprocess is needed, or give preprocessed tensors (n, 3, S, S)"
    )
