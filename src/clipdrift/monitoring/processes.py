"""Several processes that train one model: one measures, all of them stop at the same step.

No collective is called for a decision: a process that calls ``step`` less often than the others would let
them wait for ever. The first process writes what it decided into the store that they all opened, and it
counts from a later step on, which each of them reaches only after that, as every step of theirs waits for the
first one's gradients.
"""

from __future__ import annotations

import json
from typing import Any

import torch.distributed as dist

LATER = 2
"""Steps after a decision from which on it counts."""


class Processes:
    """The processes of a training, as seen from one of them.

    Args:
        name: of the monitor, so that several do not hear each other.
    """

    def __init__(self, name: str) -> None:
        self._key = f"clipdrift/{name}"
        self._heard = 0

    @property
    def count(self) -> int:
        return dist.get_world_size() if _joined() else 1

    @property
    def first(self) -> bool:
        return not _joined() or dist.get_rank() == 0

    def decide(self, step: int, what: dict[str, Any]) -> int:
        """Have all processes do something; returns the step from which on, for the first one too."""
        if self.count == 1:
            return step
        at = step + LATER
        self._heard += 1
        store: Any = _store()
        store.set(f"{self._key}/{self._heard}", json.dumps(what | {"at": at}))
        return at

    def heard(self) -> dict[str, Any] | None:
        """The next decision of the first process, once; None: there is none. Never waits."""
        if self.count == 1 or self.first:
            return None
        store: Any = _store()
        key = f"{self._key}/{self._heard + 1}"
        if not store.check([key]):
            return None
        self._heard += 1
        found: dict[str, Any] = json.loads(store.get(key))
        return found


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _store() -> Any:
    """The store by which the processes found each other; torch has no public name for it."""
    return dist.distributed_c10d._get_default_store()
