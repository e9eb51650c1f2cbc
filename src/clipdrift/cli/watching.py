"""``clipdrift watch``: follow trainings that a DriftMonitor measures. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...",
            help="Folders that a DriftMonitor writes into (its out=), or folders with several of them, up to "
            "two levels below. None: drift, its default.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print how it stands now, and end.")] = False,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write DIR/index.html after each measurement too; while a training goes on, a browser loads "
            "it again by itself.",
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            help="Seconds to wait for a first measurement where there is none in any DIR; inf: for ever.",
            min=0,
        ),
    ] = 600.0,
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """Follow your own trainings live: drift, what is kept of zero-shot ability, what the rules said.

    For a training with `clipdrift.DriftMonitor` in its loop, in this or another process, also over a shared
    disk. One row per training: the last step that was measured and how long ago, CKA (1: as the backbone),
    embedding drift (0: as the backbone), change of the attention's entropy, zero-shot accuracy kept on each
    transfer set, CKA so far, and the last warning. A training that has been quiet for long is dim.

        clipdrift watch drift
        clipdrift watch runs/a runs/b --html
        clipdrift watch runs --once

    A folder without a log is waited for; where nothing shows up in any of them, for ten minutes (`--wait`).
    Into a file or a pipe goes a line for each measurement. Ctrl-C ends the watching, never the training.
    """
    from clipdrift.cli.show_watch import watch_trainings

    watch_trainings(places or [Path("drift")], once=once, html=html, every=every, patience=wait)
