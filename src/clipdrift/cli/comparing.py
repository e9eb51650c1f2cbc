"""``clipdrift compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdrift.cli.options import AnyBase, Batch, Cache, Device, ImageSeed, SkipBad, TransferPerClass
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
            help="The model after: as BASE, or a peft adapter (folder or hub id), which is put on BASE.",
            metavar="TUNED",
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            "--images",
            help="Images to read both on: a folder of any layout, or a data set of `clipdrift ls datasets`. "
            "No labels are needed.",
            metavar="SOURCE",
        ),
    ],
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            help="Test what is left of zero-shot ability on this set: a name, a folder, or `name=folder`. "
            "Repeatable.",
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

    Architectures that differ, an adapter made on another model and an adapter that changes nothing are
    refused.
    """
    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_comparison import comparison_report
    from clipdrift.comparison.compare import compare as work
    from clipdrift.comparison.compare import transfer_sets
    from clipdrift.reporting.comparison import report

    sets = transfer_sets(transfer or [], transfer_per_class)
    with RunDisplay() as display:
        found = work(
            base,
            tuned,
            images,
            transfer=sets,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            flow=not no_flow,
            spectrum=not no_spectra,
            beside=beside or (),
            shown=show,
            any_base=any_base,
            cache=cache_folder(cache),
            device=device,
            skip_bad=skip_bad_images,
            reporter=display,
        )
        page = None
        if out is not None:
            display.stage(f"writing {out}")
            page = report(found, out)
    console.print(comparison_report(found))
    if page is not None:
        console.print(f"page      {page}\ntables    {out}/comparison.csv, comparison.json", soft_wrap=True)
