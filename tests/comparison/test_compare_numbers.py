"""The numbers of a comparison against plain transformers, numpy and torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from by_hand import Array, attention, entropy, field, gini, look, worst
from outside import load_plain
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPImageProcessorPil

from clipdrift import formulas
from clipdrift.comparison import Comparison
from clipdrift.data.deck import Deck
from clipdrift.data.splits import balanced_subsets

FLOAT32 = 2e-5
"""What float32 may differ between eager attention and the reading, relative to values of order one."""
KINDS = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "out": "self_attn.out_proj.weight",
    "fc1": "mlp.fc1.weight",
    "fc2": "mlp.fc2.weight",
}


@pytest.fixture(scope="module")
def seen(tiny_clip_dir: Path, tuned_dir: Path, photos: list[Image.Image]) -> dict[str, Any]:
    """Both sides by transformers alone: preprocessed by its processor, eager maps and all hidden states."""
    inputs = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)(photos, return_tensors="pt")
    sides = {"before": load_plain(tiny_clip_dir), "after": load_plain(tuned_dir)}
    return {name: look(model, inputs["pixel_values"]) for name, model in sides.items()}


@pytest.fixture(scope="module")
def weights(tiny_clip_dir: Path, tuned_dir: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As they lie on disk."""
    found = (load_file(folder / "model.safetensors") for folder in (tiny_clip_dir, tuned_dir))
    before, after = ({k: v.double() for k, v in one.items()} for one in found)
    return before, after


# --- attention and flow


@pytest.mark.parametrize("side", ["before", "after"])
def test_attention_is_that_of_transformers_own_maps(
    changed: Comparison, seen: dict[str, Any], side: str
) -> None:
    """Every measure of attention and flow, both sides, every block, and the mean over blocks."""
    maps, norms, _, _ = seen[side]
    expected = attention(maps, norms)
    found = {k: v for k, v in changed.measures.items() if v.family in ("attention", "flow")}
    assert found.keys() == expected.keys()
    for name, values in found.items():
        blocks = getattr(values, f"{side}_blocks")
        assert getattr(values, side) == pytest.approx(expected[name].mean(), abs=FLOAT32), name
        assert len(blocks) == (0 if len(expected[name]) == 1 else 2), name
        if blocks:
            assert blocks == pytest.approx(expected[name].tolist(), abs=FLOAT32), name
    assert expected["entropy"].mean() < 0.95 * np.log(16)  # uneven: an even row would hide mistakes


def test_drift_is_percent_of_before(changed: Comparison) -> None:
    """Of the mean and of every block, by the definition; absolute where a value before is zero."""
    for name, values in changed.measures.items():
        if values.before is None or values.after is None:
            continue
        old, new = np.array(values.before_blocks), np.array(values.after_blocks)
        if values.absolute:
            assert (old == 0).any() or values.before == 0, name
            assert values.drift == pytest.approx(values.after - values.before), name
            assert values.drift_blocks == pytest.approx(tuple(new - old)), name
        else:
            assert values.drift == pytest.approx(100 * (values.after / values.before - 1)), name
            assert values.drift_blocks == pytest.approx(tuple(100 * (new / old - 1))), name
    assert changed.measures["entropy"].drift != 0
    assert not changed.measures["entropy"].absolute
    assert changed.measures["sink_patches"].absolute


def test_every_head_is_its_mean_over_images(changed: Comparison, seen: dict[str, Any]) -> None:
    """Head by head, blocks and heads from 1."""
    work: dict[str, Callable[[Array], Array]] = {
        "entropy": entropy,
        "erf95": lambda rows: field(rows, 0.95),
        "gini": gini,
        "sink_share": lambda rows: (rows / rows.sum(-1, keepdims=True)).max(-1),
    }
    rows = {(row.measure, row.block, row.head): row for row in changed.heads}
    names = {row.measure for row in changed.heads}
    assert names == {*work, "normalised_entropy", "head_diversity", "cls_self"}
    assert len(rows) == len(changed.heads) == len(names) * 2 * 2
    for name, of in work.items():
        for side in ("before", "after"):
            expected = of(seen[side][0][:, :, :, 0, 1:]).mean(1)  # (L, H)
            for block in (1, 2):
                for head in (1, 2):
                    value = getattr(rows[name, block, head], side)
                    assert value == pytest.approx(expected[block - 1, head - 1], abs=FLOAT32), name


# --- representation


