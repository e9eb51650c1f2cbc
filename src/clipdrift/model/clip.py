"""Load any Hugging Face CLIP or SigLIP, or the shipped CLIP. Strict: nothing missing, nothing left over."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from clipdrift.config import ModelConfig
from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.errors import one_line
from clipdrift.model.base import (
    BrokenWeightsError,
    Clip,
    ModelError,
    check_finite,
    logit_bias_of,
    on_side,
)
from clipdrift.model.families import FAMILIES, REFUSED, HalfFamily, ModelFamily
from clipdrift.model.folders import (
    prefix_of_some,
    strange_prefix,
    unmarked,
    why_no_model,
    why_no_towers,
    why_unreadable,
)
from clipdrift.model.openclip_names import is_folder
from clipdrift.model.quiet import quiet
from clipdrift.model.towers import UnsupportedModelError, tower_of

__all__ = [
    "MINI",
    "MINI_PHOTO",
    "SHIPPED",
    "BrokenWeightsError",
    "Clip",
    "ModelError",
    "check_finite",
    "fingerprint_model",
    "load",
    "logit_bias_of",
    "on_side",
    "shipped_folder",
]

MINI = "clipdrift/mini"
MINI_PHOTO = "clipdrift/mini-photo"
SHIPPED = {MINI: "mini", MINI_PHOTO: "mini_photo"}
"""Models that come with the package: name -> folder beside this file."""
OPEN_CLIP = ("open_clip:", "hf-hub:")
"""How names begin that OpenCLIP is asked for, as it writes them itself."""


def shipped_folder(name: str) -> Path:
    """Folder of a shipped model, which ``CLIPModel.from_pretrained`` takes as it is.

    Args:
        name: one of :data:`SHIPPED`.
    """
    return Path(str(resources.files("clipdrift.model") / SHIPPED[name]))


_Read = TypeVar("_Read")


def load(model: str | Path | ModelConfig, donor: Clip | None = None) -> Clip:
    """Load a model by hub id, directory, or the name of a shipped one; works offline from a hub cache.

    Args:
        model: ``openai/clip-vit-base-patch32``, ``google/siglip-base-patch16-224``, ``path/to/folder``,
            ``clipdrift/mini``, ``clipdrift/mini-photo``, a name of OpenCLIP's (``open_clip:...``,
            ``hf-hub:...``), or a ModelConfig.
        donor: whose tokenizer and preprocessing are used where a folder has none, as in the checkpoints of
            a Trainer; :attr:`Clip.notes` says so.

    Raises:
        ModelError: not found (with or without network), of another kind, weights missing, left over, of
            another shape or no numbers, unreadable files, preprocessing of another size than the model's.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig.model_validate(str(model))
    if config.path is not None and config.name == ModelConfig.model_fields["name"].default:
        # a folder was given and no name: errors and notes must not speak of another model
        config = config.model_copy(update={"name": Path(config.path).name})
    if config.path is None and config.name.startswith(OPEN_CLIP):
        return _open_clip(config, config.name)
    if is_folder(folder := Path(config.path or config.name).expanduser()):
        return _open_clip(config, f"open_clip:{folder.absolute()}")
    return from_files(config, lambda place, notes: _load(place, config, donor, notes))


def from_files(config: ModelConfig, read: Callable[[str, list[str]], _Read]) -> _Read:
    """What is read from a model's place, byte order marks in its folder left out.

    Args:
        read: given the place, and notes to add to.
    """
    place = place_of(config)
    if not Path(place).is_dir():
        return read(place, [])
    with unmarked(Path(place)) as (readable, marked):
        notes = [f"{config.name}: a byte order mark before {name} was skipped." for name in marked]
        try:
            return read(str(readable), notes)
        except ModelError as error:  # it may name the copy without marks, which is gone by then
            raise type(error)(str(error).replace(str(readable), place)) from error.__cause__


def _load(place: str, config: ModelConfig, donor: Clip | None, notes: list[str]) -> Clip:
    settings = read_json(place, "config.json", config)
    family = _family(settings.get("model_type"), config)
    if why := why_no_towers(settings):
        raise ModelError(f"{config.name}: {why}")
    lent = donor if donor is not None and Path(place).is_dir() else None
    if lent is not None and not has_any(place, PREPROCESSORS, config):
        preprocessor = lent.preprocessor
        notes.append(f"{config.name} has no preprocessing of its own; that of {lent.name} is used.")
    else:
        preprocessor = read_preprocessor(place, config)
    loaded, _ = read_weights(place, config, family, notes)
    check_finite(loaded, config.name)
    if lent is not None and not has_any(place, VOCABULARIES, config):
        tokenizer = lent.tokenizer
        check_tokenizer(tokenizer, config, family, loaded.config.text_config)
        notes.append(f"{config.name} has no tokenizer of its own; that of {lent.name} is used.")
    else:
        tokenizer = read_tokenizer(place, config, family, loaded.config.text_config)
    try:
        taken = tower_of(loaded).geometry.image_size
        preprocess = Preprocess.from_config({"image_processor_type": family.preprocessing} | preprocessor)
    except (DataError, UnsupportedModelError) as error:
        raise ModelError(f"{config.name}: {error}") from None
    check_size(preprocess, taken, config.name)
    texts = family.texts(loaded, tokenizer)
    return Clip(config.name, loaded, tokenizer, preprocess, preprocessor, texts, tuple(notes))


