"""How much of a retrieval index built with BASE can be searched with TUNED: open, embed, map, search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from clipdrift import formulas
from clipdrift.comparison.abilities import has_texts, texts_of
from clipdrift.comparison.images import ImagesLike
from clipdrift.comparison.index_facts import Estimate, IndexMemory, LinearMap, Queries
from clipdrift.comparison.index_images import INDEX_LIMIT, Index, IndexOptions, open_index
from clipdrift.comparison.measuring import settle
from clipdrift.comparison.models import ModelLike, OpenedModel
from clipdrift.comparison.pairs import open_any_pair
from clipdrift.comparison.searching import Asked, Estimates, answers, searches, won_back
from clipdrift.measures import embed_texts
from clipdrift.runs.record import environment
from clipdrift.runs.reporter import Reporter, Silent


def index_memory(
    base: ModelLike,
    tuned: ModelLike,
    index: ImagesLike,
    *,
    queries: ImagesLike | None = None,
    limit: int = INDEX_LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    preprocess: object = None,
    any_base: bool = False,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> IndexMemory:
    """Measure how much of an index built with BASE TUNED can search, and what a linear map wins back.

    For any two models, also of different architectures: each sees the images by its own preprocessing. Where
    their embeddings have different widths, only a map makes a search possible.

    Args:
        base, tuned: as :func:`clipdrift.compare` takes them.
        index: images of the index: a folder, a data set's name, or what else that takes.
        queries: images that are looked for; none: a fifth of the index is held out, at most 1,000.
        limit: images of the index read at most, with those held out.
        preprocess: for both models, in place of their own.

    Raises:
        DataError: too few images, or images that cannot be read.
        ModelError, UnsupportedModelError, PairError: a model that cannot be opened; in one line why.
    """
    reporter = reporter or Silent()
    reporter.stage("loading both models")
    first, second, notes = open_any_pair(base, tuned, any_base)
    settle(first, device)
    settle(second, device)
    options = IndexOptions(index, queries, limit, seed, batch_size, preprocess, cache, skip_bad)
    found = read_index(first, second, options, reporter)
    place = str(next(first.model.parameters()).device)
    return found.model_copy(update={"notes": (*notes, *found.notes), "environment": environment(place)})


def read_index(
    base: OpenedModel, tuned: OpenedModel, options: IndexOptions, reporter: Reporter
) -> IndexMemory:
    """As :func:`index_memory`, of models that are open."""
    index, sources, notes = open_index(base, tuned, options, reporter)
    copies = len(index.gallery) - len(np.unique(index.prints[index.gallery]))
    known = np.isin(index.prints[index.queries], index.prints[index.gallery])
    if copies:
        notes.append(
            f"Exact copies of other images in the index: {copies}. Which of the same images a search names "
            "is left to their order."
        )
    if known.any():
        notes.append(
            f"Image queries that are in the index too, pixel for pixel: {int(known.sum())}. No map was "
            "fitted on those."
        )
    fit = index.gallery[~np.isin(index.prints[index.gallery], index.prints[index.queries])]
    reporter.stage("fitting linear maps")
    maps, fitted = _maps(index, fit)
    estimates = Estimates(index.prints[index.queries])
    held = index.before[index.queries].double(), index.after[index.queries].double()
    for name, matrix in fitted.items():
        maps[name] = maps[name].model_copy(
            update={"cosine": _cosine(estimates, held[0], _mapped(held[1], matrix))}
        )
    direct = index.before.shape[1] == index.after.shape[1]
    by_image = _by_image(index, fitted, reporter)
    if index.classes is not None and by_image.judged < by_image.count:
        notes.append(
            "Image queries without an image of their class in the index: "
            f"{by_image.count - by_image.judged} of {by_image.count}. What is right is judged on the others."
        )
    by_text = _by_text(base, tuned, index, fitted, reporter, notes)
    return IndexMemory(
        base=base.name,
        tuned=tuned.name,
        source=sources[0].source,
        queries_from=sources[-1].source,
        images=len(index.gallery),
        classes=None if index.classes is None else len(np.unique(index.classes[index.gallery])),
        seed=options.seed,
        widths=(index.before.shape[1], index.after.shape[1]),
        copies=copies,
        queries_in_index=int(known.sum()),
        cosine=_cosine(estimates, *held) if direct else None,
        maps=maps,
        by_image=by_image,
        by_text=by_text,
        fingerprints=(base.fingerprint, tuned.fingerprint),
        contents=tuple(facts.fingerprint for facts in sources),
        notes=tuple(notes),
    )


# --- maps


def _maps(index: Index, fit: NDArray[np.int64]) -> tuple[dict[str, LinearMap], dict[str, Tensor]]:
    """What there is to say of each map, and the matrices of those that there are."""
    # both sides are compared by cosine, so lengths are left out of the fit
    before, after = (normalize(side[fit], dim=1) for side in (index.before, index.after))
    widths = before.shape[1], after.shape[1]
    few = f"{len(fit)} images for embeddings of width {widths[1]}; as many images are needed at least"
    facts, matrices = {}, {}
    if len(fit) < widths[1]:
        return {name: LinearMap(images=len(fit), refused=few) for name in ("ridge", "rotation")}, {}
    matrices["ridge"], penalty = formulas.ridge_map(after, before)
    facts["ridge"] = LinearMap(images=len(fit), penalty=penalty)
    if widths[0] == widths[1]:
        matrices["rotation"] = formulas.rotation_map(after, before)
        facts["rotation"] = LinearMap(images=len(fit))
    else:
        why = f"a rotation keeps the width, and these are {widths[1]} and {widths[0]}"
        facts["rotation"] = LinearMap(images=len(fit), refused=why)
    return facts, matrices


def _mapped(vectors: Tensor, matrix: Tensor) -> Tensor:
    return normalize(vectors.double(), dim=1) @ matrix


def _cosine(estimates: Estimates, one: Tensor, other: Tensor) -> Estimate:
    return estimates.mean(cosine_similarity(one, other, dim=1).numpy())


# --- searches


def _sides(
    old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], fitted: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Queries and gallery of every way of searching.

    Args:
        old, new: queries and gallery by BASE and by TUNED.
    """
    direct = {"kept_index": (new[0], old[1])} if new[0].shape[1] == old[1].shape[1] else {}
    through = {name: (_mapped(new[0], matrix), old[1]) for name, matrix in fitted.items()}
    return {"today": old, **direct, **through, "new_index": new}


