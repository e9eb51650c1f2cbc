"""CKA and the drift of embeddings, against an oracle, their properties, their errors and their gradient."""

from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import scipy.spatial
import torch
from formula_oracles import centred_gram_cka, gaussians, loop_unbiased_hsic, related

from clipdrift.formulas import cka, cka_estimates, cka_matrix, embedding_drift, gram, minibatch_cka


def test_biased_cka_is_the_centred_gram_definition() -> None:
    """Kornblith et al. 2019, by the centring matrix and by features."""
    x, y = related(40)
    assert cka(x, y, debiased=False).item() == pytest.approx(centred_gram_cka(x, y), abs=1e-12)
    xc, yc = x - x.mean(0), y - y.mean(0)
    by_features = (xc.T @ yc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert cka(x, y, debiased=False).item() == pytest.approx(by_features.item(), abs=1e-12)


@pytest.mark.parametrize("n", [4, 5, 9])
def test_debiased_cka_is_the_u_statistic(n: int) -> None:
    """The closed form must equal the sum over all quadruples of images, without centring first."""
    x, y = related(n, seed=n)
    k, m = x @ x.T, y @ y.T
    expected = loop_unbiased_hsic(k, m) / math.sqrt(loop_unbiased_hsic(k, k) * loop_unbiased_hsic(m, m))
    assert cka(x, y).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_is_invariant_to_rotation_shift_and_scale(debiased: bool) -> None:
    """What a following linear layer can undo is no change."""
    x, y = related(30)
    rotation = torch.linalg.qr(gaussians(12, 12, seed=5)).Q
    value = cka(x, y, debiased).item()
    assert 0.2 < value < 0.9
    for moved in (x @ rotation, x + 50, 1e-3 * x, 1e3 * x, 1e-20 * x, x @ rotation * 7 - 3):
        assert cka(moved, y, debiased).item() == pytest.approx(value, abs=1e-10)
    assert cka(y, x, debiased).item() == pytest.approx(value, abs=1e-12)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert cka(x[order], y[order], debiased).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_cka_of_a_representation_with_itself_is_one(debiased: bool, dtype: torch.dtype) -> None:
    """Drift of nothing is nothing, at any precision of the states."""
    x = gaussians(20, 8).to(dtype)
    value = cka(x, x, debiased)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "biased"), [(32, 0.96), (200, 0.79), (2000, 0.28)])
def test_cka_of_unrelated_features(n: int, biased: float) -> None:
    """Why the debiased estimate leads: the biased one calls unrelated wide features alike."""
    x, y = gaussians(n, 768, seed=1), gaussians(n, 768, seed=2)
    assert cka(x, y, debiased=False).item() == pytest.approx(biased, abs=0.01)
    assert cka(x, y).item() == pytest.approx(0, abs=0.05 if n > 32 else 0.1)


def test_debiased_cka_is_unbiased_on_average() -> None:
    """At few images one value scatters, but around zero; the biased one never comes near."""
    values = [cka(gaussians(8, 20, seed=2 * s), gaussians(8, 20, seed=2 * s + 1)).item() for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert min(values) < 0


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_sees_one_moved_image(debiased: bool) -> None:
    """Positive control: one image of fifty that jumps lowers it, further jumps lower it more."""
    x = gaussians(50, 16)
    values = []
    for jump in (0.0, 5.0, 20.0, 100.0):
        y = x.clone()
        y[7] += jump * gaussians(1, 16, seed=9)[0]
        values.append(cka(x, y, debiased).item())
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [5, 33, 100, 333])
@pytest.mark.parametrize("size", [0.0, 0.1, 1234.567, 1e6])
def test_cka_of_a_constant_is_an_error(debiased: bool, n: int, size: float) -> None:
    """0/0: the mean of equal numbers differs from them by rounding, and that must not become a CKA."""
    constant = size * gaussians(1, 16).expand(n, 16)
    other = gaussians(n, 16, seed=3)
    for x, y in ((constant, other), (other, constant), (constant.float(), other.float())):
        with pytest.raises(ValueError, match="same for every image"):
            cka(x, y, debiased)


@pytest.mark.parametrize("n", [4, 7, 13, 33, 100, 333])
@pytest.mark.parametrize("size", [0.1, 1234.567])
def test_debiased_cka_of_a_single_outlier_is_an_error(n: int, size: float) -> None:
    """All images alike but one: the unbiased HSIC is exactly 0, computed as rounding noise of either sign."""
    x = (size * gaussians(1, 16)).repeat(n, 1)
    x[3] += gaussians(1, 16, seed=4)[0]
    with pytest.raises(ValueError, match="all but one"):
        cka(x, gaussians(n, 16, seed=3))
    assert 0 < cka(x, gaussians(n, 16, seed=3), debiased=False).item() <= 1


