"""``clipdrift interpolate``, ``rewind`` and ``soften``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipdrift.cli.options import AnyBase, Batch, Cache, Device, SkipBad
from clipdrift.cli.repair_options import (
    FlowOption,
    Force,
    ImagesOption,
    LimitOption,
    ModelOption,
    PerClass,
    Result,
    Seed,
    TransferOption,
    Tuned,
    run_repair,
    shared_options,
)


def interpolate(
    model: ModelOption,
    tuned: Tuned = None,
    alphas: Annotated[
        str,
        typer.Option(
            "--alphas",
            help="First:last:step, or a list. 0 is the backbone, 1 the adapted model; up to 2, beyond it.",
            metavar="GRID",
        ),
    ] = "0:1:0.1",
    save_at: Annotated[
        float | None, typer.Option("--save-at", help="Save the model at this alpha.", metavar="ALPHA")
    ] = None,
    keep_cka: Annotated[
        float | None,
        typer.Option(
            "--keep-cka",
            help="Choose the largest alpha whose CKA (mean over blocks) is at least this.",
            metavar="CKA",
        ),
    ] = None,
    keep_retention: Annotated[
        str | None,
        typer.Option(
            "--keep-retention",
            help="Choose the largest alpha that keeps so many percent of zero-shot accuracy: mean over the "
            "transfer sets, or on one, as `cifar100=90`.",
            metavar="[SET=]PERCENT",
        ),
    ] = None,
    out: Result = None,
    images: ImagesOption = None,
    transfer: TransferOption = None,
    transfer_per_class: PerClass = None,
    limit: LimitOption = None,
    seed: Seed = None,
    flow: FlowOption = False,
    any_base: AnyBase = False,
    force: Force = False,
    batch_size: Batch = None,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """Walk between backbone and adapted model: accuracy, drift, retention at each alpha; save one.

    theta(alpha) = (1 - alpha) theta_0 + alpha theta_1; an adapter is scaled by alpha. A linear head stays, so
    near alpha 0 it no longer fits; one that began as the class texts (head = "zero_shot") moves along. CLIP
    has no batch norm, so no statistics have to be recalibrated. Test images are read once, at the alpha that
    is saved.

        clipdrift interpolate runs/64cf3373d757e7c9 --alphas 0:1:0.1

        clipdrift interpolate runs/64cf3373d757e7c9 --keep-retention 90 --out mixed

        clipdrift interpolate openai/clip-vit-base-patch32 my-tuned-clip --images photos/ --transfer cifar100
        --save-at 0.6 --out mixed

    What is saved in `mixed/model` loads in plain transformers or peft, and in `clipdrift compare`. If no
    alpha keeps what was asked for, nothing is saved and the exit status is 1.
    """
    from clipdrift.repair import parse_alpha_rule, parse_alphas

    rule = parse_alpha_rule(save_at, keep_cka, keep_retention)  # mistakes are said before torch is loaded
    parse_alphas(alphas, None if rule is None else rule.at)

    from clipdrift.repair.interpolating import interpolate as work

    run_repair(
        work,
        shared_options(
            images,
            transfer,
            transfer_per_class,
            limit,
            seed,
            flow,
            any_base,
            batch_size,
            cache,
            device,
            skip_bad_images,
        ),
        model,
        tuned,
        alphas=alphas,
        save_at=save_at,
        keep_cka=keep_cka,
        keep_retention=keep_retention,
        out=out,
        force=force,
    )


def rewind(
    model: ModelOption,
    tuned: Tuned = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            "--blocks",
            help="Blocks to put back, from 1: `9..12`, `9..` (to the last), `9`, `1,5..7`.",
            metavar="BLOCKS",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Instead, block k and all after it, for every k; nothing is saved."),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            help="Put this back too: stem (embeddings), final (layer norm), projection, text, head (where "
            "it began as the class texts). Repeatable.",
            metavar="PART",
        ),
    ] = None,
    out: Result = None,
    images: ImagesOption = None,
    transfer: TransferOption = None,
    transfer_per_class: PerClass = None,
    limit: LimitOption = None,
    seed: Seed = None,
    flow: FlowOption = False,
    any_base: AnyBase = False,
    force: Force = False,
    batch_size: Batch = None,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """Put blocks of the adapted model back to the backbone, and see what that costs and gives.

    What stands outside of the blocks, and the head, stays as adapted unless --also names it. CLIP has no
    batch norm, so nothing has to be recalibrated. Before and after stand side by side; test images are read
    once, of what is saved.

        clipdrift rewind runs/64cf3373d757e7c9 --blocks 5.. --out rewound

        clipdrift rewind runs/64cf3373d757e7c9 --sweep

        clipdrift rewind openai/clip-vit-base-patch32 my-tuned-clip --images photos/ --blocks 9..12
        --transfer cifar100
    """
    from clipdrift.repair.rewinding import rewind as work

    run_repair(
        work,
        shared_options(
            images,
            transfer,
            transfer_per_class,
            limit,
            seed,
            flow,
            any_base,
            batch_size,
            cache,
            device,
            skip_bad_images,
        ),
        model,
        tuned,
        blocks=blocks,
        sweep=sweep,
        also=also or (),
        out=out,
        force=force,
    )


def soften(
    model: ModelOption,
    tuned: Tuned = None,
    scale: Annotated[
        str,
        typer.Option(
            "--scale",
            help="What is left of each intruder's singular value: 0 takes it out; below 1. A list is tried "
            "in turn.",
            metavar="FACTOR",
        ),
    ] = "0",
    threshold: Annotated[
        float,
        typer.Option(help="An intruder's largest cosine with any singular vector of the backbone's matrix."),
    ] = 0.5,
    top: Annotated[int, typer.Option(min=1, help="Look at so many singular vectors of each matrix.")] = 10,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Make a full model of an adapter, which holds what its rank would leave out."
        ),
    ] = False,
    out: Result = None,
    images: ImagesOption = None,
    transfer: TransferOption = None,
    transfer_per_class: PerClass = None,
    limit: LimitOption = None,
    seed: Seed = None,
    flow: FlowOption = False,
    any_base: AnyBase = False,
    force: Force = False,
    batch_size: Batch = None,
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
) -> None:
    """Scale down the intruder dimensions of an adapted model, typical of LoRA: before and after.

    Intruders are the strongest singular vectors of an adapted matrix that resemble none of the backbone's
    (Shuttleworth et al. 2024). With none there is nothing to do, which is said. The head stays, nothing has
    to be recalibrated. A LoRA adapter stays an adapter: softened matrices are brought back to its rank, and
    what that loses is said; `--full` saves a full model instead, as is done for everything else.

        clipdrift soften runs/abcbc3db7d4b2558 --scale 0,0.5

        clipdrift soften runs/abcbc3db7d4b2558 --scale 0.3 --out softened

        clipdrift soften openai/clip-vit-base-patch32 my-tuned-clip --images photos/ --transfer cifar100
    """
    from clipdrift.repair import parse_factors

    parse_factors(scale)

    from clipdrift.repair.softening import soften as work

    run_repair(
        work,
        shared_options(
            images,
            transfer,
            transfer_per_class,
            limit,
            seed,
            flow,
            any_base,
            batch_size,
            cache,
            device,
            skip_bad_images,
        ),
        model,
        tuned,
        scale=scale,
        threshold=threshold,
        top=top,
        full=full,
        out=out,
        force=force,
    )
