"""``clipdrift sweep``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdrift.cli.options import (
    Address,
    AutoBatch,
    Cache,
    CpusPerRun,
    Deterministic,
    Device,
    Engine,
    GpusPerRun,
    RetryFailed,
    Sets,
    Track,
)


def sweep(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML file of what all runs have in common; none: the defaults.", metavar="RUN"),
    ] = None,
    keep: Annotated[
        float,
        typer.Option("--keep", metavar="PERCENT", help="Least zero-shot accuracy to keep, in percent."),
    ] = 90.0,
    budget: Annotated[
        float,
        typer.Option(
            "--budget",
            metavar="RUNS",
            help="Work of all runs together, in whole runs (of optim.epochs): one of a third of the epochs "
            "is a third, one that is stopped early what it did. Saving and testing the choice comes on top.",
        ),
    ] = 12.0,
    model: Annotated[
        str | None, typer.Option("--model", help="The backbone: a hub id, folder, name.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="What to fine-tune on: a name, a folder, or `name=folder`.")
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            metavar="SET",
            help="Keep zero-shot ability on this set: a name, a folder, or `name=folder`. Repeatable.",
        ),
    ] = None,
    keep_on: Annotated[
        str | None,
        typer.Option(
            "--keep-on", metavar="SET", help="The transfer set that counts; none: the worst of all."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method to try. Repeatable; default full_ft and lora."),
    ] = None,
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", min=1, help="A rank to try with methods that have one. Repeatable."),
    ] = None,
    rates: Annotated[
        str,
        typer.Option(
            "--rates",
            metavar="GRID",
            help="Learning rates: lowest:highest (1, 2 and 5 of each power of ten), or a list, `1e-5,1e-4`.",
        ),
    ] = "1e-6:1e-2",
    sets: Sets = None,
    out: Annotated[
        Path, typer.Option("--out", help="The sweep's folder, a study's; each run gets a folder in it.")
    ] = Path("runs/sweep"),
    no_mix: Annotated[
        bool, typer.Option("--no-mix", help="Look at no mixes of a run with its backbone (alpha).")
    ] = False,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Stop no run whose drift says that it will be lost.")
    ] = False,
    transfer_per_class: Annotated[
        int | None,
        typer.Option(
            "--transfer-per-class",
            min=1,
            help="So many images of each class of a transfer set choose; the others test the choice. Default "
            "20, or half of the class.",
        ),
    ] = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Where nothing keeps enough, save what comes nearest.")
    ] = False,
    eta: Annotated[
        int, typer.Option("--eta", min=2, help="One of so many goes on, for so many times the epochs.")
    ] = 3,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, help="Settings proposed at a time; on Ray, at least as many as run at a time."
        ),
    ] = 4,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the proposals; that of the runs: --set seed=...")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON, and nothing else.")] = False,
    cache: Cache = None,
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    auto_batch: AutoBatch = False,
    track: Track = None,
    deterministic: Deterministic = False,
    engine: Engine = "here",
    address: Address = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
) -> None:
    """Find by itself the most accurate fine-tuning that keeps enough zero-shot ability, and save it.

    Settings (method, rank, rate) are proposed by Optuna (`pip install 'clipdrift[sweep]'`) and trained for
    few epochs; the best third goes on for three times as many. A run that keeps too little is mixed with its
    backbone until it keeps enough. The most accurate on validation images is saved in OUT/chosen, with a
    model card, and tested on images that took no part in choosing.

        clipdrift sweep --keep 90 --model openai/clip-vit-base-patch32 --data eurosat --transfer cifar100
        --budget 12 --out runs/eurosat

        clipdrift sweep run.toml --method lora --rank 4 --rank 16 --rates 1e-4:1e-2 --set optim.epochs=9

        clipdrift sweep run.toml --out /shared/sweep --batch 8 --engine ray --gpus-per-run 0.25

    Interrupt it at any time: the same command goes on from there. OUT is a study's folder: `clipdrift
    report`, `advise` and `status` read it. Ends with 1 where nothing that was tried keeps enough; the nearest
    is named.
    """
    import json

    from clipdrift.comparison.compare import transfer_sets
    from clipdrift.config import put, read_toml
    from clipdrift.study.engines import pick_engine
    from clipdrift.sweeping.running import sweep as work

    content: dict[str, Any] = read_toml(config, sets or [])
    if model is not None:
        content["model"] = model
    if data is not None:
        content = put(
            content, "data.target", transfer_sets([data])[0].model_dump(exclude_none=True), "--data"
        )
    if transfer:
        specs = [spec.model_dump(exclude_none=True) for spec in transfer_sets(transfer)]
        content = put(content, "data.transfer", specs, "--transfer")
    where = pick_engine(engine, address, gpus_per_run, cpus_per_run)

    from clipdrift.cli.show import console
    from clipdrift.cli.show_sweep import SweepDisplay, trials_table

    with SweepDisplay(quiet=as_json) as display:
        found = work(
            content,
            out,
            keep=keep,
            budget=budget,
            methods=method or ("full_ft", "lora"),
            rates=rates,
            ranks=rank or (),
            keep_on=keep_on,
            mix=not no_mix,
            prune=not no_prune,
            choosing=transfer_per_class,
            nearest=nearest,
            eta=eta,
            batch=batch,
            seed=seed,
            cache=cache,
            device=device,
            retry_failed=retry_failed,
            auto_batch=auto_batch,
            track=track or (),
            deterministic=deterministic,
            engine=where,
            watcher=display,
            command=_command(),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        trials_table(found)
        first, *rest = found.summary().splitlines()
        console.print(first, style="bold", highlight=False, markup=False, soft_wrap=True)
        for line in rest:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print("\nadvice (by test accuracy, one seed each)", style="bold")
        for line in found.advice:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if found.final is not None:
            console.print(f"\nmodel     {found.final.model}\ncard      {found.final.card}", soft_wrap=True)
        console.print(f"study     {out}\nreport    clipdrift report {out}", soft_wrap=True)
    if not found.answered:
        raise typer.Exit(1)


def _command() -> str:
    """The command as it was typed."""
    said = sys.argv[sys.argv.index("sweep") :] if "sweep" in sys.argv else ["sweep"]
    return shlex.join(["clipdrift", *said])
