"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder of runs; each run gets a folder of its own in it.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", envvar="CLIPDRIFT_CACHE", help="Decoded images; default ~/.cache/clipdrift."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="Use operations that give the same bits every time, on a GPU too."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="Tell `tensorboard`, `wandb` or `mlflow` as it goes; needs the extra of that name. Repeatable.",
        metavar="TRACKER",
    ),
]
Checkpoints = Annotated[
    float, typer.Option("--checkpoint-every", help="Seconds between two checkpoints, at least.", min=0)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one key, as in `--set optim.learning_rate=1e-5`. Repeatable.",
        metavar="KEY=VALUE",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave out unreadable images; the result lists them.")
]
AnyBase = Annotated[
    bool, typer.Option("--any-base", help="Accept an adapter or run made from another model than BASE.")
]
InterpolatePositions = Annotated[
    str | None,
    typer.Option(
        "--interpolate-positions",
        help="Where the two take images of different sizes: interpolate the positions of `tuned` or `base` "
        "bicubically, to the other's size.",
        metavar="SIDE",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Images per pass; default by their tokens. No number depends on it."
    ),
]
ImageSeed = Annotated[
    int, typer.Option("--seed", min=0, help="Chooses images where there are more than --limit.")
]
TransferPerClass = Annotated[
    int | None, typer.Option(min=1, help="Use so many images of each class of a transfer set.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")]
AutoBatch = Annotated[
    bool,
    typer.Option(
        "--auto-batch",
        help="Where memory does not suffice, train on smaller pieces of each batch; the result stays.",
    ),
]
Engine = Annotated[str, typer.Option("--engine", help="here: this process. ray: a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="With --engine ray: the cluster; none: one on this machine."),
]
GpusPerRun = Annotated[
    float | None, typer.Option("--gpus-per-run", help="With --engine ray: share of a GPU, as in 0.25.")
]
CpusPerRun = Annotated[
    float | None, typer.Option("--cpus-per-run", help="With --engine ray: processors for each run.")
]