def test_representation_is_that_of_transformers_states(changed: Comparison, seen: dict[str, Any]) -> None:
    """CKA of class tokens' hidden states, block by block; of embeddings; and one minus their cosine."""
    (_, _, before, z0), (_, _, after, z) = seen["before"], seen["after"]
    measures = changed.measures
    for name, debiased in (("cka", True), ("cka_biased", False)):
        expected = [float(formulas.cka(x, y, debiased=debiased)) for x, y in zip(before, after, strict=True)]
        assert measures[name].value_blocks == pytest.approx(expected, abs=FLOAT32)
        assert measures[name].value == pytest.approx(np.mean(expected), abs=FLOAT32)
        assert max(expected) < 0.999
    # twenty images are one batch of a hundred
    assert measures["cka_minibatch"].value_blocks == pytest.approx(measures["cka"].value_blocks, abs=1e-9)
    assert measures["cka_embedding"].value == pytest.approx(float(formulas.cka(z0, z)), abs=FLOAT32)
    cosine = torch.nn.functional.cosine_similarity(z0.double(), z.double())
    assert measures["embedding_drift"].value == pytest.approx(1 - cosine.mean().item(), abs=1e-6)
    matrix = [[float(formulas.cka(x, y)) for y in after] for x in before]
    assert np.abs(np.array(changed.cka_matrix) - matrix).max() < FLOAT32
    assert np.diag(changed.cka_matrix) == pytest.approx(measures["cka"].value_blocks, abs=1e-9)


def test_biased_cka_by_its_definition(changed: Comparison, seen: dict[str, Any]) -> None:
    """Once without the package's formula: ||X'Y||^2 / (||X'X|| ||Y'Y||) of centred states."""
    for block, (x, y) in enumerate(zip(seen["before"][2], seen["after"][2], strict=True)):
        x, y = (s.double() - s.double().mean(0) for s in (x, y))
        expected = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
        assert changed.measures["cka_biased"].value_blocks[block] == pytest.approx(
            expected.item(), abs=FLOAT32
        )


# --- weights


def relative(before: dict[str, Tensor], after: dict[str, Tensor], names: list[str]) -> float:
    assert names
    moved = sum(float((after[n] - before[n]).square().sum()) for n in names)
    return float(np.sqrt(moved / sum(float(before[n].square().sum()) for n in names)))


