"""``clipdrift forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdrift.cli.options import Batch, Cache, Device, SkipBad
from clipdrift.runs.layout import cache_folder


def forecast(
    base: Annotated[
        str,
        typer.Argument(
            help="The model that is to be fine-tuned: hub id, folder, `clipdrift/mini`, or "
            "`clipdrift/mini-photo`.",
            metavar="BASE",
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            "--images",
            help="The target: a folder, or a data set of `clipdrift ls datasets`. Where there is a training "
            "split, with --labels only that is read.",
            metavar="SOURCE",
        ),
    ],
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Use its labels: class folders, CLASS/*.jpg or train/CLASS/*.jpg, or those of the named "
            "set. Without, only what needs no labels is computed.",
        ),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Class names for images without labels, for the entropy: `cat,dog`, or a text file with one "
            "on each line.",
            metavar="NAMES",
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            help="Set whose zero-shot ability is to be kept: a name, a folder, or `name=folder`. Repeatable.",
            metavar="SET",
        ),
    ] = None,
    rates: Annotated[
        str, typer.Option("--rates", help="Candidate learning rates, with commas.", metavar="RATES")
    ] = "1e-6,3e-6,1e-5,3e-5,1e-4,3e-4,1e-3",
    method: Annotated[
        str, typer.Option("--method", help="How it will be trained: a name of `clipdrift ls methods`.")
    ] = "full_ft",
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of adapters, for lora and its kin.")] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1, help="Read the drift after so many steps. 1 and 8 were tested; 8 tells a little more."
        ),
    ] = 1,
    draws: Annotated[
        int, typer.Option(min=1, help="Batches, each with a head of its own, of which drifts are means.")
    ] = 3,
    train_batch: Annotated[int, typer.Option(min=1, help="Batch size of the training.")] = 64,
    weight_decay: Annotated[float, typer.Option(min=0, help="Weight decay of the training.")] = 0.01,
    limit: Annotated[
        int, typer.Option(min=4, help="Read at most so many images of the target and of each transfer set.")
    ] = 500,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write JSON, CSV, a text, a figure and the page index.html here.", metavar="DIR"
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Write the page alone: one file that needs no network.", metavar="FILE"),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")
    ] = False,
    batch_size: Batch = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses images, and the first of the draws.")] = 0,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """Before any training, in minutes: how much there is to gain, how far it is, which rates to try.

        clipdrift forecast openai/clip-vit-base-patch32 --images photos/ --labels --transfer cifar100

        clipdrift forecast clipdrift/mini-photo --images photos/ --labels --method lora --page out.html

    Zero-shot and linear-probe accuracy say what there is to gain. Optimiser steps are taken at every rate,
    on half of the images and by the training's own loop, and the drift of the embeddings is read on the other
    half; rates are suggested by that drift. Entropy, CKA with the transfer set and gradient norms are shown.

    Each number stands beside what became of it in the committed studies. Those that do not predict give no
    advice. Nothing of BASE is changed; no training is started.
    """
    from clipdrift.forecasting.result import ForecastError

    found_rates = _numbers(rates, ForecastError)
    names = _classes(classes, ForecastError)
    options: dict[str, object] = {"name": method} | ({} if rank is None else {"rank": rank})

    from rich.console import Console

    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_forecast import forecast_report
    from clipdrift.forecasting.forecast import forecast as work
    from clipdrift.reporting.forecast import report, write_page
    from clipdrift.runs.files import refuse_unwritable

    if page is not None:
        refuse_unwritable(page)
    with RunDisplay(Console(stderr=True) if json_ else None) as display:
        found = work(
            base,
            images,
            labels=labels,
            classes=names,
            transfer=transfer or (),
            rates=found_rates,
            method=options,
            steps=steps,
            draws=draws,
            train_batch=train_batch,
            weight_decay=weight_decay,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            cache=cache_folder(cache),
            device=device,
            skip_bad=skip_bad_images,
            reporter=display,
        )
        if out is not None:
            display.stage(f"writing {out}")
            report(found, out)
        if page is not None:
            write_page(found, page)
    if json_:
        typer.echo(found.to_json(), nl=False)
        return
    console.print(forecast_report(found), soft_wrap=True)
    if out is not None:
        console.print(f"page      {out}/index.html", soft_wrap=True)
        console.print(f"written   {out}/forecast.json, .csv, .txt, .png", soft_wrap=True)
    if page is not None:
        console.print(f"page      {page}", soft_wrap=True)


def _numbers(text: str, error: type[Exception]) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise error(f"--rates {text}: write numbers with commas, as in 1e-5,1e-4") from None


def _classes(given: str | None, error: type[Exception]) -> list[str]:
    """Names as they were written down, or the lines of a file."""
    if given is None:
        return []
    file = Path(given).expanduser()
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else given.replace(",", "\n")
    except (OSError, UnicodeDecodeError) as why:
        raise error(f"--classes {given}: cannot be read ({why})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
