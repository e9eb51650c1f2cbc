"""Open a run for repair: its backbone, its adapted model, its own images and head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipdrift.adapt.heads import load_head
from clipdrift.comparison import ProbeImages
from clipdrift.comparison.measuring import settle
from clipdrift.comparison.models import ModelLike
from clipdrift.comparison.pairs import open_pair
from clipdrift.config import ContrastiveObjective
from clipdrift.data.deck import Deck
from clipdrift.measures import embed, embed_texts, retrieval
from clipdrift.model.clip import Clip
from clipdrift.repair import RepairError
from clipdrift.repair.context import AdapterUse, RepairContext, ends_of, side_of
from clipdrift.repair.heads import follows_texts, moving_with, reading
from clipdrift.repair.options import OF_PAIRS, Options, asked_sets, cache_of, reporter_of
from clipdrift.repair.step_measurer import StepMeasurer, ZeroShot
from clipdrift.runs.layout import HEAD, METRICS, RECORD, WEIGHTS
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder
from clipdrift.training.preparation import RunInputs, pick_device, prepare, resolve


def open_run(given: ModelLike, adapters: AdapterUse, options: Options) -> RepairContext:
    """Open a run with its own validation, probe, test and transfer images.

    Raises:
        RepairError: no run, one that left nothing to repair, or whose files have changed since.
        ConfigError, DataError, ModelError, PairError: what cannot be opened.
    """
    folder = run_folder(given)
    for name in OF_PAIRS:
        if options.get(name) not in (None, False):
            raise RepairError(
                f"{folder}: --{name.replace('_', '-')} is for a pair of models; a run is read on its own "
                "images, so leave it out"
            )
    record = finished_record(folder)
    config, reporter = resolve(record.config), reporter_of(options)
    if config.key != record.config.key:
        part = "backbone" if config.model.fingerprint != record.config.model.fingerprint else "images"
        raise RepairError(
            f"{folder}: the files of its {part} are no longer those that the run was made from; with others "
            "its numbers mean nothing"
        )
    changes: dict[str, object] = {"transfer": tuple(asked_sets(options, config.data.transfer))}
    if options.get("skip_bad"):
        changes["skip_bad_images"] = True
    data = config.data.model_copy(update=changes)
    place = pick_device(options.get("device", "auto"))
    inputs = prepare(config.model_copy(update={"data": data}), cache_of(options), place, reporter)
    reporter.stage(f"loading {folder}")
    pair = open_pair(inputs.clip, folder, any_base=True)
    settle(pair.tuned, str(place))
    endpoints, notes = ends_of(pair, adapters)
    head = None if inputs.pairs is not None else load_head(folder / WEIGHTS).to(place)
    endpoints, said_of_head = moving_with(
        endpoints, head, lambda: reading(endpoints, pair.tuned, pair.base), record
    )
    target = config.data.target.name
    captioned = [name for name, found in inputs.transfer.items() if found.captions is not None]
    notes = [*notes, *(f"{name} has captions and no classes; it is not tested here." for name in captioned)]
    batch_size = options.get("batch_size") or config.evaluation.batch_size
    said = "" if inputs.pairs is None else ", mean recall at 1 both ways"
    measurer = StepMeasurer(
        endpoints=endpoints,
        probe=inputs.probe,
        texts=reading(endpoints, pair.tuned, pair.base) if inputs.transfer else None,
        sets={
            name: ZeroShot(found.deck, found.facts.classes, found.facts.prompts)
            for name, found in inputs.transfer.items()
            if found.captions is None
        },
        head=head,
        labelled=inputs.validation,
        test=inputs.test,
        reporter=reporter,
        refresh=follows_texts(record, endpoints),
        recall=_recall(inputs, reading(endpoints, pair.tuned, pair.base), batch_size),
        batch_size=batch_size,
        flow=options.get("flow", False),
    )
    probe = inputs.target.images["probe"]
    backbone = {"name": config.model.path or config.model.name, "kind": "backbone"}
    return RepairContext(
        measurer=measurer,
        base=pair.base,
        adapter=str(folder / WEIGHTS),
        sides=(
            side_of(pair.base, pair, **backbone, fingerprint=config.model.fingerprint),
            side_of(pair.tuned, pair),
        ),
        shape=pair.shape,
        images=ProbeImages(
            source=f"{target} (probe set)",
            count=len(inputs.probe),
            fingerprint=probe.fingerprint,
            classes=len(inputs.target.classes),
            bad=probe.bad,
        ),
        accuracy_of=f"{len(inputs.validation)} validation images of {target}{said}",
        test_of=f"{len(inputs.test)} test images of {target}{said}",
        notes=tuple(notes),
        of_head=said_of_head,
    )


def _recall(inputs: RunInputs, clip: Clip, batch_size: int | None) -> Callable[[Deck], float] | None:
    """Mean recall at 1, both ways, on validation or test images by a live model and its own texts; None for a
    run on classes."""
    pairs = inputs.pairs
    if pairs is None:
        return None

    def recall(deck: Deck) -> float:
        words = list(pairs.validation if deck is inputs.validation else pairs.test)
        texts = embed_texts(clip, [text for own in words for text in own])
        return retrieval(embed(clip.model, deck, batch_size).cpu(), texts, words).recall

    return recall


ADVICE = "give the folder of a run (runs/<key>), or two models, BASE and TUNED, and --images"


def run_folder(given: ModelLike, advice: str = ADVICE) -> Path:
    """The folder of a run.

    Args:
        advice: what to give instead.

    Raises:
        RepairError: it is none.
    """
    if not isinstance(given, str | Path):
        raise RepairError(f"one model in memory is no run; {advice}")
    folder = Path(given).expanduser()
    if folder.name == WEIGHTS and (folder.parent / RECORD).is_file():
        folder = folder.parent
    if not any((folder / name).is_file() for name in (RECORD, METRICS)):
        raise RepairError(f"{given}: no run; {advice}")
    return folder


def finished_record(folder: Path) -> Record:
    """Record of a run that left weights between which something lies. Raises RepairError for any other."""
    run = RunFolder(folder)
    if not run.finished:
        raise RepairError(f"{folder}: a run that has not finished; it has no weights yet")
    record = run.record()
    if record.status != "done":
        raise RepairError(f"{folder}: the run ended as {record.status}; there is nothing to repair")
    if record.artefacts.get("kind") == "head":
        raise RepairError(
            f"{folder}: {record.config.method.name} trains the head alone: both towers are the backbone's "
            "and all of the zero-shot ability is there; heads by themselves are not moved"
        )
    captioned = isinstance(record.config.objective, ContrastiveObjective)
    saved = ("config.json", "adapter_config.json") if captioned else (HEAD,)
    if not any((folder / WEIGHTS / name).is_file() for name in saved):
        raise RepairError(f"{folder}: the run saved no weights; run it again")
    return record
