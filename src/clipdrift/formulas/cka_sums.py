"""Linear CKA from running sums: any number of images in constant memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipdrift.formulas.gram import ROUNDING, UNDEFINED


class CkaSums:
    """Sums over images from which :meth:`cka` follows exactly, in feature space.

    Feed every image once with :meth:`update`; the result does not depend on the batches and equals
    :func:`~clipdrift.formulas.gram.cka` of all images together. Memory is (D + D')^2 in float64
    however many images there are. Better than the Gram matrices when images outnumber D + D', or do not fit.
    Carries no gradient.

    With x_i, y_i less a fixed shift (CKA does not depend on it; the first batch's mean keeps the sums well
    conditioned) and z_i = (x_i, y_i), the sums are z, z z', |x|^2 z, |y|^2 z, and the products of |x|^2 and
    |y|^2. The unbiased HSIC of Song et al. 2012, eq. 5, is made of these: of Gram matrices K, L without their
    diagonals, ``sum K * L = ||X'Y||_F^2 - sum_i |x_i|^2 |y_i|^2``, and row i of K sums to
    ``x_i . sum_j x_j - |x_i|^2``.

    Args:
        width_x: D, the width of one representation.
        width_y: D', the width of the other.
    """

    def __init__(self, width_x: int, width_y: int) -> None:
        if width_x < 1 or width_y < 1:
            raise ValueError(f"widths {width_x} and {width_y}: must be at least 1")
        self.images = 0
        """Number of images seen."""
        self._sides = (slice(0, width_x), slice(width_x, width_x + width_y))
        self._shift: Tensor | None = None
        self._first = torch.zeros(width_x + width_y, dtype=torch.float64)
        self._second = torch.zeros(width_x + width_y, width_x + width_y, dtype=torch.float64)
        self._third = torch.zeros(2, width_x + width_y, dtype=torch.float64)
        self._fourth = torch.zeros(2, 2, dtype=torch.float64)
        self._largest = [0.0, 0.0]
        self._largest_shifted = [0.0, 0.0]

    @torch.no_grad()
    def update(self, x: Float[Tensor, "B D1"], y: Float[Tensor, "B D2"]) -> None:
        """Add images; an error adds none. The sums are kept where the first images are.

        Args:
            x: (B, D) representation of B images, B at least 0.
            y: (B, D') another representation of the same images.

        Raises:
            ValueError: other widths than announced, different numbers of images, nan or inf.
        """
        if len(x) != len(y):
            raise ValueError(f"cka needs the same images on both sides, got {len(x)} and {len(y)}")
        widths = [side.stop - side.start for side in self._sides]
        if [x.shape[1], y.shape[1]] != widths:
            raise ValueError(
                f"widths {x.shape[1]} and {y.shape[1]}: announced were {widths[0]} and {widths[1]}"
            )
        if not len(x):
            return
        if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise ValueError("cka: a representation contains nan or inf")
        z = torch.cat([x.double(), y.double()], dim=1)
        if self._shift is None:
            self._shift = z.mean(0)
            self._to(z.device)
        z = z.to(self._shift.device)
        shifted = z - self._shift
        squares = torch.stack([shifted[:, side].square().sum(1) for side in self._sides])
        self.images += len(z)
        self._first += shifted.sum(0)
        parts = [shifted[:, side] for side in self._sides]
        for i, j in ((0, 0), (0, 1), (1, 1)):  # (1, 0) is (0, 1) mirrored, and never read
            self._second[self._sides[i], self._sides[j]].addmm_(parts[i].T, parts[j])
        self._third.addmm_(squares, shifted)
        self._fourth.addmm_(squares, squares.T)
        for i, side in enumerate(self._sides):
            self._largest[i] = max(self._largest[i], z[:, side].abs().max().item())
            self._largest_shifted[i] = max(self._largest_shifted[i], shifted[:, side].abs().max().item())

    def cka(self, debiased: bool = True) -> Float[Tensor, ""]:
        """:func:`~clipdrift.formulas.gram.cka` of all images seen so far.

        Args:
            debiased: which estimate.

        Returns:
            Scalar in float64, on the device of the images.

        Raises:
            ValueError: fewer than 4 (debiased) or 2 images; one side the same for every image, or, debiased,
                for all but one.
        """
        least = 4 if debiased else 2
        if self.images < least:
            raise ValueError(f"cka needs at least {least} images, got {self.images}")
        hsic = self._unbiased_hsic if debiased else self._biased_hsic
        own = []
        for i, side in enumerate(self._sides):
            value = hsic(i, i)
            rounding = ROUNDING * self.images
            constant = self._largest_shifted[i] <= rounding * self._largest[i]
            if constant or value <= rounding * self._second[side, side].square().sum():
                raise ValueError(UNDEFINED)
            own.append(value.sqrt())
        return hsic(0, 1) / (own[0] * own[1])

    def _to(self, device: torch.device) -> None:
        for name in ("_first", "_second", "_third", "_fourth"):
            setattr(self, name, getattr(self, name).to(device))

    def _biased_hsic(self, i: int, j: int) -> Tensor:
        s, t = self._sides[i], self._sides[j]
        centred = self._second[s, t] - torch.outer(self._first[s], self._first[t]) / self.images
        return centred.square().sum()

    def _unbiased_hsic(self, i: int, j: int) -> Tensor:
        """Up to the factor 1/(n(n-3)), which cancels in CKA."""
        s, t, n = self._sides[i], self._sides[j], self.images
        sum_x, sum_y, product = self._first[s], self._first[t], self._second[s, t]
        diagonal = self._fourth[i, j]
        total_x = sum_x.square().sum() - self._second[s, s].trace()
        total_y = sum_y.square().sum() - self._second[t, t].trace()
        cross = sum_x @ product @ sum_y - self._third[i, t] @ sum_y - self._third[j, s] @ sum_x + diagonal
        pairs = product.square().sum() - diagonal
        return pairs + total_x * total_y / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
