"""Command line. Each subcommand parses, calls one function and prints; heavy imports are inside them."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdrift import __version__
from clipdrift.cli.advising import advise
from clipdrift.cli.carding import card
from clipdrift.cli.checking import check
from clipdrift.cli.comparing import compare
from clipdrift.cli.exporting import export
from clipdrift.cli.figuring import figure
from clipdrift.cli.forecasting import forecast
from clipdrift.cli.mixing import mix
from clipdrift.cli.options import Cache, Checkpoints, Deterministic, Device, Out, Sets, SkipBad, Track
from clipdrift.cli.repairing import interpolate, rewind, soften
from clipdrift.cli.replicating import replicate
from clipdrift.cli.reporting import report
from clipdrift.cli.studying import study
from clipdrift.cli.sweeping import sweep
from clipdrift.cli.watching import watch
from clipdrift.errors import INTERNAL, ClipdriftError, Interrupted, named_line, printable
from clipdrift.runs.layout import cache_folder

app = typer.Typer(
    name="clipdrift",
    help="Fine-tune CLIP without breaking it: adapt, measure what changes inside, keep zero-shot ability.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_INTERRUPTED = 130
_DEBUG = "CLIPDRIFT_DEBUG"
"""Environment variable that shows tracebacks instead of writing them to a file."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipdrift {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="The run's TOML file; none: the defaults.")] = None,
    sets: Sets = None,
    out: Out = Path("runs"),
    cache: Cache = None,
    device: Device = "auto",
    skip_bad_images: SkipBad = False,
    again: Annotated[bool, typer.Option("--again", help="Repeat a run that is done already.")] = False,
    auto_batch: Annotated[
        bool,
        typer.Option("--auto-batch", help="Out of memory: go on with half as many images at a time."),
    ] = False,
    checkpoint_every: Checkpoints = 60.0,
    keep_checkpoint: Annotated[
        bool, typer.Option("--keep-checkpoint", help="Leave the last checkpoint beside the record.")
    ] = False,
    track: Track = None,
    deterministic: Deterministic = False,
    show: Annotated[
        bool, typer.Option("--show-config", help="Print the whole configuration and stop.")
    ] = False,
) -> None:
    """Fine-tune once and see what it did: accuracy, drift inside the image tower, zero-shot retention.

    A run file may hold as little as

        [model]
        name = "openai/clip-vit-base-patch32"
        [data]
        target = "eurosat"
        transfer = ["cifar100"]
        [method]
        name = "lora"

    Names are those of `clipdrift ls`, hub ids, or folders: `train/<class>/*.jpg` and `test/<class>/*.jpg`,
    one folder per class, or parquet as on the hub.

    Interrupt it at any time, with Ctrl-C, SIGTERM or the plug: the same command goes on from the last
    checkpoint, to the same result.
    """
    from clipdrift.config import load_config

    overrides = [*(sets or []), *(["data.skip_bad_images=true"] if skip_bad_images else [])]
    parsed = load_config(config, overrides)
    if show:
        typer.echo(parsed.model_dump_json(indent=2))
        return

    from clipdrift.cli.show import RunDisplay, console, run_table
    from clipdrift.training.runner import CheckpointSchedule, run

    with RunDisplay() as display:
        record, folder = run(
            parsed,
            out,
            cache=cache_folder(cache),
            device=device,
            reporter=display,
            again=again,
            keep_checkpoint=keep_checkpoint,
            auto_batch=auto_batch,
            schedule=CheckpointSchedule(seconds=checkpoint_every),
            track=track or (),
            deterministic=deterministic,
        )
    console.print(run_table(record, folder.path), soft_wrap=True)  # a path is one line, however long
    if record.status != "done":
        raise typer.Exit(1)


app.command()(compare)
app.command()(check)
app.command()(card)
app.command()(forecast)
app.add_typer(study, name="study")
app.command()(sweep)
app.command()(watch)
app.command()(report)
app.command()(advise)
app.command()(replicate)
app.command()(figure)
app.command()(interpolate)
app.command()(rewind)
app.command()(soften)
app.command()(export)
app.command()(mix)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where runs and their report go.")] = Path("runs/demo"),
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """See it work, with no download and no GPU: the study `quickstart`, its table, and its report.

    Fine-tunes `clipdrift/mini` on the generated land-cover set `terrain-10`, in full and with LoRA, at four
    rates with two seeds, and tests what is left of its zero-shot ability on `objects-100`. Takes some five
    minutes on two cores; interrupted, the same command goes on.
    """
    from clipdrift.cli.light_study import results
    from clipdrift.cli.reporting import write_report
    from clipdrift.cli.show import console
    from clipdrift.cli.show_study import StudyDisplay
    from clipdrift.study.demo import STUDY, run_demo

    with StudyDisplay(STUDY) as display:
        result = run_demo(out, cache_folder(cache), device, display)
    results(out)
    if not result.runs.empty:
        write_report(out)
    if any(outcome.ending == "failed" for outcome in result.outcomes):
        console.print(f"some runs failed; `clipdrift study status {out}` says why", style="red")
        raise typer.Exit(1)


