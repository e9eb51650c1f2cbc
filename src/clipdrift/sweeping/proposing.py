"""Proposals by Optuna: asked in batches, told what came of them; nothing of it is stored. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipdrift.sweeping.errors import SweepError
from clipdrift.sweeping.space import Choice, Space

_TRIES = 20
"""Proposals in a row that were all made before, after which the next to the last of them is taken."""
_ANOTHER = 3
"""Another method is as far away as so many steps of the rate."""
_MISSED = "missed"
_FEWEST = 4


class Proposer:
    """Tree-structured Parzen estimators over arms and rates, under a constraint.

    The same seed and the same outcomes give the same proposals, so a sweep that is said again rebuilds this
    from the records of its runs.

    Args:
        count: how many settings will be asked for; half of them, at least 4, are drawn at random.

    Raises:
        SweepError: Optuna is not installed.
    """

    def __init__(self, space: Space, seed: int, count: int) -> None:
        self._optuna = _optuna()
        self._space = space
        self._seen: dict[Choice, Any] = {}
        sampler = self._optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(_FEWEST, count // 2),
            constant_liar=True,
        )
        with _silently(self._optuna):
            self._study = self._optuna.create_study(study_name="sweep", direction="maximize", sampler=sampler)

    def ask(self, count: int) -> list[Choice]:
        """New settings, as many as there still are."""
        found: list[Choice] = []
        while len(found) < min(count, self._space.size) and len(self._seen) < self._space.size:
            found.append(self._new())
        return found

    def tell(self, choice: Choice, value: float | None, missed: float) -> None:
        """What came of a proposal.

        Args:
            value: what is to be high; None: nothing came of it.
            missed: points by which the constraint is broken; 0: it is kept.
        """
        trial = self._seen[choice]
        if value is None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            return
        trial.set_constraint(_MISSED, float(missed))
        self._study.tell(trial, float(value))

    def _new(self) -> Choice:
        for _ in range(_TRIES):
            trial = self._study.ask()
            choice = self._choice(trial)
            if choice not in self._seen:
                self._seen[choice] = trial
                return choice
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        left = [one for one in self._space.choices if one not in self._seen]
        last = choice
        choice = min(left, key=lambda one: abs(one.rate - last.rate) + _ANOTHER * (one.arm != last.arm))
        self._study.enqueue_trial(self._parameters(choice))
        trial = self._study.ask()
        self._choice(trial)
        self._seen[choice] = trial
        return choice

    def _choice(self, trial: Any) -> Choice:
        names = [arm.name for arm in self._space.arms]
        arm = names.index(trial.suggest_categorical("method", names)) if len(names) > 1 else 0
        return Choice(arm, trial.suggest_int("rate", 0, len(self._space.rates) - 1))

    def _parameters(self, choice: Choice) -> dict[str, Any]:
        found: dict[str, Any] = {"rate": choice.rate}
        return found | ({"method": self._space.arms[choice.arm].name} if len(self._space.arms) > 1 else {})


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SweepError("sweep: Optuna is not installed; pip install 'clipdrift[sweep]'") from None
    return optuna


class _silently:  # noqa: N801 - used as a statement
    """Keep Optuna from telling of a study that nobody will look for; its level is put back."""

    def __init__(self, optuna: Any) -> None:
        self._logging = optuna.logging

    def __enter__(self) -> None:
        self._level = self._logging.get_verbosity()
        self._logging.set_verbosity(self._logging.WARNING)

    def __exit__(self, *ended: Sequence[Any]) -> None:
        self._logging.set_verbosity(self._level)
