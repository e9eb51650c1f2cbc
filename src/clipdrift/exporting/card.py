"""The README of an export: how it is loaded, and what was proven."""

from __future__ import annotations

from pathlib import Path

import yaml

from clipdrift.adapt.heads import ZeroShotHead
from clipdrift.exporting.opened import Opened
from clipdrift.exporting.result import RECORD, Exported
from clipdrift.model.clip import SHIPPED
from clipdrift.model.towers import unwrapped

_LIBRARY = {"peft": "peft", "open_clip": "open_clip", "onnx": "onnx"}

_TRANSFORMERS = """from transformers import AutoTokenizer, {model}

model = {model}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""
_PEFT = """from peft import PeftModel
from transformers import {model}

model = PeftModel.from_pretrained({model}.from_pretrained({base}), "{folder}")
"""
_OPEN_CLIP = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
tokenizer = open_clip.get_tokenizer("local-dir:{folder}")
"""
_ONNX = """import onnxruntime

image = onnxruntime.InferenceSession("{folder}/image.onnx")  # pixel_values (n, 3, {side}, {side}), float32
text = onnxruntime.InferenceSession("{folder}/text.onnx")  # input_ids (n, {length}), int64
{outputs} = image.run(None, {{"pixel_values": pixel_values}})
"""
_HEAD = """
from safetensors.torch import load_file

head = load_file("{folder}/head.safetensors")
logits = image_embedding @ head["weight"].T + head["bias"]  # of the embedding as it comes, not normalised
"""
_ZERO_SHOT_HEAD = """
from safetensors.torch import load_file
from torch.nn.functional import normalize

head = load_file("{folder}/head.safetensors")
logits = normalize(image_embedding, dim=-1) @ head["zero_shot.weight"].T + head["zero_shot.bias"]
"""


def card(made: Exported, source: Opened) -> str:
    """Markdown with metadata as the hub reads it."""
    facts: dict[str, object] = {
        "library_name": _LIBRARY.get(made.to, "transformers"),
        "pipeline_tag": "zero-shot-image-classification",
    }
    base = made.source.base or made.source.name
    if _on_hub(base):
        facts["base_model"] = base
    metadata = yaml.safe_dump(facts, sort_keys=True, allow_unicode=True).strip()
    title = made.folder.name
    parts = [
        f"---\n{metadata}\n---",
        f"# {title}",
        f"`{made.source.name}` as {made.to}, weights in {made.dtype}, written by `clipdrift export`"
        + (f" from run `{made.source.run}`" if made.source.run else "")
        + (f", fine-tuned from `{made.source.base}`" if made.source.base else "")
        + ".",
        f"```python\n{_code(made, source)}```",
        *_texts(source, made),
        *([f"Classes, in the head's order: {', '.join(made.classes)}."] if made.classes else []),
        f"## What was proven\n\nRead back with {made.proof.library}, on generated images and fixed texts, "
        f"beside the source in float32. {made.proof.tolerance:.1e} of an embedding's length is allowed.",
        _table(made),
        *(f"- {note}" for note in made.notes),
        f"Everything that was checked, with checksums: `{RECORD}`."
        + (f" Made by:\n\n```\n{made.command}\n```" if made.command else ""),
    ]
    return "\n\n".join(parts) + "\n"


def _on_hub(name: str) -> bool:
    """Whether a name is a hub id, as far as it tells."""
    odd = name.startswith((".", "~", "/")) or ":" in name or name in SHIPPED
    return name.count("/") == 1 and not odd and not Path(name).exists()


def _code(made: Exported, source: Opened) -> str:
    folder, head = made.folder.name, type(unwrapped(source.clip.model)).__name__
    config = source.clip.model.config
    if made.to == "onnx":
        text = config.text_config.max_position_embeddings
        return _ONNX.format(
            folder=folder,
            side=source.clip.image_size,
            length=f"up to {text}" if source.family == "clip" else text,
            outputs="embeddings," if source.head is None else "embeddings, logits",
        )
    if made.to == "open_clip":
        code = _OPEN_CLIP.format(folder=folder)
    elif made.to == "peft":
        base = made.source.base or ""
        shown = f'shipped_folder("{base}")' if base in SHIPPED else f'"{base}"'
        code = _PEFT.format(folder=folder, model=head, base=shown)
        if base in SHIPPED:
            code = f"from clipdrift.model.clip import shipped_folder\n{code}"
    else:
        code = _TRANSFORMERS.format(folder=folder, model=head)
    if source.head is None:
        return code
    beside = _ZERO_SHOT_HEAD if isinstance(source.head, ZeroShotHead) else _HEAD
    return code + beside.format(folder=folder)


def _texts(source: Opened, made: Exported) -> list[str]:
    if source.family == "siglip":
        return [
            "Texts are in lower case, without punctuation, and filled up to the full length "
            '(`padding="max_length"`), as SigLIP was trained.'
        ]
    if made.to == "onnx":
        return [
            "Images are prepared as `preprocessor_config.json` says, texts by `tokenizer.json`; whatever "
            "follows a text's end token changes nothing. Embeddings are not normalised."
        ]
    return []


def _table(made: Exported) -> str:
    proof = made.proof
    rows = [("image embeddings", proof.images), ("text embeddings", proof.texts)]
    if proof.logits is not None:
        rows.append(("logits of the head", proof.logits))
    lines = [
        "| | compared | largest difference, in lengths | smallest cosine | of two numbers |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {what} | {d.count} | {d.relative:.1e} | {d.cosine:.7f} | {d.largest:.1e} |" for what, d in rows
    ]
    text = "\n".join(lines)
    if proof.in_float32 is not None:
        text += (
            f"\n\nRead in float32, beside the source with its weights rounded to {made.dtype} too, it "
            f"differs by at most {proof.in_float32:.1e}: the rest is rounding."
        )
    if proof.pixels is not None:
        text += (
            f"\n\nThe library's own preprocessing differs by at most {proof.pixels:.2f} grey levels of 255."
        )
    if proof.weights is not None:
        said = (
            "are the same to the bit"
            if proof.weights.largest == 0
            else (
                f"differ by at most {proof.weights.largest:.1e} of their size, the rounding to {made.dtype}"
            )
        )
        text += f"\n\nThe {proof.weights.tensors} weights in the file {said}."
    return text
