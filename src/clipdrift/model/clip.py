"""Load any Hugging Face CLIP, or the shipped one. Strict: nothing missing, nothing left over."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from clipdrift.config import ModelConfig
from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.errors import ClipdriftError
from clipdrift.model.quiet import quiet
from clipdrift.model.texts import HuggingFaceTexts, TextEncoder
from clipdrift.model.towers import Geometry, tower_of

MINI = "clipdrift/mini"


class ModelError(ClipdriftError):
    """A model that cannot be loaded; the message names the model, the reason and what to do."""


@dataclass(frozen=True)
class Clip:
    """A CLIP ready for work: the model in float32 and eval mode, its texts' encoder, its preprocessing."""

    name: str
    model: Any
    """As its library makes it: transformers' CLIPModel, say."""
    tokenizer: Any
    preprocess: Preprocess
    preprocessor: dict[str, Any]
    """The model's own preprocessing as its file says it, to be written beside adapted weights."""
    texts: TextEncoder
    """From texts to projected, not normalised embeddings (n, E)."""

    @property
    def geometry(self) -> Geometry:
        return tower_of(self.model).geometry

    @property
    def blocks(self) -> int:
        return self.geometry.blocks

    @property
    def heads(self) -> int:
        return self.geometry.heads

    @property
    def width(self) -> int:
        return self.geometry.width

    @property
    def embedding_width(self) -> int:
        return self.geometry.embedding_width

    @property
    def image_size(self) -> int:
        return self.geometry.image_size

    @property
    def patches(self) -> int:
        return self.geometry.patches


def mini_folder() -> Path:
    """Where the shipped small CLIP lies: a folder that ``CLIPModel.from_pretrained`` takes as it is."""
    return Path(str(resources.files("clipdrift.model") / "mini"))


def load(model: str | Path | ModelConfig) -> Clip:
    """Load a CLIP by hub id, directory, or the name ``clipdrift/mini``; works offline from a hub cache.

    Args:
        model: ``openai/clip-vit-base-patch32``, ``path/to/folder``, ``clipdrift/mini``, or a ModelConfig.

    Raises:
        ModelError: not found (with or without network), not a CLIP, weights missing, left over or of
            another shape, unreadable files.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig.model_validate(str(model))
    place = _place(config)
    settings = _json(place, "config.json", config)
    kind = settings.get("model_type")
    if kind != "clip":
        raise ModelError(
            f"{config.name}: a model of type {kind!r} is not supported; clipdrift loads Hugging Face CLIP "
            "models (model_type 'clip', such as openai/clip-vit-base-patch32)"
        )
    preprocessor = _preprocessor(place, config)
    loaded = _weights(place, config)
    tokenizer = _tokenizer(place, config, loaded.config.text_config)
    try:
        preprocess = Preprocess.from_config(preprocessor)
    except DataError as error:
        raise ModelError(f"{config.name}: {error}") from None
    return Clip(config.name, loaded, tokenizer, preprocess, preprocessor, HuggingFaceTexts(loaded, tokenizer))


def fingerprint_model(path: str | Path) -> str:
    """Content hash (16 hex digits) of a local model: its configuration and weight files."""
    digest = hashlib.sha256()
    for file in sorted(Path(path).expanduser().iterdir()):
        if file.suffix in (".safetensors", ".json", ".txt", ".bin"):
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _place(config: ModelConfig) -> str:
    """What transformers is asked for: a directory or a hub id."""
    if config.path is not None:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise ModelError(f"{config.path}: no such folder; give a hub id or a folder with config.json")
        return str(folder)
    if config.name == MINI:
        return str(mini_folder())
    return config.name


def _json(place: str, name: str, config: ModelConfig) -> dict[str, Any]:
    try:
        file = cached_file(place, name, revision=config.revision)
        if file is None:  # for config.json alone transformers says it so
            raise FileNotFoundError("no such file")
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if Path(place).is_dir():
            raise ModelError(f"{place}/{name}: missing or unreadable ({_one_line(error)})") from None
        raise ModelError(
            f"{config.name}: not found in the local hub cache and not to be had from the hub "
            f"({_one_line(error)}); check the name and the network, or give a folder"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(f"{place}/{name}: not a JSON object")
    return content


def _preprocessor(place: str, config: ModelConfig) -> dict[str, Any]:
    """Older and newer transformers keep it in different files."""
    try:
        return _json(place, "preprocessor_config.json", config)
    except ModelError as first:
        try:
            found = _json(place, "processor_config.json", config).get("image_processor")
        except ModelError:
            raise first from None
        if not isinstance(found, dict):
            raise ModelError(f"{config.name}: processor_config.json has no image_processor") from None
        return found


def _weights(place: str, config: ModelConfig) -> CLIPModel:
    try:
        with quiet():
            model, report = CLIPModel.from_pretrained(
                place,
                revision=config.revision,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report below names all of them
            )
    except Exception as error:  # transformers raises many kinds here; none may pass as a traceback
        raise ModelError(f"{config.name}: the weights cannot be loaded: {_one_line(error)}") from error
    # saved by older releases as weights though they are only a range; transformers rebuilds them
    unexpected = {k for k in report["unexpected_keys"] if not k.endswith("position_ids")}
    mismatched = {str(k[0]) if isinstance(k, tuple) else str(k) for k in report["mismatched_keys"]}
    for label, keys in (
        ("of another shape than config.json says", mismatched),
        ("missing", set(report["missing_keys"])),
        ("that no CLIP has", unexpected),
    ):
        if keys:
            raise ModelError(f"{config.name}: {len(keys)} weights {label}, for example {min(keys)}")
    assert isinstance(model, CLIPModel)
    assert isinstance(model.config, CLIPConfig)
    return model.eval()


def _tokenizer(place: str, config: ModelConfig, text: CLIPTextConfig) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=config.revision)
    except Exception as error:  # as with the weights, a broken file raises many kinds
        raise ModelError(f"{config.name}: its tokenizer cannot be loaded: {_one_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    # transformers makes one of special tokens alone where the files are missing
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{config.name}: its tokenizer has no vocabulary; is tokenizer.json (or vocab.json and "
            "merges.txt) missing?"
        )
    if len(tokenizer) > text.vocab_size:
        raise ModelError(
            f"{config.name}: its tokenizer has {len(tokenizer)} tokens, its text tower knows "
            f"{text.vocab_size}; they are of different models"
        )
    # transformers pools at the first end token or, by the id 2 of older files, at the largest id
    pooled = text.eos_token_id
    if pooled not in (2, tokenizer.eos_token_id):
        raise ModelError(
            f"{config.name}: config.json pools texts at token {pooled}, its tokenizer ends them with "
            f"{tokenizer.eos_token_id}; set text_config.eos_token_id to that"
        )
    return tokenizer


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