def test_cka_refuses_what_it_cannot_compare() -> None:
    """Too few images, other images, nan."""
    x = gaussians(10, 4)
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        cka(x[:3], x[:3])
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        cka(x[:1], x[:1], debiased=False)
    assert cka(x[:2], x[:2], debiased=False).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="got 10 and 9"):
        unwrap(cka)(x, x[:9])  # as users call it, without the shape checks of the tests
    for bad in (math.nan, math.inf):
        y = x.clone()
        y[3, 2] = bad
        with pytest.raises(ValueError, match="nan or inf"):
            cka(x, y)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_has_a_right_gradient(debiased: bool) -> None:
    """A penalty may keep it high."""
    x, y = related(6)
    assert torch.autograd.gradcheck(lambda a: cka(a, y, debiased), (x.requires_grad_(),))


# --- one image far from the others


def test_an_outlier_on_both_sides_decides_cka() -> None:
    """Unrelated features: the biased estimate becomes 1, the debiased one the rest's correlation along it."""
    x, y = gaussians(200, 64, seed=1), gaussians(200, 64, seed=2)
    rest = np.corrcoef(x[1:, 0].numpy(), y[1:, 1].numpy())[0, 1]
    assert abs(cka(x, y).item()) < 0.01
    biased = []
    for distance in (0.0, 30.0, 100.0, 1e3, 1e6):
        far_x, far_y = x.clone(), y.clone()
        far_x[0, 0] += distance
        far_y[0, 1] += distance
        biased.append(cka(far_x, far_y, debiased=False).item())
    assert biased == sorted(biased)
    assert biased[0] < 0.3
    assert biased[-1] == pytest.approx(1, abs=1e-6)
    assert rest < -0.2
    assert cka(far_x, far_y).item() == pytest.approx(rest, abs=1e-3)


def test_an_outlier_on_one_side_hides_all_others() -> None:
    """Of the same features but for one image: 199 unchanged images no longer count in either estimate."""
    x = gaussians(200, 64, seed=1)
    for distance, least, most in ((0.0, 1 - 1e-9, 1 + 1e-9), (10.0, 0.98, 1.0), (1e4, -0.05, 0.05)):
        y = x.clone()
        y[0, 1] += distance
        assert least < cka(x, y).item() < most
        assert least < cka(x, y, debiased=False).item() < most


# --- many representations, and batches


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_matrix_is_cka_of_each_pair(debiased: bool) -> None:
    """Rows are of the first model, columns of the second; widths may differ."""
    xs = [gaussians(20, width, seed=width) for width in (3, 8, 30)]
    ys = [xs[1] @ gaussians(8, 5), gaussians(20, 8, seed=9).float()]
    found = cka_matrix(xs, ys, debiased)
    assert found.dtype == torch.float64
    expected = [[cka(x, y, debiased).item() for y in ys] for x in xs]
    assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    assert found[1, 0] > 0.5
    assert cka_matrix(xs, xs, debiased).diagonal().tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize("images", [127, 128, 129, 300])
def test_grams_in_parts_are_whole_ones(images: int) -> None:
    """Rows are computed in parts and right of the diagonal alone; widths differ."""
    assert gram._ROWS == 128
    xs = [gaussians(images, width, seed=width) for width in (6, 11)]
    ys = [gaussians(images, 9, seed=3), xs[0][:, :4] ** 2]
    whole = [[np.asarray((z - z.mean(0)) @ (z - z.mean(0)).T) for z in side] for side in (xs, ys)]
    apart = 1 - np.eye(images)

    def unbiased(k: np.ndarray, m: np.ndarray) -> float:
        k, m, n = k * apart, m * apart, images
        totals = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((k * m).sum() + totals - 2 * (k.sum(0) * m.sum(0)).sum() / (n - 2))

    def biased(k: np.ndarray, m: np.ndarray) -> float:
        return float((k * m).sum())

    for debiased, hsic in ((True, unbiased), (False, biased)):
        expected = [[hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)) for m in whole[1]] for k in whole[0]]
        assert cka_matrix(xs, ys, debiased).numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert cka_estimates(xs[0], ys[1]) == (cka(xs[0], ys[1]), cka(xs[0], ys[1], debiased=False))


def test_cka_matrix_refuses_what_cka_refuses() -> None:
    """On either side, in any place."""
    xs = [gaussians(10, 4), gaussians(10, 6, seed=1)]
    with pytest.raises(ValueError, match="at least one"):
        cka_matrix([], xs)
    with pytest.raises(ValueError, match="at least one"):
        cka_matrix(xs, [])
    with pytest.raises(ValueError, match="got 10 and 9"):
        unwrap(cka_matrix)(xs, [xs[0], xs[1][:9]])
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        cka_matrix([x[:3] for x in xs], [x[:3] for x in xs])
    with pytest.raises(ValueError, match="nan or inf"):
        cka_matrix(xs, [xs[0], math.nan * xs[1]])
    for sides in ((xs, [xs[0], torch.ones(10, 2)]), ([xs[0], torch.ones(10, 2)], xs)):
        with pytest.raises(ValueError, match="same for every image"):
            cka_matrix(*sides)


