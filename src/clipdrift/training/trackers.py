"""Pass a run's values to TensorBoard, Weights & Biases or MLflow.

A tracker is told what a reporter is told. None is needed, none is on by default, and one that fails is left
out of the rest of the run, which goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clipdrift.config import ConfigError, RunConfig
from clipdrift.errors import one_line
from clipdrift.runs.record import Point, Record
from clipdrift.runs.reporter import Reporter
from clipdrift.texts import rate as rate_text
from clipdrift.training.rows import row_of

PROJECT = "clipdrift"
"""Project of Weights & Biases and experiment of MLflow, unless their own settings name another."""


class Tracker(Protocol):
    """Destination of values."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name, as in ``validation/accuracy``, at a training step."""

    def end(self, values: Mapping[str, float]) -> None:
        """The run has its record: what is worth comparing between runs."""

    def close(self) -> None:
        """Nothing more comes, whether the run has ended well or not."""


@dataclass(eq=False)
class _TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder."""

    config: RunConfig
    folder: Path

    def __post_init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        self._writer.add_text("config", f"```json\n{self.config.model_dump_json(indent=1)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value)

    def close(self) -> None:
        self._writer.close()


@dataclass(eq=False)
class _Wandb:
    """A run of the same key, gone on with where the run goes on. WANDB_PROJECT, WANDB_MODE ... hold."""

    config: RunConfig
    folder: Path

    def __post_init__(self) -> None:
        import os

        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.config.key,
            name=_name(self.config),
            config=self.config.model_dump(mode="json"),
            dir=str(self.folder),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()


@dataclass(eq=False)
class _MLflow:
    """A run of an experiment. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold."""

    config: RunConfig
    folder: Path

    def __post_init__(self) -> None:
        import os

        import mlflow

        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        made = self._client.create_run(number, run_name=_name(self.config), tags={"key": self.config.key})
        self._id = made.info.run_id
        for key, value in _flat(self.config.model_dump(mode="json")).items():
            self._client.log_param(self._id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def end(self, values: Mapping[str, float]) -> None:
        self.log(0, values)

    def close(self) -> None:
        self._client.set_terminated(self._id)


TRACKERS: dict[str, Callable[[RunConfig, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}
"""By name, which is also that of the extra."""


def known(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ConfigError: no such tracker.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--track {name}: no such tracker; there are {', '.join(TRACKERS)}")
    return tuple(dict.fromkeys(names))


@dataclass(eq=False)
class Tracked:
    """A reporter that tells trackers what it tells ``inner``."""

    inner: Reporter
    trackers: dict[str, Tracker] = field(default_factory=dict)

    @classmethod
    def of(cls, inner: Reporter, names: Sequence[str], config: RunConfig, folder: Path) -> Tracked:
        """Start the trackers of these names; one that cannot start is warned of and left out."""
        found = cls(inner)
        for name in names:
            try:
                found.trackers[name] = TRACKERS[name](config, folder)
            except ImportError:
                inner.warn(f"{name} is not installed (pip install 'clipdrift[{name}]'); the run goes on")
            except Exception as error:
                inner.warn(f"{name} does not start ({one_line(error)}); the run goes on without it")
        return found

    def _tell(self, work: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                work(tracker)
            except Exception as error:  # whatever goes wrong there is not worth a run
                del self.trackers[name]
                self.inner.warn(f"{name} has failed ({one_line(error)}); the run goes on without it")

    def stage(self, text: str) -> None:
        self.inner.stage(text)

    def warn(self, text: str) -> None:
        self.inner.warn(text)

    def note(self, text: str) -> None:
        self.inner.note(text)

    def advance(self, done: int, total: int) -> None:
        self.inner.advance(done, total)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.inner.step(step, steps, loss)
        self._tell(lambda tracker: tracker.log(step, {"train/step_loss": loss}))

    def point(self, point: Point) -> None:
        self.inner.point(point)
        values = values_of(point)
        self._tell(lambda tracker: tracker.log(point.step, values))

    def end(self, record: Record) -> None:
        """The run has its record."""
        if record.best is not None:
            values = {f"chosen/{name}": value for name, value in values_of(record.best).items()}
            self._tell(lambda tracker: tracker.end(values))

    def close(self) -> None:
        """Whatever has become of the run."""
        self._tell(lambda tracker: tracker.close())


def values_of(point: Point) -> dict[str, float]:
    """Name all numbers of one look at the model: ``train/loss``, ``validation/accuracy``,
    ``measure/entropy``, ``drift/cka``."""
    found: dict[str, float | None] = {
        "train/loss": point.train_loss,
        "train/accuracy": point.train_accuracy,
        "train/learning_rate": point.learning_rate,
        "train/epoch": point.epoch,
        "validation/accuracy": point.validation_accuracy,
        "test/accuracy": point.test_accuracy,
    }
    found |= row_of(point, blocks=False)
    for name, retrieved in point.retrieval.items():
        for way in ("image_to_text", "text_to_image"):
            found |= {f"{way}/{name}/R@{k}": value for k, value in getattr(retrieved, way).at.items()}
    found["train/logit_scale"] = point.logit_scale
    return {name: float(value) for name, value in found.items() if value is not None}


def _name(config: RunConfig) -> str:
    rate = rate_text(config.optim.learning_rate)
    return f"{config.method.name} {config.data.target.name} {rate} seed {config.seed}"


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = str(value)[:500]
    return found
