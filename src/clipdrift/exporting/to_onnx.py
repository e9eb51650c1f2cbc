"""Both towers as ONNX, by torch's exporter, each one file."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.adapt.heads import Head, ZeroShotHead
from clipdrift.errors import one_line
from clipdrift.exporting.opened import Opened
from clipdrift.exporting.proof import TYPES, Reading, Samples, refuse_overflow
from clipdrift.exporting.result import Dtype, ExportError
from clipdrift.exporting.to_transformers import (
    filled,
    processed,
    tokenised,
    write_classes,
    write_companions,
)
from clipdrift.model.quiet import quiet
from clipdrift.repair.merging import plain_copy

IMAGE, TEXT = "image.onnx", "text.onnx"
_ONE_FILE = 1_900_000_000
"""Bytes of weights that a file of protocol buffers holds, which end at 2 GiB; beyond, they lie beside it."""
_BATCHES = (1, 3)
"""Numbers of images that are tried beside all at once."""


class ImageTower(nn.Module):
    """Pixels to embeddings and, with a head, to logits; floats in and out, whatever it computes in."""

    def __init__(self, model: Any, head: Head | None, kind: torch.dtype) -> None:
        super().__init__()
        self.model, self.head, self.kind = model, head, kind

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        pixels = pixel_values.to(self.kind)
        embedding: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        if self.head is None:
            return (embedding.float(),)
        return embedding.float(), self.head(embedding).float()


class TextTower(nn.Module):
    """Token ids to embeddings. What follows the end token changes nothing in CLIP, so there is no mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        embedding: Tensor = self.model.get_text_features(input_ids=input_ids).pooler_output
        return embedding.float()


def libraries() -> None:
    """Refuse where what writes and reads ONNX is not installed. Raises ExportError."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f'--to onnx: {name} cannot be imported ({one_line(error)}); pip install "clipdrift[onnx]"'
            ) from None


def write_onnx(source: Opened, folder: Path, dtype: Dtype) -> list[str]:
    """image.onnx, with the head's logits as its second output, and text.onnx.

    Returns:
        Notes.
    """
    kind = TYPES[dtype]
    model = plain_copy(source.clip.model)
    refuse_overflow(model.state_dict(), dtype, source.name)
    model, head = model.to(kind), copy.deepcopy(source.head)
    config = model.config
    side, text = config.vision_config.image_size, config.text_config
    batch = torch.export.Dim("batch")
    outputs = ["image_embeds"] + ([] if head is None else ["logits"])
    if head is not None:
        head = head.to(kind)
    if isinstance(head, ZeroShotHead):
        head = head.float()  # it computes in float32, with weights of that type
    image = ImageTower(model, head, kind).eval()
    example = torch.zeros(2, 3, side, side)
    notes = _export(image, example, folder / IMAGE, "pixel_values", outputs, {0: batch})
    longest = text.max_position_embeddings
    shape: dict[int, Any] = {0: batch}
    length = longest
    if source.family == "clip":  # SigLIP's texts are always filled up to the full length
        shape[1] = torch.export.Dim("sequence", min=2, max=longest)
        length = max(2, longest // 2)
    ids = torch.full((2, length), text.eos_token_id if text.eos_token_id < text.vocab_size else 0)
    notes += _export(TextTower(model).eval(), ids, folder / TEXT, "input_ids", ["text_embeds"], shape)
    write_companions(source, folder)
    write_classes(source, folder)
    return notes


def _export(
    tower: nn.Module, example: Tensor, file: Path, given: str, outputs: list[str], shape: dict[int, Any]
) -> list[str]:
    large = sum(p.numel() * p.element_size() for p in tower.parameters()) > _ONE_FILE
    try:
        with _still():
            torch.onnx.export(
                tower,
                (example,),
                file,
                dynamo=True,
                input_names=[given],
                output_names=outputs,
                dynamic_shapes=(shape,),
                external_data=large,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise ExportError(f"{file.name}: torch cannot export it ({one_line(error, 300)})") from error
    beside = f"{file.name}.data"
    return [f"The weights of {file.name} lie beside it, in {beside}: keep both together."] if large else []


@contextmanager
def _still() -> Iterator[None]:
    """Keep the exporter's log and warnings out of ours: what it makes is proven, not believed."""
    log = logging.getLogger("torch.onnx")
    others = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [(one, one.level) for one in (log, *others)]
    for one, _ in levels:
        one.setLevel(logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in levels:
            one.setLevel(level)


def read_onnx(source: Opened, folder: Path, samples: Samples) -> Reading:
    """Both files by onnxruntime: images one by one, by threes and all at once; texts of one model that has
    no fixed length by themselves and filled up to the longest."""
    runtime = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)

    def session(file: str) -> Any:
        return runtime.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])

    image, text = session(IMAGE), session(TEXT)
    found = [
        image.run(None, {"pixel_values": piece.numpy()})
        for size in (*_BATCHES, len(samples.pixels))
        for piece in samples.pixels.split(size)
    ]
    alone = tokenised(source, folder, samples.texts)
    texts = [text.run(None, {"input_ids": ids.numpy()})[0] for ids in (*alone, filled(folder, alone))]
    images, *logits = ([torch.from_numpy(part) for part in parts] for parts in zip(*found, strict=True))
    return Reading(
        f"onnxruntime {runtime.__version__}",
        torch.cat(images),
        torch.cat([torch.from_numpy(part) for part in texts]),
        torch.cat(logits[0]) if logits else None,
        processed(source, folder, samples),
    )