def test_minibatch_cka_is_the_ratio_of_summed_u_statistics() -> None:
    """Each batch's estimate by the loop over quadruples, of batches of unequal size."""
    batches = [related(n, seed=10 * n) for n in (4, 7, 5)]
    sums = np.zeros(3)
    for x, y in batches:
        k, m = x @ x.T, y @ y.T
        sums += loop_unbiased_hsic(k, k), loop_unbiased_hsic(k, m), loop_unbiased_hsic(m, m)
    found = minibatch_cka(batches)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(sums[1] / math.sqrt(sums[0] * sums[2]), abs=1e-10)
    assert minibatch_cka(reversed(batches)).item() == pytest.approx(found.item(), abs=1e-12)


def test_minibatch_cka_of_a_single_batch_is_cka() -> None:
    """Nothing to sum; the same batch twice changes nothing."""
    x, y = related(30)
    assert minibatch_cka([(x, y)]).item() == pytest.approx(cka(x, y).item(), abs=1e-12)
    assert minibatch_cka([(x + 9, y), (5 * x, 5 * y)]).item() == pytest.approx(cka(x, y).item(), abs=1e-12)
    assert minibatch_cka((x, x) for _ in range(3)).item() == pytest.approx(1)


def test_minibatch_cka_does_not_depend_on_the_size_of_batches() -> None:
    """What the mean of biased CKAs gets wrong: small batches call unrelated features alike."""
    x, y = gaussians(960, 64, seed=1), gaussians(960, 64, seed=2)
    z = x + gaussians(960, 64, seed=3)
    for size in (16, 64, 320):
        unrelated = list(zip(x.split(size), y.split(size), strict=True))
        assert minibatch_cka(unrelated).item() == pytest.approx(0, abs=0.03)
        assert minibatch_cka(zip(x.split(size), z.split(size), strict=True)).item() == pytest.approx(
            cka(x, z).item(), abs=0.06
        )
        if size == 16:
            assert np.mean([cka(a, b, debiased=False).item() for a, b in unrelated]) > 0.7


def test_minibatch_cka_names_the_batch_that_it_refuses() -> None:
    """Too few images, other images, nan; a constant only where it is constant in every batch."""
    x, y = related(12)
    good = (x, y)
    with pytest.raises(ValueError, match="at least one batch"):
        minibatch_cka([])
    with pytest.raises(ValueError, match=r"batch 2: .* at least 4 images, got 3"):
        minibatch_cka([good, (x[:3], y[:3])])
    with pytest.raises(ValueError, match=r"batch 1: .* got 12 and 11"):
        minibatch_cka([(x, y[1:]), good])
    with pytest.raises(ValueError, match=r"batch 3: .* nan or inf"):
        minibatch_cka([good, good, (x, math.inf * y)])
    constant = x[:1].expand(12, -1)
    assert 0 < minibatch_cka([good, (constant, y)]).item() < cka(x, y).item()
    for batches in ([(constant, y), (2 * constant, y)], [(y, constant), (y, 2 * constant)]):
        with pytest.raises(ValueError, match="same for every image"):
            minibatch_cka(batches)


def test_minibatch_cka_has_a_right_gradient() -> None:
    """A penalty may take a step per batch."""
    x, y = related(10)

    def value(a: torch.Tensor) -> torch.Tensor:
        return minibatch_cka([(a[:5], y[:5]), (a[5:], y[5:])])

    assert torch.autograd.gradcheck(value, (x.requires_grad_(),))


# --- embeddings


def test_embedding_drift_knows_its_three_landmarks() -> None:
    """The same is 0, orthogonal 1, opposite 2, whatever the lengths."""
    x = torch.eye(6, 8)
    assert embedding_drift(x, 3 * x).item() == 0
    assert embedding_drift(x, x.roll(1, 1)).item() == 1
    assert embedding_drift(x, -0.1 * x).item() == 2
    assert embedding_drift(x, torch.cat([x[:3], -x[3:]])).item() == 1


def test_embedding_drift_is_the_mean_over_images() -> None:
    """Against SciPy's cosine distance, image by image."""
    x, y = gaussians(9, 5), gaussians(9, 5, seed=1)
    expected = np.mean([scipy.spatial.distance.cosine(a, b) for a, b in zip(x, y, strict=True)])
    assert embedding_drift(x, y).item() == pytest.approx(expected, abs=1e-12)
    z = gaussians(500, 33).half()
    assert 0 <= embedding_drift(z, z).item() < 1e-12


def test_embedding_drift_refuses_what_has_no_direction() -> None:
    """No length, no image, nan or another shape has no cosine."""
    x = gaussians(4, 3)
    for bad in (0.0, math.nan, math.inf):
        y = x.clone()
        y[2] = bad
        with pytest.raises(ValueError, match="nan, inf or zero length"):
            embedding_drift(x, y)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(embedding_drift)(x, x[:3])
    with pytest.raises(ValueError, match="do not fit"):
        embedding_drift(x[:0], x[:0])


def test_embedding_drift_has_a_right_gradient() -> None:
    """A penalty may keep it low."""
    x, y = gaussians(3, 4), gaussians(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda a: embedding_drift(a, y), (x.requires_grad_(),))
