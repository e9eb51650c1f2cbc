"""``clipdrift card``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

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


def card(
    models: Annotated[
        list[str],
        typer.Argument(
            help="BASE and TUNED as in `clipdrift compare`, or a finished run alone, which names its own "
            "backbone, images and transfer sets.",
            metavar="BASE TUNED | RUN",
        ),
    ],
    into: Annotated[
        Path, typer.Option("--into", help="The card; made where there is none.", metavar="FILE")
    ] = Path("README.md"),
    images: Annotated[
        str | None,
        typer.Option("--images", help="Images to read both on: a folder or a data set.", metavar="SOURCE"),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer", help="Zero-shot set: a name, a folder, or `name=folder`. Repeatable.", metavar="SET"
        ),
    ] = None,
    transfer_per_class: TransferPerClass = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="BASE's id on the hub, where its name does not say.", metavar="ID"),
    ] = None,
    limit: Annotated[int, typer.Option(min=4, help="Read at most so many images.")] = 500,
    any_base: AnyBase = False,
    interpolate_positions: InterpolatePositions = None,
    batch_size: Batch = None,
    seed: ImageSeed = 0,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """A section of a model card: what was kept and moved, with metadata as the hub reads it.

    Written between two comments, with a figure beside the card; said again, it is replaced. Everything else
    in the card stays as it is, its metadata too.

        clipdrift card openai/clip-vit-base-patch32 my-tuned-clip --images photos/ --transfer cifar100 \\
            --into my-tuned-clip/README.md

        clipdrift card runs/64cf3373d757e7c9 --into runs/64cf3373d757e7c9/model/README.md
    """
    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.comparison.architectures import checked_choice
    from clipdrift.comparison.compare import transfer_sets
    from clipdrift.decision import CheckError
    from clipdrift.decision.carding import card as work
    from clipdrift.reporting.card import PICTURE, write_card
    from clipdrift.runs.files import refuse_unwritable

    if len(models) > 2:
        raise CheckError(f"{len(models)} models: give BASE and TUNED, or a run alone")
    choice = checked_choice(interpolate_positions)
    refuse_unwritable(into)
    sets = transfer_sets(transfer or [], transfer_per_class)
    with RunDisplay() as display:
        facts = work(
            models[0],
            models[1] if len(models) > 1 else None,
            images,
            transfer=sets,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            any_base=any_base,
            interpolate=choice,
            cache=cache_folder(cache),
            device=device,
            skip_bad=skip_bad_images,
            reporter=display,
        )
        display.stage(f"writing {into}")
        write_card(facts, into, _command(), base_model)
    console.print(f"card      {into}\nfigure    {into.with_name(PICTURE)}", soft_wrap=True)


def _command() -> str:
    """The command as it was typed."""
    return shlex.join(
        ["clipdrift", *sys.argv[sys.argv.index("card") :]] if "card" in sys.argv else ["clipdrift card"]
    )
