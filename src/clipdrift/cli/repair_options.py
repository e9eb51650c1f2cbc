"""Arguments and options shared by ``interpolate``, ``rewind`` and ``soften``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdrift.runs.layout import cache_folder

ModelOption = Annotated[
    str,
    typer.Argument(
        help="A run's folder (`runs/<key>`), or BASE: what `clipdrift compare` takes.", metavar="RUN|BASE"
    ),
]
Tuned = Annotated[
    str | None,
    typer.Argument(
        help="With BASE, the model after: as BASE, or a peft adapter, which is put on BASE.",
        metavar="TUNED",
        show_default=False,
    ),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        help="Of a pair: images to read it on, a folder or a data set. A run has its own.",
        metavar="SOURCE",
    ),
]
TransferOption = Annotated[
    list[str] | None,
    typer.Option(
        "--transfer",
        help="Test zero-shot ability on this set: a name, a folder, or `name=folder`; repeatable. Of a "
        "run, in place of its own sets.",
        metavar="SET",
    ),
]
PerClass = Annotated[
    int | None,
    typer.Option("--transfer-per-class", min=1, help="Use so many images of each class of a transfer set."),
]
LimitOption = Annotated[
    int | None, typer.Option(min=4, help="Of a pair: read at most so many images; default 500.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of a pair: chooses images where there are more; default 0.")
]
FlowOption = Annotated[
    bool, typer.Option("--flow", help="Rollout and patch entropy too, which need whole attention maps.")
]
Result = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Gets JSON, CSV, a figure and the repaired model, `DIR/model`.", metavar="DIR"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is in --out already.")]


def shared_options(
    images: str | None,
    transfer: list[str] | None,
    transfer_per_class: int | None,
    limit: int | None,
    seed: int | None,
    flow: bool,
    any_base: bool,
    batch_size: int | None,
    cache: Path | None,
    device: str,
    skip_bad_images: bool,
) -> dict[str, Any]:
    """Collect the options of all three commands under the names that the functions take."""
    return {
        "images": images,
        "transfer": transfer,
        "transfer_per_class": transfer_per_class,
        "limit": limit,
        "seed": seed,
        "flow": flow,
        "any_base": any_base,
        "batch_size": batch_size,
        "cache": cache_folder(cache),
        "device": device,
        "skip_bad": skip_bad_images,
    }


def run_repair(work: Callable[..., Any], shared: dict[str, Any], *models: str | None, **asked: Any) -> None:
    """Run it under a bar, print what it found, end with 1 where nothing keeps what was to be kept."""
    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.cli.show_repaired import repaired_report

    with RunDisplay() as display:
        found = work(*models, **asked, **shared, reporter=display)
    console.print(repaired_report(found))
    out = asked["out"]
    if out is not None:
        console.print(
            f"tables    {out}/repaired.csv, repaired.json\nfigure    {out}/path.png", soft_wrap=True
        )
    if found.saved is not None:
        console.print(f"model     {found.saved}  ({found.form})", soft_wrap=True)
    if found.failed:
        raise typer.Exit(1)
