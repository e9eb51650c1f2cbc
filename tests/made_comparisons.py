"""Comparisons and maps that are made up: no model was run. Sizes and shapes are those of real towers, numbers
come from a seeded generator, drifts follow from them by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdrift.comparison import (
    Compared,
    Comparison,
    CrossedTowers,
    HeadDrift,
    IndexMemory,
    JointSpace,
    ProbeImages,
    Retrieval,
    Sensitivity,
    Shape,
    Side,
    SpectrumRow,
    Subsets,
    TextTowers,
    TransferRow,
)
from clipdrift.comparison.index_facts import SEARCHES, Estimate, LinearMap, Queries, Search
from clipdrift.listing import MEASURES
from clipdrift.runs.maps import Maps

KINDS = ("q", "k", "v", "out", "fc1", "fc2")
ODD = "a<b>&\"c\"'d' </script><img src=x onerror=alert(1)> $x_1$ {{ 7*7 }}"
ATTENTION = (
    "entropy",
    "normalised_entropy",
    "erf95",
    "gini",
    "head_diversity",
    "head_diversity_of_mean",
    "cls_self",
    "sink_share",
)


def made_comparison(
    blocks: int = 6,
    heads: int = 4,
    grid: tuple[int, int] = (7, 7),
    *,
    pooling_head: bool = False,
    transfer: bool = True,
    spectra: bool = True,
    extras: bool = True,
    texts: bool = False,
    indexed: bool = False,
    weight_kinds: tuple[str, ...] = KINDS,
    name: str = "",
    seed: int = 0,
) -> Comparison:
    """A made-up comparison.

    Args:
        pooling_head: attention is that of one pooling head, and so without blocks; all else has ``blocks``.
        extras: with retrieval, subset sensitivity and notes.
        texts: the text tower changed too; it has half as many blocks, but two at least.
        indexed: an index was searched, by images and by captions.
        name: stands for every free name (models, images, a transfer set, a note) where given.
    """
    rng = np.random.default_rng(seed)
    read = 1 if pooling_head else blocks
    patches = grid[0] * grid[1]
    ramp = np.linspace(0.2, 1, read)
    measures = {}
    for index, measure in enumerate(ATTENTION):
        before = rng.uniform(0.5, 0.9, read) * (np.log(patches) if measure == "entropy" else 1)
        after = before * (1 + (-1) ** index * rng.uniform(0.0, 0.2, read) * ramp)
        measures[measure] = compared(measure, before, after)
    measures["sink_patches"] = compared("sink_patches", np.zeros(blocks), rng.uniform(0, 3, blocks))
    if not pooling_head:
        for measure in ("rollout_entropy", "rollout_erf95", "rollout_gini"):
            value = rng.uniform(0.4, 0.9)
            measures[measure] = compared(measure, [value], [value * rng.uniform(0.7, 1.1)])
        before = rng.uniform(3, 5, blocks)
        measures["patch_entropy"] = compared("patch_entropy", before, before * rng.uniform(0.9, 1, blocks))
    fall = np.linspace(0.0, 0.45, blocks) ** 2 * rng.uniform(0.8, 1.2, blocks)
    for shift, measure in enumerate(("cka", "cka_biased", "cka_minibatch")):
        measures[measure] = alone(measure, 1 - fall / (1 + shift))
    for measure in ("cka_embedding", "embedding_drift"):
        measures[measure] = alone(measure, rng.uniform(0.1, 0.9, 1), single=True)
    for measure in ("weight_drift", *(f"weight_drift_{kind}" for kind in weight_kinds)):
        measures[measure] = alone(measure, rng.uniform(0.001, 0.06, blocks))
    measures["weight_drift_projection"] = alone("weight_drift_projection", np.array([0.0123]), single=True)
    if texts:
        measures |= _texts(max(2, blocks // 2))
    matrix = np.exp(-np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks))) / (blocks / 3))
    matrix *= np.sqrt(np.outer(1 - fall, 1 - fall))
    return Comparison(
        base=Side(
            name=name or "openai/clip-vit-base-patch32",
            kind="model",
            library="transformers CLIPModel",
            parameters=87_849_216,
            fingerprint="sha256:" + "0123456789abcdef" * 4,
        ),
        tuned=Side(
            name=name or "runs/pets/lora-r16",
            kind="adapter",
            library="transformers CLIPModel",
            parameters=87_849_216,
        ),
        shape=Shape(
            blocks=blocks,
            heads=heads,
            width=64 * heads,
            embedding_width=512,
            image_size=16 * grid[0],
            grid=grid,
            reader="pooling head" if pooling_head else "class token",
        ),
        images=ProbeImages(
            source=name or "photos/of pets",
            count=200,
            classes=37,
            bad=(("photos/broken.jpg", "truncated file"),) if extras else (),
        ),
        measures=measures,
        cka_matrix=tuple(tuple(row) for row in matrix.tolist()),
        heads=tuple(_heads(rng, read, heads)),
        spectra=tuple(_spectra(rng, blocks)) if spectra else (),
        transfer=_transfer(name) if transfer else {},
        retrieval=_retrieval() if extras else None,
        subsets=_subsets() if extras else None,
        text_tower=TextTowers(
            same=not texts,
            source=f"class prompts of {name or 'cifar100'}" if texts else "",
            count=100 if texts else 0,
            short=3 if texts else 0,
        ),
        index=_index(name) if indexed else None,
        notes=(name or "Only 200 images: biased CKA is high for any two models.",) if extras else (),
        environment={
            "python": "3.11.7",
            "device": "cpu",
            "packages": {"clipdrift": "0.1.0", "torch": "2.13.0"},
            "commit": None,
            "dirty": False,
        },
        timings={"opened": 1.25, "base_read": 12.5, "decomposed": 3.75},
    )


def _texts(blocks: int) -> dict[str, Compared]:
    """Measures of a text tower, from numbers of its own, so that all else is as without it."""
    rng, found = np.random.default_rng(1), {}
    for measure in ("entropy", "normalised_entropy", "erf95", "gini", "head_diversity", "start_share"):
        before = rng.uniform(0.3, 0.9, blocks)
        found[f"text_{measure}"] = compared(f"text_{measure}", before, before * rng.uniform(0.8, 1.1, blocks))
    found["text_cka"] = alone("text_cka", rng.uniform(0.6, 1, blocks))
    for measure in ("text_cka_embedding", "text_embedding_drift"):
        found[measure] = alone(measure, rng.uniform(0.1, 0.9, 1), single=True)
    found["text_weight_drift"] = alone("text_weight_drift", rng.uniform(0.001, 0.06, blocks))
    single = np.array([0.0123])
    found["text_weight_drift_projection"] = alone("text_weight_drift_projection", single, single=True)
    return found


def _index(name: str) -> IndexMemory:
    """An index of which a map wins back 40 % and a rotation, of captions, nothing."""
    rng = np.random.default_rng(2)

    def share(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.0312, high=value + 0.0298)

    def queries(kind: str) -> Queries:
        searches = {
            way: Search(
                overlap={
                    k: Estimate(value=1) if way == "today" else share(rng.uniform(0.1, 0.9))
                    for k in (1, 5, 10)
                },
                rank_agreement=share(rng.uniform(-0.2, 0.9)),
                recall={k: share(rng.uniform(0.1, 0.9)) for k in (1, 5, 10)},
                precision={k: share(rng.uniform(0.1, 0.9)) for k in (1, 5, 10)} if kind == "images" else {},
            )
            for way in SEARCHES
        }
        truth = "classes" if kind == "images" else "captions"
        won = {"ridge": {"overlap@10": share(40.25)}, "rotation": {"overlap@10": None}}
        return Queries.model_validate(
            {"kind": kind, "count": 412, "gallery": 1648, "truth": truth, "judged": 412}
            | {"searches": searches, "won_back": won}
        )

    return IndexMemory(
        base=name or "openai/clip-vit-base-patch32",
        tuned=name or "runs/pets/lora-r16",
        source=name or "photos/of pets",
        queries_from=name or "photos/of other pets",
        images=1648,
        classes=37,
        seed=0,
        widths=(512, 512),
        copies=3,
        queries_in_index=2,
        cosine=share(0.7512),
        maps={
            "ridge": LinearMap(images=1646, penalty=0.125, cosine=share(0.8812)),
            "rotation": LinearMap(images=1646, cosine=share(0.8112)),
        },
        by_image=queries("images"),
        by_text=queries("texts"),
    )


def compared(measure: str, before: Any, after: Any, *, single: bool | None = None) -> Compared:
    """A measure of both sides; its drift by the definition in docs/measures.md. One block is none."""
    old, new = np.asarray(before, float), np.asarray(after, float)
    single = len(old) == 1 if single is None else single
    absolute = bool(old.min() <= 0 <= old.max())
    change = new - old if absolute else 100 * (new - old) / old
    mean = new.mean() - old.mean() if absolute else 100 * (new.mean() - old.mean()) / old.mean()
    return Compared(
        family=MEASURES[measure].family,
        unit=MEASURES[measure].unit,
        before=old.mean(),
        after=new.mean(),
        before_blocks=() if single else tuple(old),
        after_blocks=() if single else tuple(new),
        drift=mean,
        drift_blocks=() if single else tuple(change),
        absolute=absolute,
    )


def alone(measure: str, values: NDArray[np.float64], *, single: bool = False) -> Compared:
    """A measure that is a comparison already."""
    entry = MEASURES[measure]
    return Compared(
        family=entry.family,
        unit=entry.unit,
        value=values.mean(),
        value_blocks=() if single else tuple(values),
    )


def made_maps(comparison: Comparison, images: int = 4, size: int | None = None, seed: int = 0) -> Maps:
    """Made-up pictures and attention that fit a comparison's sizes; rows sum to 1."""
    rng = np.random.default_rng(seed)
    shape = comparison.shape
    blocks = 1 if shape.reader == "pooling head" else shape.blocks
    rows, columns = shape.grid
    y, x = np.mgrid[0:rows, 0:columns]
    at = rng.uniform(0.2, 0.8, (images, 1, 1, 2, 1, 1)) * np.array([rows, columns])[:, None, None]
    wide = rng.uniform(0.1, 0.4, (images, blocks, shape.heads, 1, 1)) * rows
    far = (y - at[..., 0, :, :]) ** 2 + (x - at[..., 1, :, :]) ** 2
    noise = rng.uniform(0.5, 1.5, (2, images, blocks, shape.heads, rows, columns))
    both = (np.exp(-far / (2 * wide**2)) + 0.05) * noise
    both[1] **= np.linspace(1, 1.6, blocks)[None, :, None, None, None]
    flat = both.reshape(*both.shape[:4], -1)
    flat /= flat.sum(-1, keepdims=True)
    before, after = flat.astype(np.float32)
    side = size or shape.image_size
    grey = np.linspace(40, 200, side)
    pictures = np.empty((images, side, side, 3), np.uint8)
    for index, picture in enumerate(pictures):
        picture[:] = (grey[:, None, None] + rng.integers(0, 50, 3)).clip(0, 255)
        centre = at[index, 0, 0, :, 0, 0] / [rows, columns] * side
        yy, xx = np.mgrid[0:side, 0:side]
        picture[(yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 < (side / 6) ** 2] = rng.integers(0, 256, 3)
    name = comparison.base.name
    titles = tuple(name if name == ODD else f"cat {i}" for i in range(1, images + 1))
    return Maps(pictures, titles, before, after, shape.grid)


def _heads(rng: np.random.Generator, blocks: int, heads: int) -> list[HeadDrift]:
    return [
        HeadDrift(measure=measure, block=block, head=head, before=value, after=value * rng.normal(0.95, 0.1))
        for measure in ("entropy", "erf95", "gini")
        for block in range(1, blocks + 1)
        for head in range(1, heads + 1)
        for value in [rng.uniform(0.3, 3.5)]
    ]


def _spectra(rng: np.random.Generator, blocks: int) -> list[SpectrumRow]:
    return [
        SpectrumRow(
            block=block,
            kind=kind,
            effective_rank=rng.uniform(4, 16),
            intruders=int(rng.integers(0, 5)),
            largest=tuple(sorted(rng.uniform(0, 0.2, 4), reverse=True)),
        )
        for block in range(1, blocks + 1)
        for kind in ("q", "v", "fc1")
    ]


def _transfer(name: str) -> dict[str, TransferRow]:
    return {
        "cifar100": TransferRow(
            images=10_000,
            classes=100,
            prompts=("a photo of a {}.",),
            before=62.31,
            after=41.02,
            retention=65.832,
            agreement=0.5512,
            kl=1.2034,
            ensemble_before=64.5,
            ensemble_after=44.25,
            crossed=CrossedTowers(tuned_image=45.17, tuned_text=58.93),
        ),
        name or "dtd": TransferRow(
            images=1880,
            classes=47,
            prompts=(name or "a {} texture.", "a photo of a {} texture."),
            before=44.41,
            after=46.17,
            retention=103.963,
            agreement=0.8112,
            kl=0.0934,
        ),
        "nothing/to keep": TransferRow(
            images=50, classes=4, prompts=("{}",), before=0.0, after=2.0, agreement=0.1, kl=3.0
        ),
    }


def _space(gap: float) -> JointSpace:
    return JointSpace(
        modality_gap=gap, alignment=1.43, uniformity_images=-1.9, uniformity_captions=-2.2, logit_scale=99.7
    )


def _retrieval() -> Retrieval:
    return Retrieval(
        images=1000,
        captions=5000,
        image_to_text_before={1: 0.501, 5: 0.752, 10: 0.834},
        image_to_text_after={1: 0.412, 5: 0.668, 10: 0.771},
        text_to_image_before={1: 0.304, 5: 0.561, 10: 0.672},
        text_to_image_after={1: 0.251, 5: 0.492, 10: 0.603},
        image_to_text_crossed={k: CrossedTowers(tuned_image=0.44, tuned_text=0.47) for k in (1, 5, 10)},
        text_to_image_crossed={k: CrossedTowers(tuned_image=0.27, tuned_text=0.29) for k in (1, 5, 10)},
        image_to_text_rank=(1.0, 2.0),
        text_to_image_rank=(4.0, 6.5),
        space_before=_space(0.81),
        space_after=_space(0.93),
    )


def _subsets() -> Subsets:
    return Subsets(
        count=5,
        images=40,
        measures={
            "entropy": Sensitivity(before=0.0123, after=0.0145),
            "sink_patches": Sensitivity(before=None, after=0.31),
        },
    )
