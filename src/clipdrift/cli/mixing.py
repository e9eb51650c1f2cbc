"""``clipdrift mix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdrift.cli.options import Batch, Cache, Device, SkipBad
from clipdrift.cli.repair_options import FlowOption, Force, PerClass
from clipdrift.runs.layout import cache_folder


def mix(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of finished runs on one backbone (`runs/<key>`), two or more.", metavar="RUN..."
        ),
    ],
    take: Annotated[
        str | None,
        typer.Option(
            "--take",
            help="Save this mix: uniform, greedy or stock; none: the most accurate on validation images.",
            metavar="MIX",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            "--keep",
            help="Choose among mixes that keep so many percent of zero-shot accuracy, on the worst transfer "
            "set; the greedy soup takes in only runs with which it does.",
            metavar="PERCENT",
        ),
    ] = None,
    keep_on: Annotated[
        str | None,
        typer.Option("--keep-on", help="With --keep: the transfer set that counts.", metavar="SET"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Gets JSON, CSV, a figure and the chosen mix, `DIR/model`.", metavar="DIR"
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            help="Test zero-shot ability on this set in place of the first run's; repeatable.",
            metavar="SET",
        ),
    ] = None,
    transfer_per_class: PerClass = None,
    flow: FlowOption = False,
    force: Force = False,
    batch_size: Batch = None,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """Mix runs of one backbone: uniform soup, greedy soup, Model Stock; measure each, save the best.

    The uniform soup is the mean of all weights. The greedy soup starts with the run of the highest validation
    accuracy and takes in the next as long as accuracy does not fall (Wortsman et al. 2022). Model Stock goes
    from the backbone towards the mean, in each tensor as far as the angle between the runs says (Jang et al.
    2024). Accuracy, drift and retention of each stand beside those of every run and of the backbone, and the
    cosines between the runs' task vectors below. Adapters are merged first; heads are averaged.

        clipdrift mix runs/64cf3373d757e7c9 runs/9f0c51d3a7de2b48

        clipdrift mix runs/* --keep 90 --out mixed

        clipdrift mix runs/64cf3373d757e7c9 runs/9f0c51d3a7de2b48 --take stock --out mixed

    Runs must share backbone, classes and validation images; seeds, rates and methods may differ. Test images
    are read once, of what is saved. `mixed/model` loads in plain transformers and in `clipdrift compare`.
    With `--out`, the same command goes on after an interruption. If no mix keeps what was asked for, nothing
    is saved and the exit status is 1.
    """
    from clipdrift.mixing import parse_mix_rule

    parse_mix_rule(take, keep, keep_on)  # mistakes are said before torch is loaded

    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_mixed import mixed_report
    from clipdrift.mixing.mix import mix as work

    with RunDisplay() as display:
        found = work(
            *runs,
            take=take,
            keep=keep,
            keep_on=keep_on,
            out=out,
            force=force,
            transfer=transfer,
            transfer_per_class=transfer_per_class,
            flow=flow,
            batch_size=batch_size,
            cache=cache_folder(cache),
            device=device,
            skip_bad=skip_bad_images,
            reporter=display,
        )
    console.print(mixed_report(found))
    if out is not None:
        console.print(f"tables    {out}/mixed.csv, mixed.json\nfigure    {out}/mixed.png", soft_wrap=True)
    if found.saved is not None:
        console.print(f"model     {found.saved}", soft_wrap=True)
    if found.failed:
        raise typer.Exit(1)
