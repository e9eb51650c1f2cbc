"""How far weights moved and in which directions, against numpy and SciPy, and with planted changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from transformers import SiglipModel

from clipdrift.measures import KINDS, MeasureError, Spectrum, spectra, weights, weights_by_kind
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights

LAYERS = "vision_model.encoder.layers"


def copied(model: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in effective_weights(model).items()}


def noised(before: dict[str, Tensor], by: float = 0.05) -> dict[str, Tensor]:
    """Every weight moved, each its own way, later ones further."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + (1 + i / 10) * by * torch.randn(weight.shape, generator=generator)
        for i, (name, weight) in enumerate(before.items())
    }


def relative(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> float:
    """``||W - W0|| / ||W0||`` over all names with ``part`` in them, in numpy."""
    names = [name for name in before if part in name]
    assert names
    old = np.concatenate([before[name].double().numpy().ravel() for name in names])
    new = np.concatenate([after[name].double().numpy().ravel() for name in names])
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


# --- how far


def test_weight_drift_by_numpy(tiny_clip: Clip) -> None:
    """Of the tower with its embeddings and norms, of each block, of the projection."""
    before = copied(tiny_clip.model)
    after = noised(before)
    found = weights(before, after)
    assert found == {
        "weight_drift": [pytest.approx(relative(before, after, "vision_model."), rel=1e-12)],
        "weight_drift_blocks": [
            pytest.approx(relative(before, after, f"{LAYERS}.{i}."), rel=1e-12) for i in range(2)
        ],
        "weight_drift_projection": [pytest.approx(relative(before, after, "visual_projection"), rel=1e-12)],
    }


def test_kinds_by_numpy(tiny_clip: Clip) -> None:
    """Each kind of matrix without its bias, over all blocks together and in each."""
    before = copied(tiny_clip.model)
    after = noised(before)
    found = weights_by_kind(before, after)
    assert list(found) == list(KINDS)
    for kind, suffix in KINDS.items():
        whole, blocks = found[kind]
        assert whole == pytest.approx(relative(before, after, suffix), rel=1e-12)
        expected = [relative(before, after, f"{LAYERS}.{i}.{suffix}") for i in range(2)]
        assert blocks == pytest.approx(expected, rel=1e-12)
        assert min(blocks) < whole < max(blocks)
        assert whole != pytest.approx(np.mean(blocks), rel=1e-4)  # no mean of ratios


def test_parts_add_up_to_the_whole(tiny_clip: Clip) -> None:
    """Squares of changes add up: of blocks and what is outside, of kinds and the vectors beside them."""
    before = copied(tiny_clip.model)
    after = noised(before)
    found, kinds = weights(before, after), weights_by_kind(before, after)

    def squares(part: str) -> float:
        return sum(float(w.double().square().sum()) for name, w in before.items() if part in name)

    inside = sum(squares(f"{LAYERS}.{i}.") * value**2 for i, value in enumerate(found["weight_drift_blocks"]))
    outside = [name for name in before if name.startswith("vision_model.") and LAYERS not in name]
    rest = sum(float((after[n].double() - before[n].double()).square().sum()) for n in outside)
    whole = math.sqrt((inside + rest) / squares("vision_model."))
    assert found["weight_drift"] == pytest.approx([whole], rel=1e-12)
    for kind, suffix in KINDS.items():
        each = [squares(f"{LAYERS}.{i}.{suffix}") * value**2 for i, value in enumerate(kinds[kind][1])]
        assert kinds[kind][0] == pytest.approx(math.sqrt(sum(each) / squares(suffix)), rel=1e-12)
    matrices = sum(squares(suffix) * kinds[kind][0] ** 2 for kind, suffix in KINDS.items())
    vectors = [n for n in before if LAYERS in n and not n.endswith(tuple(KINDS.values()))]
    assert vectors
    beside = sum(float((after[n].double() - before[n].double()).square().sum()) for n in vectors)
    assert matrices + beside == pytest.approx(inside, rel=1e-12)


def test_siglip_has_no_projection(siglip: SiglipModel) -> None:
    """Its pooling head counts as image tower; its blocks have the same kinds."""
    before = copied(siglip)
    after = {n: w * 2 if "head" in n else w for n, w in before.items()}
    found = weights(before, after)
    assert found.keys() == {"weight_drift", "weight_drift_blocks"}
    assert found["weight_drift_blocks"] == [0, 0]
    assert found["weight_drift"] == pytest.approx([relative(before, after, "vision_model.")])
    assert found["weight_drift"][0] > 0.1
    assert weights_by_kind(before, after) == {kind: (0, [0, 0]) for kind in KINDS}


def test_kinds_are_in_the_order_of_blocks() -> None:
    """Block 10 comes after block 2; a kind that a model lacks is left out."""
    before = {f"{LAYERS}.{i}.mlp.fc1.weight": torch.eye(2) for i in (10, 2, 0)}
    before |= {"text_model.encoder.layers.0.mlp.fc1.weight": torch.eye(2)}
    after = {n: w * (1 + int(n.split(".")[3])) for n, w in before.items()}
    whole, blocks = weights_by_kind(before, after)["fc1"]
    assert blocks == pytest.approx([0, 2, 10])
    assert whole == pytest.approx(math.sqrt((0 + 4 + 100) / 3))
    assert weights_by_kind(before, after).keys() == {"fc1"}


def test_weights_that_do_not_fit_are_refused(tiny_clip: Clip) -> None:
    """A missing matrix, another shape, a broken one."""
    before = copied(tiny_clip.model)
    name = f"{LAYERS}.1.mlp.fc1.weight"
    with pytest.raises(KeyError, match="fc1"):
        weights(before, {n: w for n, w in before.items() if n != name})
    with pytest.raises(MeasureError, match=r"fc1\.weight: shape"):
        weights(before, before | {name: before[name].T})
    with pytest.raises(MeasureError, match="nan or inf"):
        weights(before, before | {name: before[name] * math.nan})


# --- in which directions


def basis(rows: int, columns: int, seed: int) -> Tensor:
    """Orthonormal columns, from SciPy."""
    made = np.random.default_rng(seed).standard_normal((rows, columns))
    return torch.from_numpy(scipy.linalg.qr(made, mode="economic")[0])


def planted(matrix: Tensor, values: list[float], seed: int = 0) -> Tensor:
    """A change with these singular values in random directions."""
    left, right = (basis(size, len(values), seed + i) for i, size in enumerate(matrix.shape))
    return (matrix.double() + left @ torch.diag(torch.tensor(values).double()) @ right.T).float()


def only(before: dict[str, Tensor], name: str, new: Tensor, **options: Any) -> Spectrum:
    """The spectrum of a change of one matrix, which is the only one reported."""
    (found,) = spectra(before, before | {name: new}, **options)
    return found


FC1 = f"{LAYERS}.1.mlp.fc1.weight"


@pytest.mark.parametrize("rank", [1, 4, 17])
def test_rank_of_a_planted_change(tiny_clip: Clip, rank: int) -> None:
    """r equal singular values are of effective rank r; the largest come first, relative to the backbone's."""
    before = copied(tiny_clip.model)
    found = only(before, FC1, planted(before[FC1], [0.5] * rank))
    scale = scipy.linalg.svdvals(before[FC1].double().numpy())[0]
    assert (found.block, found.kind) == (2, "fc1")
    assert found.effective_rank == pytest.approx(rank, rel=1e-3)
    assert len(found.largest) == 16
    expected = ([0.5 / scale] * rank + [0] * 16)[:16]
    assert found.largest == pytest.approx(expected, abs=1e-5)


def test_uneven_values_by_scipy(tiny_clip: Clip) -> None:
    """Effective rank is exp of the entropy of the values' shares, in nats: below the number of values."""
    before = copied(tiny_clip.model)
    found = only(before, FC1, planted(before[FC1], [0.1, 0.8, 0.4]))
    scale = scipy.linalg.svdvals(before[FC1].double().numpy())[0]
    assert found.largest[:3] == pytest.approx([0.8 / scale, 0.4 / scale, 0.1 / scale], abs=1e-5)
    shares = np.array([0.8, 0.4, 0.1]) / 1.3
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert expected < 2.5
    assert found.effective_rank == pytest.approx(expected, rel=1e-3)


def test_every_matrix_that_changed_by_scipy(tiny_clip: Clip) -> None:
    """In the order of blocks and kinds; vectors and the embeddings are no matrices of a block."""
    before = copied(tiny_clip.model)
    after = noised(before)
    found = spectra(before, after)
    assert [(s.block, s.kind) for s in found] == [(b, kind) for b in (1, 2) for kind in KINDS]
    for spectrum in found:
        name = f"{LAYERS}.{spectrum.block - 1}.{KINDS[spectrum.kind]}"
        old, new = (side[name].double().numpy() for side in (before, after))
        values = scipy.linalg.svdvals(new - old)
        shares = values / values.sum()
        assert spectrum.largest == pytest.approx(values[:16] / scipy.linalg.svdvals(old)[0], rel=1e-5)
        assert spectrum.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
        u0, u = (scipy.linalg.svd(w, full_matrices=False)[0] for w in (old, new))
        assert spectrum.intruders == int((np.abs(u0.T @ u)[:, :10].max(0) < 0.5).sum())
        assert list(spectrum.largest) == sorted(spectrum.largest, reverse=True)


def decaying(size: int = 32) -> Tensor:
    """A matrix with distinct singular values, as trained ones have: size / 1, size / 2, and so on."""
    values = size / torch.arange(1, size + 1).double()
    return (basis(size, size, 7) @ torch.diag(values) @ basis(size, size, 8).T).float()


Q = f"{LAYERS}.0.self_attn.q_proj.weight"


@pytest.fixture
def sharp(tiny_clip: Clip) -> dict[str, Tensor]:
    """The tiny CLIP's weights with one such matrix among them."""
    return copied(tiny_clip.model) | {Q: decaying()}


@pytest.mark.parametrize("factor", [1.5, 0.1, -2.0])
def test_a_scaled_matrix_has_no_intruders(sharp: dict[str, Tensor], factor: float) -> None:
    """Its directions are the backbone's, whatever their strength or sign."""
    found = only(sharp, Q, factor * sharp[Q], top=None, threshold=0.9)
    assert found.intruders == 0
    assert found.largest[0] == pytest.approx(abs(factor - 1), rel=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_planted_directions_are_counted(sharp: dict[str, Tensor], count: int) -> None:
    """Spread evenly over all of the backbone's, and strong enough to lead."""
    left, _, right = scipy.linalg.svd(sharp[Q].double().numpy())
    signs = scipy.linalg.hadamard(32)[:, 1 : count + 1] / math.sqrt(32)
    new = sharp[Q] + 100 * torch.from_numpy(left @ signs @ (right.T @ signs).T).float()
    found = only(sharp, Q, new)
    assert (found.block, found.kind) == (1, "q")
    assert found.intruders >= count
    assert only(sharp, Q, new, top=count).intruders == count  # the leading ones are the planted ones
    assert only(sharp, Q, new, top=count, threshold=0.01).intruders == 0
    assert found.effective_rank == pytest.approx(count, rel=1e-3)


def test_a_weak_planted_direction_is_not_among_the_leading(sharp: dict[str, Tensor]) -> None:
    """``top`` looks at the largest singular values alone."""
    new = planted(sharp[Q], [1e-3])
    assert only(sharp, Q, new, top=10).intruders == 0


def test_what_did_not_change_is_left_out(tiny_clip: Clip) -> None:
    """Though progress is told of every matrix looked at."""
    before = copied(tiny_clip.model)
    told: list[tuple[int, int]] = []
    assert spectra(before, copy.copy(before), progress=lambda *done: told.append(done)) == []
    assert told == [(i, 12) for i in range(1, 13)]
    out = f"{LAYERS}.0.self_attn.out_proj.weight"
    changed = before | {out: before[out] + 1e-3, FC1: before[FC1] + 1e-3}
    changed |= {"visual_projection.weight": before["visual_projection.weight"] * 2}
    assert [(s.block, s.kind) for s in spectra(before, changed)] == [(1, "out"), (2, "fc1")]


def test_half_precision_weights(tiny_clip: Clip) -> None:
    """Spectra are of the change in float32; what rounds to nothing did not change."""
    before = {name: weight.bfloat16() for name, weight in copied(tiny_clip.model).items()}
    after = before | {FC1: planted(before[FC1].float(), [2.0]).bfloat16()}
    found = only(before, FC1, after[FC1])
    change = after[FC1].double().numpy() - before[FC1].double().numpy()
    scale = scipy.linalg.svdvals(before[FC1].double().numpy())[0]
    assert found.largest == pytest.approx(scipy.linalg.svdvals(change)[:16] / scale, rel=1e-4, abs=1e-7)
    assert spectra(before, before | {FC1: (before[FC1].float() + 1e-9).bfloat16()}) == []
