"""The head that stays, and the class texts of a live model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from clipdrift.adapt.objective import Contrastive
from clipdrift.adapt.saved import load_head
from clipdrift.comparison.abilities import texts_of
from clipdrift.comparison.images import ProbeSet
from clipdrift.comparison.models import ModelLike, OpenedModel
from clipdrift.model.clip import Clip
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


def follows_texts(record: Record, endpoints: Endpoints) -> Callable[[nn.Linear], None] | None:
    """Function that makes the head anew where the head is the class texts and the text tower moves; else
    None.

    Such is flyp's: kept as it is, it would belong to another text tower than the model's.
    """
    if record.config.method.name != "flyp" or not endpoints.moves_texts or endpoints.clip is None:
        return None
    prompt = record.target.prompts[0]
    texts = tuple(prompt.format(name) for name in record.target.classes)
    return Contrastive(endpoints.clip, texts, trains_texts=True).refresh


def head_beside(tuned: ModelLike, probe: ProbeSet) -> tuple[nn.Linear | None, Record | None, list[str]]:
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
    if record is not None:
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
    doubt = "" if record else f", taken to have the classes of {source} in their order"
    said = (
        f"Accuracy is of the head beside TUNED{doubt}, on images of {source}; those it was trained on say "
        "nothing about others."
    )
    return head, record, [said]


def _folder(tuned: ModelLike) -> Path | None:
    """Folder of the head: TUNED's, or a run's folder of weights."""
    if not isinstance(tuned, str | Path):
        return None
    place = Path(tuned).expanduser()
    return next((f for f in (place, place / WEIGHTS) if (f / HEAD).is_file()), None)
