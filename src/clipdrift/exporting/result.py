"""What an export is, where it may go, and its result as plain data, ``export.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.errors import ClipdriftError
from clipdrift.runs.frozen import Wording, read_model
from clipdrift.runs.layout import WEIGHTS

Kind = Literal["transformers", "merged", "peft", "open_clip", "onnx"]
Dtype = Literal["float32", "fp16", "bf16"]

KINDS: Mapping[str, str] = {
    "transformers": "a full model as it is, for `from_pretrained` of transformers",
    "merged": "an adapter merged into its base: a full model, for `from_pretrained` of transformers",
    "peft": "an adapter alone, for `PeftModel.from_pretrained`",
    "open_clip": "a folder that `open_clip.create_model` loads as `local-dir:FOLDER`",
    "onnx": "image.onnx and text.onnx, for onnxruntime",
}
"""What each kind writes."""
DTYPES: tuple[str, ...] = get_args(Dtype)
RECORD = "export.json"
"""Beside the exported files: what they were made from, and what was proven."""


class ExportError(ClipdriftError):
    """What cannot be exported, or does not read back as what it was made from; says why in one line."""


class ExportSource(Frozen):
    """What was exported."""

    name: str = Field(description="As it was given.")
    kind: Literal["model", "adapter", "head"] = Field(description="What of it was trained and saved.")
    library: str = Field(description="Class that ran, such as transformers CLIPModel.")
    fingerprint: str | None = Field(None, description="Content hash of its files, where they are local.")
    base: str | None = Field(None, description="What it was fine-tuned from.")
    base_fingerprint: str | None = None
    run: str | None = Field(None, description="Key of the run that made it.")


class Difference(Frozen):
    """Embeddings of the source beside those read back, of the same images or texts."""

    count: int
    largest: float = Field(description="Largest difference of two numbers.")
    relative: float = Field(description="Largest length of a difference, in lengths of the embedding.")
    cosine: float = Field(description="Smallest cosine between an embedding and the one read back.")


class Rounding(Frozen):
    """Weights in the file beside those of the source."""

    tensors: int
    largest: float = Field(description="Largest difference, relative to the weight's own size.")
    allowed: float = Field(description="Half the distance between two neighbours of the type; 0: the same.")


class Proof(Frozen):
    """What was read back, by which library, and how near it came."""

    library: str
    tolerance: float = Field(description="Of the relative differences.")
    in_float32: float | None = Field(
        None,
        description="Of a short type: largest relative difference where the files are read in float32 and "
        "the source has its weights rounded likewise; 1e-4 is allowed.",
    )
    images: Difference
    texts: Difference
    logits: Difference | None = Field(None, description="Of the head, where there is one.")
    pixels: float | None = Field(
        None, description="Largest difference of the library's own preprocessing, in grey levels."
    )
    weights: Rounding | None = Field(None, description="None where weights have no names of their own.")


class Exported(Frozen):
    """One export."""

    schema_version: Literal[1] = 1
    to: Kind
    dtype: Dtype
    source: ExportSource
    proof: Proof
    classes: tuple[str, ...] = Field((), description="Of the head, in its order, where they are known.")
    versions: dict[str, str]
    files: dict[str, str] = Field(description="SHA-256 of each file.")
    command: str | None = None
    notes: tuple[str, ...] = ()
    folder: Path = Field(Path(), exclude=True)

    def summary(self) -> str:
        """The export in words, what was proven first."""
        proof = self.proof
        by = f"{proof.images.relative:.1e} (images) and {proof.texts.relative:.1e} (texts) of their length"
        lines = [
            f"{self.source.name} as {self.to} in {self.folder}: read back with {proof.library}, embeddings "
            f"differ by at most {by}; {proof.tolerance:.1e} is allowed.",
            f"smallest cosine {min(proof.images.cosine, proof.texts.cosine):.7f} on {proof.images.count} "
            f"images and {proof.texts.count} texts; largest difference of two numbers "
            f"{max(proof.images.largest, proof.texts.largest):.1e}.",
        ]
        if proof.logits is not None:
            lines.append(f"The head's logits differ by at most {proof.logits.relative:.1e} of their length.")
        if proof.weights is not None and proof.weights.allowed:
            lines.append(
                f"{proof.weights.tensors} weights are rounded to {self.dtype}, by at most "
                f"{proof.weights.largest:.1e} of their size."
            )
        if proof.in_float32 is not None:
            lines.append(
                "Read in float32, beside the source with its weights rounded likewise, embeddings differ by "
                f"at most {proof.in_float32:.1e}: the rest is rounding."
            )
        return "\n".join(lines)


_WORDING = Wording(
    schema=1,
    error=ExportError,
    missing=f"no export lies here; {RECORD} is written by `clipdrift export`",
    foreign="schema version {found!r}; read it with the clipdrift that wrote it",
    again="export again",
)


def read_exported(folder: str | Path) -> Exported:
    """Read an export's ``export.json``. Raises ExportError: missing, damaged or of another schema."""
    place = Path(folder)
    found = read_model(place / RECORD, Exported, _WORDING)
    return found.model_copy(update={"folder": place})


def checked(to: str, dtype: str) -> tuple[Kind, Dtype]:
    """Refuse an unknown kind or type, and a pair that cannot be made. Raises ExportError."""
    if to not in KINDS:
        raise ExportError(f"--to {to}: there is {', '.join(KINDS)}")
    if dtype not in DTYPES:
        raise ExportError(f"--dtype {dtype}: there is {', '.join(DTYPES)}")
    if (to, dtype) == ("onnx", "bf16"):
        raise ExportError(
            "--dtype bf16: onnxruntime does not compute in it on a CPU, so nothing could be proven; say "
            "--dtype fp16 or float32"
        )
    return cast(Kind, to), cast(Dtype, dtype)


def free_place(model: str, to: str, dtype: str, out: str | Path | None) -> Path:
    """Folder for the export: ``out``, or one in the working directory named by model, kind and type.

    Raises:
        ExportError: something is there already, or nothing can be made there.
    """
    if out is None:
        path = Path(model)
        name = path.parent.name if path.name == WEIGHTS and path.parent.name else path.name
        out = f"{name.rpartition(':')[2]}-{to}" + ("" if dtype == "float32" else f"-{dtype}")
    place = Path(out).expanduser()
    if place.exists() or place.is_symlink():
        raise ExportError(f"{place}: is there already, and nothing is written over; choose another --out")
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ExportError(f"{place}: nothing can be made in {above}; choose another --out")
    return place
