"""What a training's steps have shown, read from the device some steps at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

READ_STEPS = 50
"""Steps after which a deferred ledger is read at the latest."""
READ_SECONDS = 1.0
"""Seconds after which it is."""


class Diverged(Exception):  # noqa: N818 - an outcome, not a mistake
    """The loss or its gradient became nan or inf."""

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(
            f"{what} is not finite at step {step} (epoch {epoch}); a lower optim.learning_rate may help"
        )
        self.epoch, self.step = epoch, step


class NotFiniteLossError(Exception):
    """The loss is nan or inf; no gradient was taken."""


def finite(loss: Tensor) -> Tensor:
    """The loss itself. Raises NotFiniteLossError at nan or inf."""
    if not torch.isfinite(loss):
        raise NotFiniteLossError
    return loss


@dataclass(frozen=True)
class Part:
    """Images of a step that were computed together: the sum of their losses, how many are right, how many
    there are."""

    loss: float
    right: float
    images: int


@dataclass(frozen=True)
class Step:
    """A step whose numbers have been read; ``number`` counts from 1."""

    number: int
    parts: tuple[Part, ...]

    @property
    def loss(self) -> float:
        """Mean over its images."""
        return sum(part.loss for part in self.parts) / sum(part.images for part in self.parts)


@dataclass(eq=False)
class _Unread:
    """A step whose numbers are on the device still."""

    epoch: int
    number: int
    sizes: list[int] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    norm: Tensor | None = None


@dataclass(eq=False)
class Ledger:
    """Losses, hits and gradient norms of a training, and its guard against what is no number.

    To read a number from a GPU is to wait until it has done all that it was given; asked at every step, it
    stands idle while the next one is prepared. So there numbers are read some steps at a time. The first step
    whose loss or gradient is nan or inf changes no weight, and no step after it does: the optimiser is told
    on the device. What a late look finds is therefore what a look at that step would have found.

    Attributes:
        device: of the losses.
        deferred: read some steps at a time; needs an optimiser that skips steps on the device
            (``fused=True``). Else each step is read before its weights change.
        clock: seconds.
    """

    device: torch.device
    deferred: bool
    clock: Callable[[], float] = time.monotonic
    _steps: list[_Unread] = field(default_factory=list)
    _bad: Tensor = field(init=False)
    _read_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._bad = torch.zeros((), device=self.device)
        self._read_at = self.clock()

    def begin(self, epoch: int, number: int) -> None:
        """A step begins; ``number`` counts from 1."""
        self._steps.append(_Unread(epoch, number))

    def check(self, loss: Tensor) -> Tensor:
        """The loss itself, before its gradient is taken. Raises NotFiniteLossError, if not deferred."""
        if not self.deferred:
            return finite(loss)
        self._flag(loss.detach())
        return loss

    def part(self, loss: Tensor, right: Tensor) -> None:
        """Mean loss of some images of the step, and (b,) whether each is right."""
        step = self._steps[-1]
        step.sizes.append(len(right))
        step.values += [loss.detach().double(), right.sum().double()]

    def gradient(self, norm: Tensor) -> None:
        """The norm of the step's whole gradient. Raises Diverged, if not deferred."""
        step = self._steps[-1]
        step.norm = norm.detach().double()
        if self.deferred:
            self._flag(norm.detach())
        elif not torch.isfinite(norm):
            raise Diverged(step.epoch, step.number, "the gradient")

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the optimiser skip its step where this one, or one before it, was no number."""
        if self.deferred:
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]  # as torch's GradScaler sets it

    @property
    def due(self) -> bool:
        """Whether it is time to read."""
        return (
            not self.deferred
            or len(self._steps) >= READ_STEPS
            or self.clock() - self._read_at >= READ_SECONDS
        )

    def read(self) -> Iterator[Step]:
        """The steps since the last reading, in order. Raises Diverged at the first that is no number."""
        steps, self._steps = self._steps, []
        one = torch.ones((), dtype=torch.float64, device=self.device)
        values = [
            value for step in steps for value in (*step.values, one if step.norm is None else step.norm)
        ]
        numbers = iter(torch.stack([value.to(self.device) for value in values]).tolist() if values else ())
        self._read_at = self.clock()
        for step in steps:
            parts = tuple(Part(next(numbers) * images, next(numbers), images) for images in step.sizes)
            norm = next(numbers)
            for what, value in (("the loss", sum(part.loss for part in parts)), ("the gradient", norm)):
                if not abs(value) < float("inf"):
                    raise Diverged(step.epoch, step.number, what)
            yield Step(step.number, parts)

    def _flag(self, value: Tensor) -> None:
        bad = (~torch.isfinite(value)).to(self._bad)
        self._bad = torch.maximum(self._bad, bad)