def _by_image(index: Index, fitted: Mapping[str, Tensor], reporter: Reporter) -> Queries:
    gallery, asked, classes = index.gallery, index.queries, index.classes
    old, new = ((side[asked], side[gallery]) for side in (index.before, index.after))

    def same_class(some: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert classes is not None
        return np.asarray(classes[asked[some]][:, None] == classes[gallery][None, :])

    right = None if classes is None else same_class
    question = Asked(_sides(old, new, fitted), right, index.prints[asked].tolist())
    return _answered("images", question, len(gallery), "classes", reporter)


def _by_text(
    base: OpenedModel,
    tuned: OpenedModel,
    index: Index,
    fitted: Mapping[str, Tensor],
    reporter: Reporter,
    notes: list[str],
) -> Queries | None:
    """Captions of the held-out images as queries. Those images join the index, as what is to be found."""
    asked = [int(position) for position in index.queries if index.captions.get(int(position))]
    if not asked:
        return None
    if base.clip is None and tuned.clip is None:
        notes.append("The captions were not used as queries: neither model comes with a tokenizer.")
        return None
    for name, side, other in (("BASE", base, tuned), ("TUNED", tuned, base)):
        if not has_texts(side, other):
            notes.append(
                f"{name} has no text tower that is known here: {other.name}'s embedded its captions."
            )
    texts = [text for position in asked for text in index.captions[position]]
    owner = [position for position in asked for _ in index.captions[position]]
    reporter.stage(f"embedding {len(texts)} captions")
    old, new = (embed_texts(texts_of(*pair), texts) for pair in ((base, tuned), (tuned, base)))
    gallery = np.concatenate([index.gallery, asked]).astype(np.int64)
    held = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    words = np.asarray([held[text] for text in texts])
    has = np.zeros((len(held), len(gallery)), dtype=bool)
    for place, position in enumerate(gallery.tolist()):
        for text in index.captions.get(position, ()):
            if text in held:
                has[held[text], place] = True
    sides = _sides((old, index.before[gallery]), (new, index.after[gallery]), fitted)
    units: Sequence[str] = index.prints[owner].tolist()
    return _answered(
        "texts", Asked(sides, lambda some: has[words[some]], units), len(gallery), "captions", reporter
    )


def _answered(kind: str, asked: Asked, gallery: int, truth: str, reporter: Reporter) -> Queries:
    reporter.stage(f"searching {gallery} images by {len(asked.units)} {kind}")
    found = answers(asked, reporter.advance)
    several = kind == "images"
    return Queries.model_validate(
        {
            "kind": kind,
            "count": len(asked.units),
            "gallery": gallery,
            "truth": truth if found.judged.any() else None,
            "judged": int(found.judged.sum()),
            "searches": searches(found, asked.units, several),
            "won_back": won_back(found, asked.units, several),
        }
    )