@app.command()
def pretrain(
    out: Annotated[
        Path, typer.Option("--out", help="Gets the model; a stopped pretraining goes on from here.")
    ],
    config: Annotated[
        Path | None, typer.Argument(help="TOML file of a pretraining; none: as clipdrift/mini.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="What to learn from: `objects`, a data set of `clipdrift ls datasets`, a hub id, a folder "
            "with class folders or parquet files (./photos)."
        ),
    ] = None,
    sets: Sets = None,
    cache: Cache = None,
    workers: Annotated[int | None, typer.Option(help="Processes on the CPU; default one per core.")] = None,
    loaders: Annotated[
        int, typer.Option(help="Processes that draw images ahead; worth it beside a GPU.")
    ] = 0,
    stop_after: Annotated[int | None, typer.Option(help="Stop after so many steps, to go on later.")] = None,
) -> None:
    """Make a small CLIP from nothing by contrastive pretraining on captioned or labelled images.

    The defaults made `clipdrift/mini` from the generated world `objects`. Of labelled images, the class
    names become captions through many templates:

        clipdrift pretrain --data ./photos --out my-clip --set images=200000

    where ./photos has train/CLASS/*.jpg or CLASS/*.jpg. Some images of each class are held out, and
    zero-shot accuracy on them is shown as it goes. Interrupt it at any time; the same command goes on from
    the last checkpoint.
    """
    from clipdrift.config import DataSet, PretrainConfig, parse_config, read_toml

    given = read_toml(config, sets or [])
    if data is not None:  # where the images are; how many of them, and the like, stays as it is set
        place = DataSet.model_validate(data).model_dump(include={"name", "path"})
        also = given["data"] if isinstance(given.get("data"), dict) else {}
        given = given | {"data": also | place}
    parsed = parse_config(given, PretrainConfig)

    from clipdrift.cli.show import PretrainDisplay, console
    from clipdrift.pretrain import pretrain as work

    with PretrainDisplay() as display:
        scores = work(
            parsed,
            out,
            workers=workers,
            loaders=loaders,
            stop_after=stop_after,
            cache=cache,
            reporter=display,
        )
    if scores:
        said = ", ".join(f"{k} {v:.1f} %" for k, v in scores.items())
        console.print(f"model in {out}; zero-shot: {said}", soft_wrap=True)
    else:
        console.print(f"stopped; the same command goes on from {out}", soft_wrap=True)


@app.command("ls")
def list_(
    what: Annotated[
        str, typer.Argument(help="models, datasets, methods, penalties, measures, studies or figures.")
    ],
) -> None:
    """What there is: models, data sets, methods, penalties, measures, studies, figures; one line each."""
    from clipdrift.cli.light import listing

    listing(what)


@app.command()
def status(out: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs")) -> None:
    """The runs in a folder: what each was, and how it ended."""
    from clipdrift.cli.light import run_list

    run_list(out)


def _log_of(error: Exception) -> str:
    """Write the traceback to a log file and return its path, or why it could not be written."""
    try:
        handle, name = tempfile.mkstemp(prefix="clipdrift-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"clipdrift {__version__}, Python {sys.version}\n{sys.argv}\n\n")
            log.writelines(traceback.format_exception(error))
    except OSError as why:
        return f"the traceback could not be written ({why}); {_DEBUG}=1 shows it"
    return f"please report it with {name}"


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: errors that a user can mend are one line on stderr and exit status 2.

    Whatever else goes wrong is one line, too, with its traceback in a file, and exit status 70.
    """
    try:
        return app(arguments)
    except Interrupted as end:
        typer.echo(str(end), err=True)
        sys.exit(end.exit_status)
    except ClipdriftError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(2)
    except Exception as error:
        if os.environ.get(_DEBUG, "0") not in ("", "0"):
            raise
        said = named_line(error, 200)
        typer.echo(f"internal error: {said}; {_log_of(error)}", err=True)
        sys.exit(INTERNAL)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # the command line library has swallowed the interruption itself
            typer.echo("interrupted; what is finished is kept, the same command goes on from there", err=True)
        raise
