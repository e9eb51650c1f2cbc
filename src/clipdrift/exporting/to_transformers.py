"""Full models as transformers loads them, and adapters as peft does."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from clipdrift.adapt.heads import about_head
from clipdrift.exporting.opened import CLASSES, Opened, place_of, reference_of
from clipdrift.exporting.proof import TYPES, Reading, Samples, cast, refuse_overflow, rounding
from clipdrift.exporting.result import Dtype, ExportError, Rounding
from clipdrift.model.folders import text_of
from clipdrift.model.quiet import quiet
from clipdrift.repair.merging import plain_copy
from clipdrift.runs.layout import HEAD

ADAPTER = "adapter_model.safetensors"
_PROCESSORS = {"clip": "CLIPImageProcessorPil", "siglip": "SiglipImageProcessorPil"}
"""Of transformers' two kinds of processors those that need no torchvision."""


def write_model(source: Opened, folder: Path, dtype: Dtype) -> Rounding:
    """The whole model, adapters merged; tokenizer, preprocessing and head beside it.

    Returns:
        How far the weights in the file are from the merged ones.
    """
    model = plain_copy(source.clip.model)
    wanted = {name: weight.clone() for name, weight in model.state_dict().items()}
    refuse_overflow(wanted, dtype, source.name)
    with quiet():
        model.to(TYPES[dtype]).save_pretrained(folder)
    write_companions(source, folder)
    write_head(source, folder, dtype)
    return rounding(wanted, _weights(folder), dtype, source.name)


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(file for file in folder.glob("model*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def write_adapter(source: Opened, folder: Path, dtype: Dtype) -> Rounding:
    """The adapter's own files, with its base named."""
    assert source.adapter is not None
    assert source.base is not None
    settings = json.loads(text_of(source.adapter / "adapter_config.json"))
    settings["base_model_name_or_path"] = reference_of(source.base[0])
    if source.revision is not None:
        settings["revision"] = source.revision
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    wanted = load_file(source.adapter / ADAPTER)
    save_file(cast(wanted, dtype, source.name), folder / ADAPTER, metadata={"format": "pt"})
    write_companions(source, folder)
    write_head(source, folder, dtype)
    return rounding(wanted, load_file(folder / ADAPTER), dtype, source.name)


def write_companions(source: Opened, folder: Path) -> None:
    """Tokenizer and preprocessing."""
    source.clip.tokenizer.save_pretrained(folder)
    text = json.dumps(source.clip.preprocessor, indent=2, sort_keys=True)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def write_head(source: Opened, folder: Path, dtype: Dtype) -> None:
    """The head, or what a loss had beside the model; and the head's classes."""
    state = source.loss if source.head is None else source.head.state_dict()
    if state:
        about = None if source.head is None else about_head(source.head)
        save_file(cast(state, dtype, source.name), folder / HEAD, metadata=about)
    write_classes(source, folder)


def write_classes(source: Opened, folder: Path) -> None:
    if source.classes:
        text = json.dumps(source.classes, ensure_ascii=False, indent=1)
        (folder / CLASSES).write_text(text + "\n", encoding="utf-8")


def read_model(source: Opened, folder: Path, samples: Samples, dtype: Any = "auto") -> Reading:
    """The folder by plain transformers, which computes in the type of the file unless told otherwise."""
    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    return _reading(source, model, folder, samples, f"transformers {transformers.__version__}")


def read_adapter(source: Opened, folder: Path, samples: Samples) -> Reading:
    """The folder by plain peft, on its base by plain transformers."""
    assert source.base is not None
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    place = place_of(settings["base_model_name_or_path"])
    with quiet():
        base = AutoModel.from_pretrained(place, revision=source.revision, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
    return _reading(source, model.get_base_model(), folder, samples, f"peft {version('peft')}")


@torch.no_grad()
def _reading(source: Opened, model: Any, folder: Path, samples: Samples, library: str) -> Reading:
    texts = []
    for tokens in tokenised(source, folder, samples.texts):
        texts.append(model.get_text_features(input_ids=tokens).pooler_output)
    images = model.get_image_features(pixel_values=samples.pixels.to(model.dtype)).pooler_output
    return Reading(
        library,
        images.float(),
        torch.cat(texts).float(),
        head_logits(folder, images),
        processed(source, folder, samples),
    )


def head_logits(folder: Path, images: Tensor) -> Tensor | None:
    """Logits by the head's file, where there is a linear or a zero-shot one."""
    if not (folder / HEAD).is_file():
        return None
    state = load_file(folder / HEAD)
    if "zero_shot.weight" in state:
        state = {name.removeprefix("zero_shot."): value for name, value in state.items()}
        images = nn.functional.normalize(images.float(), dim=-1)
    if state.keys() != {"weight", "bias"} or state["weight"].ndim != 2:
        return None
    return nn.functional.linear(images.float(), state["weight"].float(), state["bias"].float())


def tokenised(source: Opened, folder: Path, texts: tuple[str, ...]) -> list[Tensor]:
    """Token ids (1, T) of each text by the folder's own tokenizer, cut to what the text tower takes."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = source.clip.model.config.text_config.max_position_embeddings
    padding: Any = "max_length" if source.family == "siglip" else False
    options = {"truncation": True, "max_length": longest, "padding": padding, "return_tensors": "pt"}
    return [tokenizer([text], **options)["input_ids"] for text in texts]


def processed(source: Opened, folder: Path, samples: Samples) -> Tensor:
    """The pictures by transformers' own processor."""
    kind = getattr(transformers, _PROCESSORS[source.family], None)
    if kind is None:
        raise ExportError(f"transformers {transformers.__version__} has no {_PROCESSORS[source.family]}")
    with quiet():
        processor = kind.from_pretrained(folder)
    pictures = [processor(picture, return_tensors="pt")["pixel_values"] for picture in samples.pictures]
    return torch.cat(pictures)


def filled(folder: Path, rows: list[Tensor]) -> Tensor:
    """Token ids (n, T) of all texts together, filled up to the longest by the tokenizer's padding."""
    with quiet():
        fill = AutoTokenizer.from_pretrained(folder).pad_token_id
    return nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True, padding_value=fill)
