"""Measure a run's mixes with its backbone: accuracy and what is kept, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from clipdrift.repair.opening import open_context
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.store import Store
from clipdrift.study.engines.jobs import StudyJob, StudyOptions
from clipdrift.sweeping.mixes import STEPS, Look, next_step, read_mixes, sets_of, whole, write_mixes
from clipdrift.sweeping.result import Asked

HEAD = "head"
"""What a run saves that trained the head alone: nothing lies between it and its backbone."""


def mixer_of(asked: Asked) -> Mixer | None:
    """What is to be done with each run of a sweep; None where no mixes are wanted."""
    return Mixer(asked.keep, asked.keep_on, asked.prune is not None) if asked.mix else None


@dataclass(frozen=True)
class Mixer:
    """What an engine does with each finished run: look at mixes until the largest that keeps enough is found.

    Attributes:
        keep: percent. transfer: the only set that counts; None: the worst of all.
        pruning: whether a run that its rule stopped is given up.
    """

    keep: float
    transfer: str | None = None
    pruning: bool = False

    def __call__(self, job: StudyJob, how: StudyOptions, reporter: Reporter) -> None:
        """Raises what opening the run does; its weights were kept."""
        folder = Store(how.out).folder(job.key)
        record = folder.record()
        sets = sets_of(record, self.transfer)
        own = whole(record, sets) if sets else None
        given_up = self.pruning and record.stopped is not None
        if own is None or given_up or record.artefacts.get("kind") == HEAD:
            return
        looks = {look.step: look for look in (*read_mixes(folder.path), own)}
        context, features = None, {}
        while True:
            step = next_step({n: look.worst(sets) for n, look in looks.items()}, self.keep)
            if step is None:
                return
            if context is None:
                options = {"cache": how.cache, "device": how.device, "reporter": reporter}
                context = open_context(folder.path, None, options)  # type: ignore[arg-type]
                context.measurer.endpoints.put(0)
                features = {name: context.measurer.features(name) for name in sets}
            measurer = context.measurer
            reporter.stage(f"mix with the backbone, alpha {step / STEPS:g}")
            measurer.endpoints.put(step / STEPS)
            kept = {}
            for name in sets:
                texts = measurer.features(name) if measurer.endpoints.moves_texts else features[name]
                kept[name] = 100 * measurer.zero_shot(name, texts) / record.backbone.zero_shot[name]
            accuracy = measurer.accuracy(measurer.labelled)
            assert accuracy is not None  # a run has a head, or captions
            looks[step] = Look(step=step, accuracy=accuracy, kept=kept)
            write_mixes(folder.path, [look for n, look in looks.items() if n != own.step])
