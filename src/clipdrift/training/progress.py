"""Progress of one training: all that its next step depends on, saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clipdrift import accelerator
from clipdrift.adapt import Adapted
from clipdrift.training.ledger import Step


@dataclass(frozen=True)
class Moment:
    """A point of the training at which the caller may look at the model.

    ``epoch`` counts from 1; ``step`` is the number of steps done; ``loss`` and ``accuracy`` (percent) are
    averages over the training images seen since the epoch began; ``learning_rate`` is that of the last step.
    """

    epoch: int
    step: int
    ends_epoch: bool
    loss: float
    accuracy: float
    learning_rate: float


@dataclass(eq=False)
class Progress:
    """Progress of one training run; the caller passes it in and may save it between two steps.

    Attributes:
        saved: a :meth:`state` to go on from.
        step: steps done.
        loss, right, seen: sums over the images seen since the epoch began.
        due: a look that the caller has not been asked for yet.
        factor: what rates are multiplied by from now on; the caller lowers it.
        ended: whether the caller wants no more steps.
    """

    saved: Mapping[str, Any] | None = None
    step: int = 0
    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    due: Moment | None = None
    factor: float = 1.0
    ended: bool = False
    _adapted: Adapted | None = None
    _optimizer: torch.optim.Optimizer | None = None

    @property
    def begins(self) -> int:
        """The number of steps that were done before; to be asked before the start."""
        return 0 if self.saved is None else int(self.saved["step"])

    def over(self, steps: int) -> bool:
        """Whether none of so many steps is left to do; to be asked before the start."""
        return self.begins >= steps or (self.saved is not None and self.saved.get("ended", False))

    def start(self, adapted: Adapted, optimizer: torch.optim.Optimizer) -> None:
        """The training begins; weights, optimiser and random numbers become those of ``saved``, if any."""
        self._adapted, self._optimizer = adapted, optimizer
        if self.saved is None:
            return
        saved = dict(self.saved)
        adapted.restore(saved["weights"])
        adapted.head.load_state_dict(saved["head"])  # one made of texts is as old as the last look
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        accelerator.set_random_state(adapted.clip.device, saved["random_cuda"])
        self.step, self.seen = saved["step"], saved["seen"]
        self.loss, self.right = saved["loss"], saved["right"]
        self.due = None if saved["due"] is None else Moment(**saved["due"])
        self.factor, self.ended = saved.get("factor", 1.0), saved.get("ended", False)  # absent in older ones
        self.saved = None  # several times the model's size

    def begin_epoch(self) -> None:
        self.loss, self.right, self.seen = 0.0, 0.0, 0

    def count(self, step: Step) -> None:
        """A step whose numbers have been read."""
        for part in step.parts:
            self.loss += part.loss
            self.right += part.right
            self.seen += part.images

    def end_step(self, epoch: int, ends_epoch: bool, rate: float, look: bool) -> None:
        self.step += 1
        if look:
            averages = self.loss / self.seen, 100 * self.right / self.seen
            self.due = Moment(epoch, self.step, ends_epoch, *averages, rate)

    def taken(self) -> Moment:
        """The look that is due, which from now on is not."""
        assert self.due is not None
        due, self.due = self.due, None
        return due

    def state(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        assert self._adapted is not None
        assert self._optimizer is not None
        device = self._adapted.clip.device
        return {
            "step": self.step,
            "loss": self.loss,
            "right": self.right,
            "seen": self.seen,
            "due": None if self.due is None else asdict(self.due),
            "factor": self.factor,
            "ended": self.ended,
            "weights": self._adapted.snapshot(),
            "head": self._adapted.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": accelerator.random_state(device),
        }

    def trained(self) -> set[str]:
        """Names of the parameters that have had a gradient."""
        assert self._adapted is not None
        assert self._optimizer is not None
        moved = self._optimizer.state
        return {name for name, parameter in self._adapted.parameters() if parameter in moved}