def companions(model: Any, name: str) -> tuple[Clip | None, Preprocess]:
    """What lies beside the files of a model in memory: a Clip around it, and its preprocessing.

    Args:
        model: live, of transformers.
        name: hub id, folder or the name of a shipped one.

    Returns:
        No Clip where the model has no text tower of its own.

    Raises:
        ModelError, DataError: nothing there, or files that do not belong to the model.
    """
    config = ModelConfig.model_validate(name)
    place = place_of(config)
    settings = read_json(place, "config.json", config)
    kind = str(settings.get("model_type")).replace("_vision_model", "")
    family = _family(kind, config)
    preprocessor = read_preprocessor(place, config)
    preprocess = Preprocess.from_config({"image_processor_type": family.preprocessing} | preprocessor)
    if not hasattr(model, "text_model") or not has_any(place, VOCABULARIES, config):
        return None, preprocess
    tokenizer = read_tokenizer(place, config, family, model.config.text_config)
    texts = family.texts(model, tokenizer)
    return Clip(name, model, tokenizer, preprocess, preprocessor, texts), preprocess


PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer_config.json")


def has_any(place: str, files: tuple[str, ...], config: ModelConfig) -> bool:
    """Whether one of the files lies in the model's directory or, as far as it is at hand, repository."""
    if Path(place).is_dir():
        return any((Path(place) / file).is_file() for file in files)
    return any(
        cached_file(
            place,
            file,
            revision=config.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for file in files
    )


def check_size(preprocess: Preprocess, taken: int, name: str) -> None:
    """Refuse pictures that the image tower cannot take; without a crop a single size fixes one side only."""
    given = preprocess.crop or preprocess.size
    sides = (given, given) if isinstance(given, int) else given
    if sides is not None and sides != (taken, taken):
        said = str(sides[0]) if sides[0] == sides[1] else f"{sides[0]} x {sides[1]}"
        raise ModelError(
            f"{name}: its preprocessing gives images of {said} pixels, the model takes {taken}; set size and "
            "crop_size in preprocessor_config.json, or image_size in config.json, to what the weights are for"
        )


def _open_clip(config: ModelConfig, source: str) -> Clip:
    from clipdrift.model.openclip import load_open_clip  # OpenCLIP need not be installed for anything else

    if config.revision is not None:
        raise ModelError(f"{config.name}: `revision` cannot be chosen for a model that OpenCLIP loads")
    clip = replace(load_open_clip(source), name=config.name)
    clip.model.name_or_path = source  # peft writes it into an adapter's file, as of transformers' models
    check_finite(clip.model, config.name)
    return clip


def _family(kind: object, config: ModelConfig) -> ModelFamily:
    family = FAMILIES.get(str(kind))
    if family is None:
        why = REFUSED.get(str(kind)) or (
            "clipdrift loads Hugging Face CLIP and SigLIP models (model_type 'clip' or 'siglip', such as "
            "openai/clip-vit-base-patch32) and OpenCLIP's (open_clip:... or hf-hub:...)"
        )
        raise ModelError(f"{config.name}: a model of type {kind!r} is not supported; {why}")
    return family


def fingerprint_model(path: str | Path) -> str:
    """Content hash (16 hex digits) of a local model: its configuration, vocabulary and weight files.

    Args:
        path: a folder, or the file of weights itself.
    """
    digest = hashlib.sha256()
    place = Path(path).expanduser()
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        if file == place or file.suffix in (".safetensors", ".json", ".txt", ".bin", ".model"):
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def place_of(config: ModelConfig) -> str:
    """Directory or hub id that transformers is asked for."""
    if config.path is not None:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise ModelError(f"{config.path}: no such folder; give a hub id or a folder with config.json")
        if why := why_no_model(folder):
            raise ModelError(f"{config.path}: {why}")
        return str(folder)
    if config.name in SHIPPED:
        return str(shipped_folder(config.name))
    return config.name


def read_json(place: str, name: str, config: ModelConfig) -> dict[str, Any]:
    """A JSON object beside a model, in its directory or on the hub. Raises ModelError."""
    try:
        file = cached_file(place, name, revision=config.revision)
        if file is None:  # for config.json alone transformers says it so
            raise FileNotFoundError("no such file")
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        if Path(place).is_dir():
            raise ModelError(f"{place}/{name}: missing or unreadable ({one_line(error)})") from None
        raise ModelError(
            f"{config.name}: not found in the local hub cache and not to be had from the hub "
            f"({one_line(error)}); check the name and the network, or give a folder"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(f"{place}/{name}: not a JSON object")
    return content


def read_preprocessor(place: str, config: ModelConfig) -> dict[str, Any]:
    """Older and newer transformers keep it in different files."""
    try:
        return read_json(place, "preprocessor_config.json", config)
    except ModelError as first:
        try:
            found = read_json(place, "processor_config.json", config).get("image_processor")
        except ModelError:
            raise first from None
        if not isinstance(found, dict):
            raise ModelError(f"{config.name}: processor_config.json has no image_processor") from None
        return found


def read_weights(
    place: str,
    config: ModelConfig,
    family: ModelFamily | HalfFamily,
    notes: list[str],
    may_lack: Collection[str] = (),
) -> tuple[Any, frozenset[str]]:
    """Load a model strictly, in float32 and eval mode.

    Args:
        place: directory or hub id.
        family: its class and what people call it.
        notes: what was done to read it is added here.
        may_lack: weights that need not be there.

    Returns:
        The model, and which of ``may_lack`` it lacks: those hold random numbers.

    Raises:
        ModelError: weights missing, left over or of another shape, unreadable files.
    """
    renamed: dict[str, Any] = {}
    if Path(place).is_dir():
        if why := why_unreadable(Path(place)):
            raise ModelError(f"{config.name}: the weights cannot be loaded: {why}")
        if prefix := strange_prefix(Path(place)):
            renamed = {"key_mapping": {f"^{re.escape(prefix)}": ""}}
            notes.append(f"{config.name}: every weight's name began with {prefix}, which was left out.")
    try:
        with quiet():
            model, report = family.model.from_pretrained(
                place,
                revision=config.revision,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report below names all of them
                **renamed,
            )
    except Exception as error:  # transformers raises many kinds here; none may pass as a traceback
        raise ModelError(f"{config.name}: the weights cannot be loaded: {one_line(error)}") from error
    # saved by older releases as weights though they are only a range; transformers rebuilds them
    unexpected = {k for k in report["unexpected_keys"] if not k.endswith("position_ids")}
    mismatched = {str(k[0]) if isinstance(k, tuple) else str(k) for k in report["mismatched_keys"]}
    if some := prefix_of_some(unexpected, report["missing_keys"]):
        prefix, count = some
        raise ModelError(
            f"{config.name}: {prefix} is in the names of {count} weights and not of the others; take it "
            "out of them, or save the whole model again"
        )
    lacking = frozenset(report["missing_keys"]) & set(may_lack)
    for label, keys in (
        ("of another shape than config.json says", mismatched),
        ("missing", set(report["missing_keys"]) - lacking),
        (f"that no {family.title} has", unexpected),
    ):
        if keys:
            raise ModelError(f"{config.name}: {len(keys)} weights {label}, for example {min(keys)}")
    return model.eval(), lacking


def read_tokenizer(
    place: str, config: ModelConfig, family: ModelFamily, text: Any
) -> PreTrainedTokenizerBase:
    """Load a tokenizer and check that it belongs to the text tower of configuration ``text``.

    Raises:
        ModelError: it is not there, or it does not.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, revision=config.revision)
    except ImportError as error:  # SigLIP's vocabulary is SentencePiece's
        missing = one_line(error).partition(". ")[0]
        raise ModelError(f"{config.name}: {missing}; pip install sentencepiece protobuf") from None
    except Exception as error:  # as with the weights, a broken file raises many kinds
        raise ModelError(f"{config.name}: its tokenizer cannot be loaded: {one_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    check_tokenizer(tokenizer, config, family, text)
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: ModelConfig, family: ModelFamily, text: Any
) -> None:
    """Refuse a tokenizer that does not belong to the text tower of configuration ``text``."""
    # transformers makes one of special tokens alone where the files are missing
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"{config.name}: its tokenizer has no vocabulary; is {family.vocabulary} missing?")
    if len(tokenizer) > text.vocab_size:
        raise ModelError(
            f"{config.name}: its tokenizer has {len(tokenizer)} tokens, its text tower knows "
            f"{text.vocab_size}; they are of different models"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{config.name}: its tokenizer has no padding token; set pad_token in its files")
    # transformers' CLIP pools at the first end token or, by the id 2 of older files, at the largest id
    pooled = text.eos_token_id
    if family.pools_at_end and pooled not in (2, tokenizer.eos_token_id):
        raise ModelError(
            f"{config.name}: config.json pools texts at token {pooled}, its tokenizer ends them with "
            f"{tokenizer.eos_token_id}; set text_config.eos_token_id to that"
        )
