"""``clipdrift export``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def export(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A run's folder, a model's folder or hub id, or an adapter that names its base; or BASE and "
            "a peft adapter on it.",
            metavar="MODEL | BASE ADAPTER",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="transformers, merged, peft, open_clip or onnx; below, what each is.", metavar="KIND"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder to be made; none: one here, named by model, kind and type. Nothing is written over.",
            metavar="FOLDER",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Type of the weights: float32, fp16 or bf16.", metavar="TYPE")
    ] = "float32",
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Accept an adapter that was made on another model than BASE.")
    ] = False,
) -> None:
    """Write a model as another library reads it, read it back there, and prove it equal.

    transformers: a full model as it is. merged: an adapter merged into its base. peft: the adapter alone, its
    base named. open_clip: a folder that `open_clip.create_model` loads (extra `open-clip`). onnx: image.onnx
    and text.onnx, checked in onnxruntime (extra `onnx`). A head goes along, with its classes.

        clipdrift export runs/64cf3373d757e7c9 --to merged --out my-tuned-clip --dtype bf16

        clipdrift export openai/clip-vit-base-patch32 my-adapter --to onnx

    The export is written aside, read back by the library it is for, and laid beside the source on generated
    images and fixed texts. It is moved into place only when it is equal: to 1e-4 of an embedding's length in
    float32, within the type's rounding in fp16 and bf16. `export.json` holds the numbers.
    """
    from clipdrift.exporting import ExportError, checked, free_place

    if len(models) > 2:
        raise ExportError(f"{len(models)} models: give one, or BASE and an adapter on it")
    checked(to, dtype)
    free_place(models[0] if len(models) == 1 else models[1], to, dtype, out)  # said before torch is loaded

    from clipdrift.cli.show import RunDisplay, console
    from clipdrift.exporting.job import export as work

    with RunDisplay() as display:
        made = work(
            models[0],
            models[1] if len(models) == 2 else None,
            to=to,
            out=out,
            dtype=dtype,
            any_base=any_base,
            command=_command(),
            reporter=display,
        )
    console.print(made.summary(), soft_wrap=True, markup=False, highlight=False)
    for note in made.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True, markup=False)
    console.print(f"record    {made.folder / 'export.json'}", soft_wrap=True, markup=False)


def _command() -> str | None:
    """The command as it was typed."""
    return shlex.join(["clipdrift", *sys.argv[sys.argv.index("export") :]]) if "export" in sys.argv else None
