"""``clipdrift study``: plan, run, look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdrift.cli.options import (
    Address,
    AutoBatch,
    Cache,
    Checkpoints,
    CpusPerRun,
    Deterministic,
    Device,
    Engine,
    GpusPerRun,
    RetryFailed,
    Sets,
    Track,
)

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Studies: many runs and the questions asked of them. Plan, run, resume by saying it again, look.",
)

Name = Annotated[str, typer.Argument(help="A built-in study (`clipdrift ls studies`) or a TOML file.")]
RunLimit = Annotated[
    int | None, typer.Option("--limit", help="The first N runs; they cover every cell before a second seed.")
]
Folder = Annotated[Path, typer.Argument(help="The study's folder.")]


@study.command()
def plan(
    name: Name,
    sets: Sets = None,
    limit: RunLimit = None,
    out: Annotated[Path | None, typer.Option("--out", help="Say what is done there already.")] = None,
    device: Device = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="The list alone: nothing is loaded, opened or timed.")
    ] = False,
) -> None:
    """Print a study's runs before anything starts: keys, trained parameters, images, time, disk.

    Times are estimated from a few steps of each kind of run on this machine.

        clipdrift study plan quickstart
        clipdrift study plan matched --set model=clipdrift/mini --set data.target=terrain-10 --limit 8
        clipdrift study plan strict --set 'axes.optim.learning_rate=[1e-5, 1e-4]' --set 'seeds=[7]'
    """
    from clipdrift.study.plan import load_study

    found = load_study(name, sets or []).limited(limit)
    from clipdrift.cli.show_study import plan_table
    from clipdrift.study.engines.jobs import jobs_of

    jobs = jobs_of(found)
    estimate = None
    if not quick:
        from clipdrift.cli.show import RunDisplay
        from clipdrift.study.engines.estimate import estimate as timed

        with RunDisplay() as display:
            estimate = timed(jobs, device, display)
    plan_table(found, jobs, estimate, out)


@study.command()
def run(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="The study's folder; each run gets a folder in it.")],
    sets: Sets = None,
    limit: RunLimit = None,
    cache: Cache = None,
    device: Device = "auto",
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the adapted weights of every run.")
    ] = False,
    keep_checkpoint: Annotated[
        bool, typer.Option("--keep-checkpoint", help="Keep the training state of finished runs.")
    ] = False,
    retry_failed: RetryFailed = False,
    auto_batch: AutoBatch = False,
    checkpoint_every: Checkpoints = 60.0,
    track: Track = None,
    deterministic: Deterministic = False,
    engine: Engine = "here",
    address: Address = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
) -> None:
    """Do every run of a study. Interrupt it at any time: the same command goes on from there.

    What is done is skipped, what was broken off goes on from its last checkpoint. A run that fails or
    diverges is noted and stops no other; the exit status is 1 if any did. Several processes, or machines
    that share the folder, may say the same command: they divide the runs among them.

        clipdrift study run quickstart --out runs/quickstart
        clipdrift study run mystudy.toml --out runs/mystudy --set optim.epochs=2 --limit 4
        clipdrift study run matched --out /shared/matched --engine ray --gpus-per-run 0.25
    """
    from clipdrift.study.plan import load_study

    found = load_study(name, sets or []).limited(limit)
    from clipdrift.training.trackers import known

    told = known(track or ())

    from clipdrift.cli.show import console
    from clipdrift.cli.show_study import StudyDisplay, ending_text, study_table
    from clipdrift.runs.layout import cache_folder
    from clipdrift.study.engines import pick_engine
    from clipdrift.study.engines.jobs import StudyOptions, counted, jobs_of, manifest_of
    from clipdrift.study.folder import write_study_manifest

    work = pick_engine(engine, address, gpus_per_run, cpus_per_run)
    jobs = jobs_of(found)
    write_study_manifest(out, manifest_of(found, jobs, _said(name, sets, limit)))
    how = StudyOptions(
        out=out,
        cache=cache_folder(cache),
        device=device,
        keep_weights=keep_weights,
        keep_checkpoint=keep_checkpoint,
        auto_batch=auto_batch,
        retry_failed=retry_failed,
        checkpoint_every=checkpoint_every,
        track=told,
        deterministic=deterministic,
    )
    with StudyDisplay(found.name) as display:
        outcomes = work(jobs, how, display)
    study_table(out)
    console.print(ending_text(jobs, outcomes, out), soft_wrap=True)
    ends = counted(outcomes)
    if ends.get("failed") or ends.get("diverged"):
        raise typer.Exit(1)


def _said(name: str, sets: list[str] | None, limit: int | None) -> str:
    import shlex

    words = ["clipdrift", "study", "run", name]
    for text in sets or []:
        words += ["--set", text]
    return shlex.join([*words, *(["--limit", str(limit)] if limit is not None else [])])


@study.command()
def status(
    out: Folder,
    every: Annotated[bool, typer.Option("--all", help="One line for each run that is done, too.")] = False,
) -> None:
    """How far a study is: planned, running, done, failed, diverged, and the last sign of life of each."""
    from clipdrift.cli.light_study import status_table

    status_table(out, every)


@study.command()
def show(
    key: Annotated[str, typer.Argument(help="A run's key, or the first digits of it.")],
    out: Annotated[Path, typer.Option("--out", help="The study's folder.")] = Path("runs"),
    config: Annotated[bool, typer.Option("--config", help="The whole configuration too.")] = False,
) -> None:
    """One run: what it is, how it stands, what it found, why it failed."""
    from clipdrift.cli.light_study import show_run

    show_run(out, key, config)


@study.command()
def table(
    out: Folder,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the tidy table of runs there.")] = None,
) -> None:
    """The results so far: one line per cell, mean and spread over its seeds; a tidy CSV on request."""
    from clipdrift.cli.light_study import results

    results(out, csv)
