"""Watch a training of the Hugging Face Trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import ProcessorMixin, TrainerCallback
from transformers.trainer_callback import ExportableState

from clipdrift.comparison.images import ImagesLike
from clipdrift.integrations.names import better_when, key_of, underscored
from clipdrift.monitoring.monitor import DriftMonitor

_LOGGER = logging.getLogger("clipdrift.monitor")


class DriftCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Measures the model that a Trainer trains, logs through it, and stops it where a rule says so.

        trainer = Trainer(...)
        trainer.add_callback(DriftCallback(trainer, images="photos/", transfer="cifar100", every=200))
        trainer.train()

    The backbone is the trainer's model when the callback is made, or the one in ``out`` of a training that
    goes on. Each evaluation has the numbers of its step, so that ``metric_for_best_model="drift_cka"``,
    ``"retention_cifar100"`` and early stopping work with them.

    Attributes:
        monitor: the :class:`clipdrift.DriftMonitor` that does it.
    """

    def __init__(
        self,
        trainer: Any,
        images: ImagesLike,
        *,
        out: str | Path | None = None,
        name: str = "drift",
        find: Callable[[Any], nn.Module] | None = None,
        processor: object = None,
        **options: Any,
    ) -> None:
        """Read the backbone, and say at once what cannot work.

        Args:
            trainer: in whose training to measure; the callback is still to be added to it.
            images: as :class:`clipdrift.DriftMonitor` takes them.
            out: folder of the monitor; none: ``name`` in the trainer's ``output_dir``.
            name: tells several callbacks of one training apart.
            find: gives the CLIP of the trainer's model, where that holds several.
            processor: as the monitor takes it; none: the trainer's ``processing_class``, if that is a
                processor of images and texts.
            options: further ones of the monitor: transfer, every, rules, monitor, patience ...

        Raises:
            ClipdriftError: in a line what is wrong.
        """
        self._trainer = trainer
        self._find = find or (lambda model: model)
        if processor is None and isinstance(trainer.processing_class, ProcessorMixin):
            processor = trainer.processing_class
        self.monitor = DriftMonitor(
            self._find(trainer.model),
            images,
            out=Path(trainer.args.output_dir) / name if out is None else out,
            name=name,
            processor=processor,
            logger=self._log,
            optimizer="later",
            **options,
        )
        self._anew = self.monitor.state_dict()
        _give_own_class(self, "DriftCallback" if name == "drift" else f"DriftCallback_{name}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        callbacks = self._trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)  # those that follow a metric of ours come after it is there
        self.monitor.attach(self._find(others["model"]), others["optimizer"], others["lr_scheduler"])
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if state.global_step:
            # also where the Trainer restores no callbacks; a checkpoint may be older than this callback
            found = kept["attributes"]["restored"]
            begun = found["steps"] == state.global_step
            self.monitor.load_state_dict(found if begun else self._anew | {"steps": state.global_step})
        else:
            self.monitor.load_state_dict(self._anew)
        _check_direction(args)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        self.monitor.step(state.global_step)
        return self._stopped(args, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        if not self._trainer.is_in_train:  # the weights may be other ones than those of the last step
            row = self.monitor.measure(note=False)
        else:
            if self.monitor.measured != state.global_step:
                self.monitor.measure()
            row = next((one for one in self.monitor.rows[-1:] if one["step"] == state.global_step), None)
        numbers = underscored(row or {})
        if not numbers and (asked := _followed(args)):
            numbers = {asked: math.nan}  # not measured, which is said elsewhere, so never the best
        (numbers,) = broadcast_object_list([numbers])
        prefix = next(
            (k.removesuffix("_runtime") for k in others["metrics"] if k.endswith("_runtime")), "eval"
        )
        prefix = "eval" if prefix.startswith("eval") else prefix  # of several data sets, too
        others["metrics"].update({f"{prefix}_{key}": value for key, value in numbers.items()})
        return self._stopped(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        if control.should_training_stop and self.monitor.measured != state.global_step:
            self.monitor.measure()  # the last state, whatever the cadence
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        self.monitor.close()
        return control

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into its checkpoints."""
        return {"args": {}, "attributes": {"restored": self.monitor.state_dict()}}

    def _stopped(self, args: Any, control: Any) -> Any:
        if self.monitor.should_stop:
            control.should_training_stop = True
            if args.save_strategy == "steps":  # as the Trainer does after its last step
                control.should_save = True
        return control

    def _log(self, numbers: dict[str, float], step: int) -> None:
        control = self._trainer.control
        wanted = control.should_log  # logging takes it back, and the loss of this step would never be said
        self._trainer.log(dict(numbers))
        control.should_log = wanted


def _give_own_class(callback: DriftCallback, name: str) -> None:
    """Give a callback a class of its own, which makes this very callback when it is called.

    A Trainer that restores callbacks from a checkpoint makes them anew, from plain data and by the name of
    their class. Images, models and a backbone are no plain data, and several callbacks need several names.
    """
    made = {
        "__new__": lambda kind, **_: callback,
        "__init__": lambda self, **_: None,
        "__doc__": callback.__doc__,
    }
    callback.__class__ = type(name, (type(callback),), made)


def _followed(args: Any) -> str | None:
    """The metric that the best checkpoint is chosen by, without its prefix, if it is of a monitor's."""
    name: str = (args.metric_for_best_model or "").removeprefix("eval_")
    return name if key_of(name) else None


def _check_direction(args: Any) -> None:
    """Warn where the Trainer's guess, that more is better, keeps the worst checkpoint."""
    key = key_of(_followed(args) or "")
    wanted = better_when(key) if key else None
    if wanted and args.greater_is_better is not None and args.greater_is_better != (wanted == "max"):
        _LOGGER.warning(
            "metric_for_best_model = %r is better when %s: say greater_is_better=%s, else the worst "
            "checkpoint is taken for the best",
            args.metric_for_best_model,
            "larger" if wanted == "max" else "smaller",
            wanted == "max",
        )
