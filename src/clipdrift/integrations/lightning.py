"""Watch a training of Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from clipdrift.comparison.images import ImagesLike
from clipdrift.integrations.names import is_key
from clipdrift.monitoring import log
from clipdrift.monitoring.backbone import FOLDER
from clipdrift.monitoring.monitor import DriftMonitor

try:
    from lightning.pytorch import Callback
except ImportError:  # the same under its older name
    from pytorch_lightning import Callback


class DriftCallback(Callback):  # type: ignore[misc]
    """Measures the CLIP in a LightningModule, logs to the trainer's loggers, stops it where a rule says so.

        trainer = Trainer(callbacks=[DriftCallback("photos/", transfer="cifar100", every=200)])
        trainer.fit(module, loader)

    The backbone is the CLIP of the module before ``fit`` loads a checkpoint into it, or the one in
    ``out`` of a training that goes on. ``ModelCheckpoint(monitor="drift/cka")`` and
    ``EarlyStopping(monitor="retention/cifar100", mode="max")`` find the numbers in the trainer's
    ``callback_metrics``; each validation has those of its step.

    Attributes:
        monitor: the :class:`clipdrift.DriftMonitor` that does it; None before ``fit``.
    """

    def __init__(
        self,
        images: ImagesLike,
        *,
        out: str | Path | None = None,
        name: str = "drift",
        find: Callable[[Any], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        """Note what to do; the model is read when ``fit`` begins.

        Args:
            images: as :class:`clipdrift.DriftMonitor` takes them.
            out: folder of the monitor; none: ``name`` in the trainer's ``default_root_dir``.
            name: tells several callbacks of one training apart.
            find: gives the CLIP of the LightningModule, where that holds several.
            options: further ones of the monitor: transfer, every, rules, monitor, patience ...
        """
        super().__init__()
        self.monitor: DriftMonitor | None = None
        self.name, self._images, self._out, self._options = name, images, out, options
        self._find = find or (lambda module: module)
        self._trainer: Any = None
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return str(self._generate_state_key(name=self.name))

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Read the backbone if a checkpoint may be loaded over it before :meth:`on_fit_start`."""
        late = trainer.strategy.restore_checkpoint_after_setup or _makes_its_model_later(pl_module)
        if stage == "fit" and not late and not (self._place(trainer) / FOLDER).is_dir():
            pl_module.to(trainer.strategy.root_device)  # as the strategy does a moment later
            self._open(trainer, pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._open(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert self.monitor is not None
        schedules = [one.scheduler for one in trainer.lr_scheduler_configs]
        self.monitor.attach(
            optimizer=SimpleNamespace(
                param_groups=[g for one in trainer.optimizers for g in one.param_groups]
            ),
            scheduler=SimpleNamespace(_schedulers=schedules),
        )
        if self._restored is not None:
            self.monitor.load_state_dict(self._restored)
            self._restored = None
        elif self.monitor.steps != trainer.global_step:  # begun anew, or by a checkpoint older than this
            self.monitor.load_state_dict(self._anew | {"steps": trainer.global_step})

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        if self.monitor.steps == trainer.global_step:  # gradients are still gathered
            return
        self.monitor.step(trainer.global_step)
        if trainer.world_size == 1:  # several processes hear of it at the next validation or epoch's end
            self._offer(trainer)
        trainer.should_stop |= self.monitor.should_stop

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._offer(trainer, measured=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if _followed(trainer):
            self._offer(trainer, measured=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.monitor is not None
        if self.monitor.measured != self.monitor.steps:
            self.monitor.measure()  # the last state, whatever the cadence

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._trainer = None
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._restored = dict(state_dict) or None

    def _place(self, trainer: Any) -> Path:
        return Path(trainer.default_root_dir) / self.name if self._out is None else Path(self._out)

    def _open(self, trainer: Any, module: Any) -> None:
        """Make the monitor, or show it the module of another ``fit``."""
        self._trainer = trainer
        model = self._find(module)
        if self.monitor is not None:
            self.monitor.attach(model)
            return
        self.monitor = DriftMonitor(
            model,
            self._images,
            out=self._place(trainer),
            name=self.name,
            logger=self._log,
            optimizer="later",
            **self._options,
        )
        self._anew = self.monitor.state_dict()

    def _offer(self, trainer: Any, *, measured: bool = False) -> None:
        """Put the numbers of this step where callbacks look for what they follow, the same in every process.

        Args:
            measured: have them measured, if they are not.
        """
        assert self.monitor is not None
        if measured and self.monitor.measured != self.monitor.steps:
            self.monitor.measure()
        rows = [row for row in self.monitor.rows[-1:] if row["step"] == self.monitor.steps]
        numbers = log.numbers(rows[0]) if rows else {}
        if measured and not rows:  # which is said elsewhere, so never the best
            numbers = dict.fromkeys(_followed(trainer), math.nan)
        if trainer.world_size > 1:
            numbers = trainer.strategy.broadcast(numbers)
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in numbers.items()})

    def _log(self, numbers: dict[str, float], step: int) -> None:
        for logger in self._trainer.loggers:  # at once, as a step's own log may be left out by the trainer
            logger.log_metrics(numbers, step=step)


def _followed(trainer: Any) -> set[str]:
    """Keys of a monitor's that checkpoints or early stopping follow."""
    return {one.monitor for one in trainer.callbacks if is_key(getattr(one, "monitor", None))}


def _makes_its_model_later(module: Any) -> bool:
    """Whether it has a ``configure_model`` of its own, of either library's modules."""
    home: str = type(module).configure_model.__module__
    return home.partition(".")[0] not in ("lightning", "pytorch_lightning")
