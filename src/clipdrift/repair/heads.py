"""The head of a repair, which stays or moves along, and the class texts of a live model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipdrift.adapt.heads import Head, ZeroShotHead, head_folder, load_head, zero_shot_head
from clipdrift.adapt.objective import Contrastive
from clipdrift.comparison.abilities import texts_of
from clipdrift.comparison.images import ProbeSet
from clipdrift.comparison.models import ModelLike, OpenedModel
from clipdrift.config import Flyp, LpFt, NoTask
from clipdrift.model.clip import Clip
from clipdrift.repair import RepairError
from clipdrift.repair.endpoints import Endpoints
from clipdrift.runs.layout import HEAD, WEIGHTS
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder


def reading(endpoints: Endpoints, tuned: OpenedModel, base: OpenedModel) -> Clip:
    """A Clip that encodes texts by the live model's own text tower, or the backbone's where it has none.

    Raises:
        PairError: neither side has a tokenizer.
    """
    return texts_of(OpenedModel(tuned.name, tuned.kind, endpoints.model, endpoints.clip), base)


def follows_texts(record: Record, endpoints: Endpoints) -> Callable[[Any], None] | None:
    """Function that makes the head anew where the head is the class texts and the text tower moves; else
    None.

    Such is flyp's: kept as it is, it would belong to another text tower than the model's.
    """
    if record.config.method.name != "flyp" or not endpoints.moves_texts or endpoints.clip is None:
        return None
    prompt = record.target.prompts[0]
    texts = tuple(prompt.format(name) for name in record.target.classes)
    return Contrastive(endpoints.clip, texts, trains_texts=True).refresh


def moving_with(
    endpoints: Endpoints, head: Head | None, texts: Callable[[], Clip], record: Record | None
) -> tuple[Endpoints, str]:
    """The way between two models with their head on it, where the head begins at the backbone's class texts.

    ``head(alpha) = (1 - alpha) zero-shot head of the backbone + alpha tuned head`` (Wortsman et al. 2022).

    Args:
        head: the tuned one, on the live model's device; its tensors are those that will move.
        texts: makes a Clip that reads texts by the live model.
        record: of the run that the head is from, where it is known.

    Returns:
        Endpoints, and what a reader should know of the head.

    Raises:
        RepairError: a head that does not say which classes and prompts it began as.
        PairError: neither side has a tokenizer.
    """
    if head is None:
        return endpoints, ""
    if not isinstance(head, ZeroShotHead):
        return endpoints, "" if record is None else _stays(record)
    classes = head.classes or (() if record is None else record.target.classes)
    prompts = head.prompts or (() if record is None else record.target.prompts)
    if not classes or not prompts:
        raise RepairError(
            f"{HEAD} beside TUNED began as class texts and does not say which, so it cannot be moved: give "
            "the folder of its run, or take the file that clipdrift wrote"
        )
    endpoints.put(0)
    try:
        start = zero_shot_head(texts(), classes, prompts).to(head.zero_shot.weight.device)
    finally:
        endpoints.put(1)
    said = (
        f"The head moves along, from the backbone's class texts ({', '.join(prompts)}) at alpha 0 to the "
        "tuned one at alpha 1."
    )
    return endpoints.with_head(start.state_dict(), head.state_dict()), said


def _stays(record: Record) -> str:
    """What is to be said of a run's linear head that was drawn at random and fitted to the tuned model."""
    config = record.config
    if isinstance(config.method, Flyp | LpFt) or isinstance(config.objective, NoTask):
        return ""
    return (
        "The head is linear: it was drawn at random, was fitted to the tuned model and stays as it is, so "
        "towards alpha 0, the backbone, it no longer fits and accuracy falls with it; train with "
        "head = 'zero_shot' for one that moves along to the backbone's class texts."
    )


def head_beside(tuned: ModelLike, probe: ProbeSet) -> tuple[Head | None, Record | None, list[str]]:
    """The head that lies beside TUNED, where the images have its classes; with its run's record.

    Returns:
        Head, record and notes for a reader.
    """
    folder = _folder(tuned)
    if folder is None or probe.labels is None:
        return None, None, []
    head = load_head(folder)
    run = RunFolder(folder.parent)
    record = run.record() if folder.name == WEIGHTS and run.finished else None
    classes = {int(label): title for label, title in zip(probe.labels, probe.titles, strict=True)}
    wanted = head.out_features
    named = head.classes if isinstance(head, ZeroShotHead) else ()
    if named:
        fits = all(label < wanted and named[label] == name for label, name in classes.items())
    elif record is not None:
        fits = all(label < wanted and record.target.classes[label] == name for label, name in classes.items())
    else:
        fits = probe.facts.classes == wanted
    if not fits:
        return (
            None,
            None,
            [f"The head beside TUNED knows {wanted} classes, not the images': no accuracy."],
        )
    source = probe.facts.source
    doubt = "" if record or named else f", taken to have the classes of {source} in their order"
    said = (
        f"Accuracy is of the head beside TUNED{doubt}, on images of {source}; those it was trained on say "
        "nothing about others."
    )
    return head, record, [said]


def _folder(tuned: ModelLike) -> Path | None:
    """Folder of the head: TUNED's, or a run's folder of weights."""
    if not isinstance(tuned, str | Path):
        return None
    return head_folder(Path(tuned).expanduser())
