"""Checkpoints as OpenCLIP loads them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clipdrift.errors import one_line
from clipdrift.exporting.open_clip_names import open_clip_config, open_clip_weights
from clipdrift.exporting.opened import Opened
from clipdrift.exporting.proof import Reading, Samples, cast, rounding
from clipdrift.exporting.result import Dtype, ExportError, Rounding
from clipdrift.exporting.to_transformers import head_logits, write_head
from clipdrift.model.quiet import quiet
from clipdrift.repair.merging import plain_copy

_CONFIG = "open_clip_config.json"
_WEIGHTS = "open_clip_model.safetensors"


def library() -> Any:
    """OpenCLIP, of a release that loads a folder. Raises ExportError."""
    try:
        found = importlib.import_module("open_clip")
    except Exception as error:  # a torchvision that does not fit raises other kinds than ImportError
        raise ExportError(
            f"--to open_clip: OpenCLIP, which has to read it back, cannot be imported ({one_line(error)}); "
            'pip install "clipdrift[open-clip]"'
        ) from None
    if not hasattr(found.factory, "LOCAL_DIR_PREFIX"):
        raise ExportError(
            f"--to open_clip: open_clip_torch {found.__version__} loads no local-dir:FOLDER; "
            "pip install -U open_clip_torch"
        )
    return found


def write_open_clip(source: Opened, folder: Path, dtype: Dtype, name: str) -> tuple[Rounding, list[str]]:
    """Weights, configuration and, where it is another than OpenCLIP's own, the tokenizer.

    Args:
        name: what a tokenizer is called in the configuration.

    Returns:
        How far the weights in the file are from the source's, and notes.
    """
    model = plain_copy(source.clip.model)
    tokenizer = source.clip.tokenizer
    vocabulary = tokenizer.get_vocab()
    own = _is_own(tokenizer, library().SimpleTokenizer())
    notes = []
    try:
        config = open_clip_config(
            model.config, source.clip.preprocess, max(vocabulary.values()), None if own else name
        )
        wanted = open_clip_weights(model.state_dict())
    except ExportError as error:
        raise ExportError(f"{source.name}: {error}") from None
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(cast(wanted, dtype, source.name), folder / _WEIGHTS, metadata={"format": "pt"})
    if not own:
        tokenizer.save_pretrained(folder)
        notes.append(
            "The tokenizer is the model's own and lies in the folder. On the hub OpenCLIP looks for it under "
            f"hf_tokenizer_name in {_CONFIG}: set that to the repository's id before uploading."
        )
    write_head(source, folder, dtype)
    return rounding(wanted, load_file(folder / _WEIGHTS), dtype, source.name), notes


def _is_own(tokenizer: Any, simple: Any) -> bool:
    """Whether a tokenizer has the numbers of OpenCLIP's own, which calls start and end otherwise."""
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    if ends != (simple.sot_token_id, simple.eot_token_id):
        return False
    one, other = (
        {word: n for word, n in v.items() if n not in ends} for v in (tokenizer.get_vocab(), simple.encoder)
    )
    return one == other


@torch.no_grad()
def read_open_clip(folder: Path, samples: Samples) -> Reading:
    """The folder by OpenCLIP alone, with its own tokenizer and transform."""
    open_clip = library()
    name = f"local-dir:{folder}"
    with quiet():
        model, _, transform = open_clip.create_model_and_transforms(name)
        tokens = open_clip.get_tokenizer(name)(list(samples.texts))
    model.eval()
    images = model.encode_image(samples.pixels)
    return Reading(
        f"open_clip {open_clip.__version__}",
        images,
        model.encode_text(tokens),
        head_logits(folder, images),
        torch.stack([transform(picture) for picture in samples.pictures]),
    )
