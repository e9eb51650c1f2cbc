"""``clipdrift check``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from clipdrift.errors import ClipdriftError, Interrupted, named_line
from clipdrift.rules import Rule, parse_rule
from clipdrift.runs.layout import cache_folder

if TYPE_CHECKING:
    from clipdrift.config import DataSet

_BOUNDS = {
    "min_cka": "cka >= {}",
    "min_worst_cka": "cka/worst >= {}",
    "min_retention": "retention >= {} %",
    "min_accuracy": "zero_shot_accuracy >= {} %",
    "min_agreement": "zero_shot_agreement >= {}",
    "max_embedding_drift": "embedding_drift <= {}",
    "max_weight_drift": "weight_drift <= {}",
    "max_entropy_drift": "|entropy_drift| <= {} %",
}
"""Shorthand -> the rule that it stands for."""


def check(
    models: Annotated[
        list[str],
        typer.Argument(
            help="The model before and the model after, as in `clipdrift compare`; with --baseline TUNED "
            "alone; with --save-baseline BASE alone keeps it for later checks.",
            metavar="[BASE] TUNED",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            help="Images to read both on: a folder, or a data set of `clipdrift ls datasets`; with "
            "--baseline those it names, unless said. No labels are needed.",
            metavar="SOURCE",
        ),
    ] = None,
    min_cka: Annotated[
        float | None, typer.Option(help="CKA with BASE, mean over blocks (1: unchanged).", metavar="X")
    ] = None,
    min_worst_cka: Annotated[
        float | None, typer.Option(help="CKA of the block that moved most.", metavar="X")
    ] = None,
    min_retention: Annotated[
        float | None,
        typer.Option(
            help="Zero-shot accuracy after / before in percent, on every set of --transfer.", metavar="%"
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Zero-shot accuracy of TUNED in percent, likewise.", metavar="%"),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Share (0 to 1) of images whose zero-shot class is still BASE's.", metavar="X"),
    ] = None,
    max_embedding_drift: Annotated[
        float | None, typer.Option(help="One minus the mean cosine of the embeddings.", metavar="X")
    ] = None,
    max_weight_drift: Annotated[
        float | None, typer.Option(help="Relative change of the image tower's weights.", metavar="X")
    ] = None,
    max_entropy_drift: Annotated[
        float | None, typer.Option(help="Size of the change of attention entropy, percent.", metavar="%")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            help="Any other bound, as `cka/block_6 >= 0.8`; see `clipdrift ls measures`. Repeatable.",
            metavar="RULE",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with [rules], transfer and strict.", metavar="FILE"),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            help="Set for zero-shot rules: a name, a folder, or `name=folder`. Repeatable.",
            metavar="SET",
        ),
    ] = None,
    transfer_per_class: TransferPerClass = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="A rule that the images cannot resolve is broken.")
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="File that stands for BASE; needs no backbone.", metavar="FILE"),
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option("--save-baseline", help="Keep what was read of BASE.", metavar="FILE")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write a JUnit XML report.", metavar="FILE")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            help="Append a Markdown summary; default $GITHUB_STEP_SUMMARY where that is set.",
            metavar="FILE",
        ),
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
    """Fail a CI job when a tuned model lost what it should keep.

    Exit status 0: the rules hold; 1: one is broken; 2: it could not be checked, also where the images are too
    few to resolve any rule; 70: a mistake of clipdrift's own. Reports are written then too, with the reason.

        clipdrift check BASE TUNED --images photos/ --min-cka 0.9 --min-retention 90 --transfer cifar100

    Each value stands with its 95 % interval over images. A rule whose threshold lies inside is not resolved,
    which fails with `--strict` alone.

    Rules may stand in a file, with `severity = "warn"` for those that should not fail:

        transfer = ["cifar100"]
        [rules]
        cka = ">= 0.9"
        "retention/cifar100" = { min = 90 }
        entropy_drift = { min = -10, max = 10, severity = "warn" }

    Without the backbone in CI: keep what is read of it once, then check against the file.

        clipdrift check BASE --images photos/ --transfer cifar100 --save-baseline base.safetensors

        clipdrift check TUNED --baseline base.safetensors --images photos/ --config drift.toml
    """
    from clipdrift.decision.asked import Asked, read_rules
    from clipdrift.decision.result import Checked, CheckError

    given = {name: value for name, value in locals().items() if name in _BOUNDS and value is not None}
    rules = [_bound(name, value) for name, value in given.items()] + [parse_rule(text) for text in rule or ()]
    asked = Asked(()) if config is None else read_rules(config)
    rules += asked.rules
    only_base = len(models) == 1 and baseline is None
    if len(models) != (1 if baseline else 2) and not (only_base and save_baseline):
        raise CheckError(_count(len(models), baseline is not None))
    if only_base and rules:
        raise CheckError("rules are about a tuned model: give BASE and TUNED, or --baseline FILE and TUNED")
    if not rules and not only_base:
        raise CheckError(
            "no rules: a check that judges nothing would always pass; give for example --min-cka 0.9, --rule "
            "or --config"
        )
    if baseline is None and images is None:
        raise CheckError("no images: name a folder or a data set with --images")
    if interpolate_positions is not None and (only_base or baseline is not None):
        raise CheckError("--interpolate-positions needs BASE and TUNED: a baseline is of one image size")

    from rich.console import Console

    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.comparison.architectures import checked_choice
    from clipdrift.comparison.compare import transfer_sets
    from clipdrift.decision.baseline import read_baseline
    from clipdrift.decision.checking import baseline as keep
    from clipdrift.decision.checking import check as work
    from clipdrift.decision.checking import not_measured
    from clipdrift.reporting.checks import append_markdown, write_junit
    from clipdrift.runs.files import refuse_unwritable

    choice = checked_choice(interpolate_positions)
    steps = os.environ.get("GITHUB_STEP_SUMMARY")
    page = summary or (Path(steps) if steps else None)
    for file in filter(None, (junit, page, save_baseline)):
        refuse_unwritable(file)
    sets: list[DataSet] = []
    failed: Exception | None = None
    kept_in = str(save_baseline) if only_base else ""
    try:
        sets += transfer_sets([*(transfer or asked.transfer)], transfer_per_class)
        kept = None if baseline is None else read_baseline(baseline)
        with RunDisplay(Console(stderr=True) if json_ else None) as display:
            common = {
                "transfer": sets,
                "limit": limit,
                "seed": seed,
                "batch_size": batch_size,
                "cache": cache_folder(cache),
                "device": device,
                "skip_bad": skip_bad_images,
                "reporter": display,
            }
            if only_base:
                assert save_baseline is not None
                keep(save_baseline, models[0], images or "", **common)  # type: ignore[arg-type]
                checked = Checked(
                    base=models[0], tuned="", source=images or "", images=0, rules=(), baseline=kept_in
                )
            else:
                checked = work(
                    kept or models[0],
                    models[-1],
                    images,
                    rules,
                    strict=strict or asked.strict,
                    save_baseline=save_baseline,
                    any_base=any_base,
                    interpolate=choice,
                    **common,  # type: ignore[arg-type]
                )
    except Interrupted:
        raise
    except Exception as error:  # whatever it is, a job that waits for reports gets them
        failed, internal = error, not isinstance(error, ClipdriftError)
        checked = not_measured(
            rules,
            f"internal error: {named_line(error, 200)}" if internal else error,
            base=str(baseline or models[0]),
            tuned="" if only_base else models[-1],
            source=images or "the images of the baseline",
            transfer=[spec.name for spec in sets],
            strict=strict or asked.strict,
            internal=internal,
            baseline=kept_in,
        )
    if json_:
        typer.echo(checked.to_json(), nl=False)
    elif failed is None and only_base:
        console.print(f"baseline  {save_baseline}", soft_wrap=True)
    elif failed is None:
        from clipdrift.cli.show_checked import checked_report

        console.print(checked_report(checked), soft_wrap=True)
    if junit is not None:
        write_junit(checked, junit)
    if page is not None:
        append_markdown(checked, page)
    if failed is not None:
        raise failed
    raise typer.Exit(checked.exit_status)


def _bound(name: str, value: float) -> Rule:
    return parse_rule(_BOUNDS[name].format(f"{value:.12g}"))


def _count(models: int, baseline: bool) -> str:
    if baseline:
        return f"{models} models: with --baseline, which stands for BASE, give TUNED alone"
    return f"{models} model{'s' if models > 1 else ''}: give BASE and TUNED, or --baseline FILE and TUNED"