def test_weight_drift_by_hand(
    changed: Comparison, weights: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    """||W - W0|| / ||W0|| from the files: the tower, its blocks, the projection, each kind of matrix."""
    before, after = weights
    tower = [n for n in before if n.startswith("vision_model.")]
    blocks = [[n for n in tower if f".layers.{i}." in n] for i in range(2)]
    drift = changed.measures["weight_drift"]
    assert drift.value == pytest.approx(relative(before, after, tower), rel=1e-6)
    assert drift.value_blocks == pytest.approx([relative(before, after, b) for b in blocks], rel=1e-6)
    projection = changed.measures["weight_drift_projection"]
    assert projection.value == pytest.approx(relative(before, after, ["visual_projection.weight"]), rel=1e-6)
    for kind, suffix in KINDS.items():
        found = changed.measures[f"weight_drift_{kind}"]
        names = [n for n in tower if n.endswith(suffix)]
        assert len(names) == 2
        assert found.value == pytest.approx(relative(before, after, names), rel=1e-6)
        each = [relative(before, after, [n]) for n in sorted(names)]
        assert found.value_blocks == pytest.approx(each, rel=1e-6)


@pytest.fixture(scope="module")
def far_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changed so much that new directions lead."""
    return outside.tuned_copy(tiny_clip_dir, tmp_path_factory.mktemp("far") / "far", amount=1.5)


@pytest.mark.parametrize("how", ["near", "far"])
def test_spectra_by_numpy(
    tiny_clip_dir: Path, tuned_dir: Path, far_dir: Path, beside: Callable[..., Comparison], how: str
) -> None:
    """Effective rank, largest singular values and intruders of every matrix, by numpy's SVD."""
    folder = tuned_dir if how == "near" else far_dir
    before, after = (load_file(place / "model.safetensors") for place in (tiny_clip_dir, folder))
    spectra = beside(folder, spectrum=True).spectra
    assert sorted((row.block, row.kind) for row in spectra) == sorted(product((1, 2), KINDS))
    for row in spectra:
        name = f"vision_model.encoder.layers.{row.block - 1}.{KINDS[row.kind]}"
        old, new = before[name].double().numpy(), after[name].double().numpy()
        values = np.linalg.svd(new - old, compute_uv=False)
        share = values / values.sum()
        assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
        u0, sizes, _ = np.linalg.svd(old, full_matrices=False)
        assert row.largest == pytest.approx((values[:16] / sizes[0]).tolist(), rel=1e-4)
        top = np.linalg.svd(new, full_matrices=False)[0][:, :10]
        assert row.intruders == int((np.abs(u0.T @ top).max(0) < 0.5).sum())
    assert (sum(row.intruders for row in spectra) > 5) == (how == "far")


def test_an_adapter_has_its_rank(against: Callable[..., Comparison], adapters: Any) -> None:
    """LoRA of rank 4 changes the matrices that it was put on, by a matrix of rank 4."""
    spectra = against(adapters("whole").folder).spectra
    assert {row.kind for row in spectra} == {"q", "v", "out"}
    assert all(2 < row.effective_rank <= 4.001 for row in spectra)
    assert all(max(row.largest[4:]) < 1e-6 < row.largest[3] for row in spectra)


# --- stability


def test_sensitivity_by_numpy(
    tiny_clip_dir: Path, tuned_dir: Path, make_deck: Callable[..., Deck], beside: Callable[..., Comparison]
) -> None:
    """Standard deviation (ddof 1) over mean, over five disjoint subsets balanced over classes."""
    deck = make_deck(28, classes=4)
    found = beside(tuned_dir, images=deck, seed=3, flow=True)
    parts = balanced_subsets(deck.labels, 5, 5, 3)
    assert len(set(np.concatenate(parts).tolist())) == 25
    assert found.subsets is not None
    assert (found.subsets.count, found.subsets.images) == (5, 5)
    images = deck.images(slice(None))
    sides = {"before": look(load_plain(tiny_clip_dir), images), "after": look(load_plain(tuned_dir), images)}

    def variation(values: list[float]) -> float:
        return float(np.std(values, ddof=1) / np.mean(values))

    for side, (maps, norms, _, _) in sides.items():
        each = [attention(maps[:, part], norms[:, part]) for part in parts]
        for name in ("entropy", "erf95", "gini", "cls_self", "rollout_entropy", "patch_entropy"):
            value = getattr(found.subsets.measures[name], side)
            assert value == pytest.approx(variation([one[name].mean() for one in each]), rel=1e-3), name
    states = [sides[side][2] for side in ("before", "after")]
    cka = [
        np.mean([float(formulas.cka(x[part], y[part])) for x, y in zip(*states, strict=True)])
        for part in parts
    ]
    assert found.subsets.measures["cka"].after == pytest.approx(variation(cka), rel=1e-3)  # type: ignore[arg-type]
    assert found.subsets.measures["cka"].before is None


def test_sensitivity_without_classes_and_with_few_images(
    changed: Comparison, against: Callable[..., Comparison], tuned_dir: Path, seen: dict[str, Any]
) -> None:
    """Without labels subsets are drawn at random by the seed; of seven images there are none."""
    order = np.random.default_rng(0).permutation(20)
    rows = [seen["before"][0][:, order[i * 4 : i * 4 + 4], :, 0, 1:] for i in range(5)]
    means = [entropy(part).mean() for part in rows]
    assert changed.subsets is not None
    expected = np.std(means, ddof=1) / np.mean(means)
    assert changed.subsets.measures["entropy"].before == pytest.approx(expected, rel=1e-3)
    assert against(tuned_dir).subsets is None


# --- properties


@pytest.mark.parametrize("size", [1, 7, None])
def test_no_number_depends_on_the_batch_size(
    tuned_dir: Path,
    photos: list[Image.Image],
    pictures: Path,
    changed: Comparison,
    beside: Callable[..., Comparison],
    size: int | None,
) -> None:
    """One image at a time, seven, or as many as fit: sums over images, never means of batches."""
    options = {"transfer": f"colours={pictures}", "batch_size": size}
    found = beside(tuned_dir, images=photos, flow=True, spectrum=True, **options)
    assert worst(found, changed) < 1e-6


def test_turning_the_pair_round(tiny_clip_dir: Path, tuned_dir: Path, beside: Any) -> None:
    """Before and after change places; CKA is symmetric, its matrix transposed."""
    there, back = beside(tuned_dir, flow=True), beside(tiny_clip_dir, base=tuned_dir, flow=True)
    for name, values in there.measures.items():
        other = back.measures[name]
        assert (values.before, values.after) == (other.after, other.before), name
        if name.startswith("cka") or name == "embedding_drift":
            assert values.value == pytest.approx(other.value, abs=1e-9), name
    assert np.array(there.cka_matrix) == pytest.approx(np.array(back.cka_matrix).T, abs=1e-9)


def test_more_noise_is_more_drift(tiny_clip_dir: Path, beside: Any) -> None:
    """The positive control: what is far is told from what is near, by every measure of distance."""
    from outside import of_image, shake

    found = []
    for amount in (0.01, 0.05, 0.25):
        model = load_plain(tiny_clip_dir)
        shake(model, amount, only=of_image)
        found.append(beside(model).measures)
    for name in ("weight_drift", "embedding_drift", "weight_drift_q", "weight_drift_projection"):
        near, middle, far = (measures[name].value for measures in found)
        assert 0 < near < middle < far, name
    for name in ("cka", "cka_biased", "cka_embedding"):
        near, middle, far = (measures[name].value for measures in found)
        assert 1 > near > middle > far, name


def test_what_is_switched_off_is_left_out(against: Any, tuned_dir: Path) -> None:
    """Without flow and spectra, and nothing else is missing or different."""
    whole, less = against(tuned_dir), against(tuned_dir, flow=False, spectrum=False)
    assert less.spectra == ()
    gone = {name for name in whole.measures if name not in less.measures}
    assert gone == {"rollout_entropy", "rollout_erf95", "rollout_gini", "patch_entropy"}
    for name, values in less.measures.items():
        assert values.value == whole.measures[name].value
        assert values.before == pytest.approx(whole.measures[name].before, abs=1e-6), name
    assert re.fullmatch(r"[\d.]+", str(less.timings["opened"]))
