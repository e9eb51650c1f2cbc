"""``clipdrift compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipdrift.cli.options import (
    AnyBase,
    Batch,
    Cache,
    Device,
    ImageSeed,
    InterpolatePositions,
    SkipBad,
    TransferPerClass,
)
from clipdrift.runs.layout import cache_folder


def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="The model before: hub id, folder, `clipdrift/mini`, a run's folder, or "
            "`open_clip:ARCH/TAG-or-file`.",
            metavar="BASE",
        ),
    ],
    tuned: Annotated[
        str,
        typer.Argument(
            help="The model after: as BASE, a peft adapter (folder or hub id), which is put on BASE, or half "
            "a model (image tower, text tower, image classifier), which is completed by BASE's other parts.",
            metavar="TUNED",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            help="Images to read both on: a folder of any layout, or a data set of `clipdrift ls datasets`. "
            "No labels are needed. Without, and with --index, that is all that is measured.",
            metavar="SOURCE",
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            help="Test what is left of zero-shot ability on this set: a name, a folder, or `name=folder`. "
            "Repeatable.",
            metavar="SET",
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            help="Images of a retrieval index built with BASE, as in --images: how much of it TUNED can "
            "still search, and what a linear map wins back.",
            metavar="SOURCE",
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries",
            help="Images to look for in the index, at most 1,000; none: a fifth of its images is held out.",
            metavar="SOURCE",
        ),
    ] = None,
    index_limit: Annotated[
        int, typer.Option(min=20, help="Read at most so many images of the index, those held out included.")
    ] = 2000,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Labelled set to test the head of TUNED on, where TUNED is an image classifier: a name, a "
            "folder, or `name=folder`. Classes are matched by name.",
            metavar="SET",
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            help="Lay another model made from BASE beside TUNED: the cosine between what both added to its "
            "weights, overall and by block. Repeatable.",
            metavar="MODEL",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write JSON, CSV, PNG figures and a page here; none: print only.", metavar="DIR"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=4, help="Read at most so many images.")] = 500,
    transfer_per_class: TransferPerClass = None,
    show: Annotated[int, typer.Option(min=0, help="Images whose attention is drawn.")] = 6,
    no_flow: Annotated[
        bool, typer.Option("--no-flow", help="Skip rollout and patch entropy, which need whole maps.")
    ] = False,
    no_spectra: Annotated[
        bool, typer.Option("--no-spectra", help="Skip effective rank and intruder dimensions.")
    ] = False,
    any_base: AnyBase = False,
    interpolate_positions: InterpolatePositions = None,
    batch_size: Batch = None,
    seed: ImageSeed = 0,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """What became of BASE in TUNED: attention, representation, weights, zero-shot ability.

    Both are read on the same images. The verdict comes first, then every measure by family and a strip per
    block; `--out` adds files and a page on which image, block and head can be chosen.

        clipdrift compare openai/clip-vit-base-patch32 my-tuned-clip --images photos/ --transfer cifar100

        clipdrift compare openai/clip-vit-base-patch32 my-lora/ --images photos/ --out compared

        clipdrift compare clipdrift/mini runs/64cf3373d757e7c9 --images terrain-10 --transfer objects-100

        clipdrift compare clipdrift/mini runs/64cf3373d757e7c9 --images terrain-10
        --beside runs/abcbc3db7d4b2558

        clipdrift compare openai/clip-vit-base-patch32 my-tuned-clip --index catalogue/

        clipdrift compare openai/clip-vit-base-patch32 my-classifier/ --images photos/ --target photos/

    Half a model (CLIPVisionModel, CLIPTextModel, CLIPForImageClassification and the like) is completed by
    BASE's other parts, and the verdict says by which.

    Architectures that differ, an adapter made on another model and an adapter that changes nothing are
    refused. With `--index` alone the two may be of any architectures: where their embeddings have different
    widths, a map fitted between them is all that can search.
    """
    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_comparison import comparison_report
    from clipdrift.comparison.architectures import checked_choice
    from clipdrift.comparison.compare import compare as work
    from clipdrift.comparison.compare import transfer_sets
    from clipdrift.comparison.models import PairError
    from clipdrift.reporting.comparison import report

    choice = checked_choice(interpolate_positions)
    sets = transfer_sets(transfer or [], transfer_per_class)
    if queries is not None and index is None:
        raise PairError("--queries without an index to put them to: name its images with --index")
    if index_limit != 2000 and index is None:
        raise PairError("--index-limit without an index: name its images with --index")
    common: dict[str, Any] = {
        "seed": seed,
        "batch_size": batch_size,
        "any_base": any_base,
        "cache": cache_folder(cache),
        "device": device,
        "skip_bad": skip_bad_images,
    }
    if images is None:
        if index is None:
            raise PairError("no images: name a folder or a data set with --images, or with --index")
        needing: dict[str, object] = {
            "transfer": sets,
            "target": target,
            "beside": beside,
            "interpolate-positions": choice,
        }
        needing |= {"limit": limit != 500, "show": show != 6, "no-flow": no_flow, "no-spectra": no_spectra}
        for option, given in needing.items():
            if given:
                raise PairError(f"--{option} needs --images too: --index alone measures only the index")
        _index_alone(base, tuned, index, queries, index_limit, out, common)
        return
    with RunDisplay() as display:
        found = work(
            base,
            tuned,
            images,
            transfer=sets,
            limit=limit,
            flow=not no_flow,
            spectrum=not no_spectra,
            beside=beside or (),
            shown=show,
            index=index,
            index_queries=queries,
            index_limit=index_limit,
            target=target,
            interpolate=choice,
            reporter=display,
            **common,
        )
        page = None
        if out is not None:
            display.stage(f"writing {out}")
            page = report(found, out)
    console.print(comparison_report(found))
    if page is not None:
        console.print(f"page      {page}\ntables    {out}/comparison.csv, comparison.json", soft_wrap=True)


def _index_alone(
    base: str,
    tuned: str,
    index: str,
    queries: str | None,
    limit: int,
    out: Path | None,
    common: dict[str, Any],
) -> None:
    """Measure an index without comparing the models otherwise."""
    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_index import index_report
    from clipdrift.comparison.indexing import index_memory

    with RunDisplay() as display:
        found = index_memory(base, tuned, index, queries=queries, limit=limit, reporter=display, **common)
    files = [] if out is None else found.save(out)
    console.print(index_report(found))
    if files:
        console.print(f"tables    {out}/index_memory.csv, index_memory.json", soft_wrap=True)
