"""Measure what a model card says: two models, or a run and its backbone on its own sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdrift.adapt.heads import ZeroShotHead, head_folder, load_head
from clipdrift.comparison import Comparison
from clipdrift.comparison.architectures import Interpolate
from clipdrift.comparison.compare import TransferLike, compare_in_detail, transfer_sets
from clipdrift.comparison.images import ImagesLike
from clipdrift.comparison.measuring import LIMIT
from clipdrift.comparison.models import ModelLike
from clipdrift.config import DataSet
from clipdrift.decision.estimates import estimates
from clipdrift.decision.result import CardFacts, CheckError, HeadFacts
from clipdrift.runs.layout import CONFIG, RECORD
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.store import RunFolder

_MEASURES = ("cka", "cka/worst", "embedding_drift", "weight_drift", "entropy_drift")
_BY_SET = ("zero_shot_accuracy", "retention", "zero_shot_agreement")


def card(
    base: ModelLike,
    tuned: ModelLike | None = None,
    images: ImagesLike | None = None,
    *,
    transfer: TransferLike | Sequence[TransferLike] = (),
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    preprocess: object = None,
    any_base: bool = False,
    interpolate: Interpolate | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> CardFacts:
    """Measure two models, or a run alone, for a section of a model card.

    Args:
        base: as in :func:`clipdrift.compare`; without ``tuned`` the folder of a finished run, whose backbone,
            target and transfer sets are taken.
        tuned, images, transfer, limit, seed, interpolate: as there.

    Raises:
        CheckError: a model alone that is no run, no images.
        PairError, ModelError, DataError, ConfigError, MeasureError: as in :func:`clipdrift.compare`.
    """
    sets, kind = transfer_sets(transfer), ""
    if tuned is None:
        config, kind = _run(base)
        base, tuned = config.model.path or config.model.name, base
        images = images if images is not None else config.data.target
        sets = sets or [spec for spec in config.data.transfer if not spec.retrieval]
    if images is None:
        raise CheckError("no images: name a folder or a data set with --images")
    found, samples = compare_in_detail(
        base,
        tuned,
        images,
        transfer=sets,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        flow=False,
        spectrum=False,
        shown=0,
        preprocess=preprocess,
        any_base=any_base,
        interpolate=interpolate,
        cache=cache,
        device=device,
        skip_bad=skip_bad,
        reporter=reporter,
    )
    names = [*_MEASURES, *(f"{measure}/{spec.name}" for spec in sets for measure in _BY_SET)]
    return CardFacts(
        comparison=found,
        estimates=estimates(found, samples, names, seed),
        sets={spec.name: _described(spec, found) for spec in sets},
        adapter=found.tuned.kind == "adapter" or kind == "adapter",
        head=_head(tuned),
    )


def _head(tuned: ModelLike) -> HeadFacts | None:
    """The classifier beside a model that was given by its folder."""
    place = head_folder(Path(tuned).expanduser()) if isinstance(tuned, str | Path) else None
    if place is None:
        return None
    head = load_head(place)
    if isinstance(head, ZeroShotHead):
        return HeadFacts(kind="zero_shot", classes=head.out_features, prompts=head.prompts)
    return HeadFacts(kind="linear", classes=head.out_features)


def _run(given: Any) -> tuple[Any, str]:
    folder = Path(str(given)).expanduser()
    if not ((folder / CONFIG).is_file() and (folder / RECORD).is_file()):
        raise CheckError(f"{given}: not a finished run; give BASE and TUNED, or the folder of a run")
    record = RunFolder(folder).record()
    return record.config, str(record.artefacts.get("kind", ""))


def _described(spec: DataSet, found: Comparison) -> DataSet:
    """The set as it was read: with the prompts that were used."""
    return spec.model_copy(update={"prompts": found.transfer[spec.name].prompts[:1]})
