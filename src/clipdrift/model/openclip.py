"""Load OpenCLIP's models by name: from its list, from a checkpoint, from a folder, from the hub.

OpenCLIP builds the model; its weights are put in here, since its own loading may leave random weights or
stretch position embeddings and say so in the log alone. Any release from 2.30 on will do.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.errors import one_line
from clipdrift.model.base import Clip, ModelError
from clipdrift.model.openclip_names import OpenClipSource, Reason, source_of
from clipdrift.model.quiet import quiet
from clipdrift.model.texts import counted
from clipdrift.model.towers import UnsupportedModelError, tower_of
from clipdrift.model.towers.openclip import NOT_READ

_PREPROCESSING = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""OpenCLIP's, where a model does not say."""

_RESIZING: dict[str, Callable[[int], dict[str, Any]]] = {
    "shortest": lambda side: {"size": {"shortest_edge": side}, "do_center_crop": True},
    "squash": lambda side: {"size": {"height": side, "width": side}, "do_center_crop": False},
}
_RESAMPLE = {"bicubic": 3, "bilinear": 2, "random": 3}
"""Pillow's filters. One that is random in training is bicubic in use."""


@dataclass(frozen=True, eq=False)
class OpenClipTexts:
    """OpenCLIP's text encoder: every text is filled up or cut off to the tower's full length."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self.embed(texts)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As a call, with gradient."""
        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        found: Tensor = self.model.encode_text(tokens)
        return found

    @property
    def longest(self) -> int:
        return int(self.tokenizer.context_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut, with those that mark its beginning and end."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:  # one of Hugging Face's
            return counted(inner, [self.tokenizer.clean_fn(text) for text in texts])
        return [len(self.tokenizer.encode(text)) + 2 for text in texts]


def load_open_clip(name: str) -> Clip:
    """Load an OpenCLIP model, in float32 and eval mode; strict: nothing missing, left over or resized.

    Images are prepared as the tag, the folder or the repository says, and as for OpenAI's CLIP where a
    checkpoint is given as a file. The centre crop is transformers', which at some shapes of pictures lies one
    pixel beside torchvision's.

    Args:
        name: ``open_clip:ViT-B-32/laion2b_s34b_b79k`` (architecture and tag, as in
            ``open_clip.list_pretrained()``), ``open_clip:ViT-B-32/path/to/checkpoint.pt`` (architecture and
            file; after a second slash an absolute path), ``open_clip:./folder`` or ``open_clip:/folder``
            (with open_clip_config.json), ``hf-hub:organisation/repository``.

    Raises:
        ModelError: OpenCLIP is not installed; an unknown architecture or tag; a tag whose weights were
            trained with QuickGELU for an architecture without; an image tower that cannot be read; weights
            missing, left over, of another shape, not to be had, or in a file that holds more than weights.
    """
    try:
        library = _library()
        source = source_of(name, library)
        model = _built(library, source.config)
        tower = tower_of(model)  # before anything is downloaded
        preprocessor = _preprocessor(tower.geometry.image_size, source.preprocessing)
        preprocess = Preprocess.from_config(preprocessor)
        tokenizer = _tokenizer(library, model, source)
        _fill(model, source.weights())
    except (Reason, DataError, UnsupportedModelError) as error:
        raise ModelError(f"{name}: {error}") from error.__cause__
    texts = OpenClipTexts(model, tokenizer)
    files = {"model_cfg": source.config, "preprocess_cfg": _own(source.preprocessing)}
    return Clip(name, model, tokenizer, preprocess, preprocessor, texts, files=files)


def _own(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenCLIP writes into a folder of a model's preprocessing; a tag says more."""
    keys = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
    return {key: preprocessing[key] for key in keys if preprocessing.get(key) is not None}


def _library() -> Any:
    try:
        return importlib.import_module("open_clip")
    except Exception as error:  # a torchvision that does not fit raises other kinds than ImportError
        raise Reason(
            f'OpenCLIP cannot be imported ({one_line(error)}); pip install "clipdrift[open-clip]"'
        ) from None


def _built(library: Any, config: dict[str, Any]) -> Any:
    """The model with random weights, of the class that OpenCLIP would take."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        raise Reason(NOT_READ["CoCa"])
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False  # would be fetched, only to be replaced
    by_hugging_face = "hf_model_name" in text
    if by_hugging_face:
        text["hf_model_pretrained"] = False  # would be fetched, only to be replaced
    custom = config.pop("custom_text", False) or by_hugging_face
    make = library.CustomTextCLIP if custom else library.CLIP
    try:
        with quiet():
            if vision.get("timm_model_name"):  # a large one is refused before its weights are drawn
                with torch.device("meta"):
                    tower_of(make(**copy.deepcopy(config)))
            return make(**config).eval()
    except UnsupportedModelError:
        raise
    except Exception as error:  # a configuration may be wrong in any way
        raise Reason(f"OpenCLIP cannot build it: {one_line(error)}") from error


def _tokenizer(library: Any, model: Any, source: OpenClipSource) -> Any:
    text = source.config["text_cfg"]
    options = {"context_length": text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})}
    if mode := text.get("tokenizer_mode"):
        options["tokenizer_mode"] = mode
    named = text.get("hf_tokenizer_name")
    try:
        if named:
            with quiet():
                tokenizer = library.tokenizer.HFTokenizer(str(source.folder or named), **options)
                tokenizer(["tried"])  # before release 3.3 it calls what transformers 5 has not
                return tokenizer
        tokenizer = library.SimpleTokenizer(**options)
    except Exception as error:  # missing files and options of other releases alike
        raise Reason(f"its tokenizer cannot be used: {one_line(error)}") from error
    if tokenizer.vocab_size > model.vocab_size:
        raise Reason(
            f"OpenCLIP's tokenizer has {tokenizer.vocab_size} tokens, the text tower knows "
            f"{model.vocab_size}; name the model's own in hf_tokenizer_name"
        )
    return tokenizer


def _fill(model: Any, file: Path) -> None:
    """Put the weights in, all and no others."""
    state, own = _state(file), model.state_dict()
    if "text.positional_embedding" in own and "positional_embedding" in state:  # CustomTextCLIP saved as CLIP
        kept = ("visual.", "logit_")
        state = {name if name.startswith(kept) else f"text.{name}": weight for name, weight in state.items()}
    for name in ("logit_scale", "logit_bias"):  # of shape (1,) in some files
        if name in own and name in state and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    wrong = {
        f"{name}: {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in state.keys() & own.keys()
        if state[name].shape != own[name].shape
    }
    for label, names in (
        ("of another shape than the architecture's", wrong),
        ("missing", own.keys() - state.keys()),
        ("that the architecture has not", state.keys() - own.keys()),
    ):
        if names:
            raise Reason(f"{file.name}: {len(names)} weights {label}, for example {min(names)}")
    model.load_state_dict(state)


def _state(file: Path) -> dict[str, Tensor]:
    """Weights by name, from a state dict or from a checkpoint of OpenCLIP's training."""
    if _is_torchscript(file):
        raise Reason(
            f"{file.name}: a TorchScript archive, which is code and is not run; save the state dict of what "
            "torch.jit.load makes of it, or say a tag"
        )
    try:
        load = load_file if file.suffix == ".safetensors" else _unpickled
        found: Any = load(file)
    except pickle.UnpicklingError:  # torch's own text advises to run what is in the file
        raise Reason(
            f"{file.name}: no file of plain weights: broken, or with pickled code in it, which is not run"
        ) from None
    except Exception as error:  # torch, safetensors and zipfile raise many kinds
        raise Reason(
            f"{file.name}: cannot be read as weights ({type(error).__name__}: {one_line(error)})"
        ) from error
    if isinstance(found, dict) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise Reason(f"{file.name}: no state dict, and no checkpoint with one under 'state_dict'")
    weights = {str(name).removeprefix("module."): weight for name, weight in found.items()}
    # saved by older transformers as a weight though it is only a range
    return {name: weight for name, weight in weights.items() if not name.endswith(".position_ids")}


def _is_torchscript(file: Path) -> bool:
    """Tell TorchScript archives, as OpenAI published its models; torch would warn before it refuses."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unpickled(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _preprocessor(side: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as transformers writes it into preprocessor_config.json."""
    said = _PREPROCESSING | {key: value for key, value in given.items() if value is not None}
    mode, interpolation = said["resize_mode"], said["interpolation"]
    if mode not in _RESIZING:
        raise Reason(f"images are resized by {mode!r}, which is not supported; {' and '.join(_RESIZING)} are")
    if interpolation not in _RESAMPLE:
        raise Reason(f"images are resized by {interpolation!r}; {', '.join(_RESAMPLE)} are supported")
    return {
        "image_processor_type": "CLIPImageProcessor",
        **_RESIZING[mode](side),
        "crop_size": {"height": side, "width": side},
        "resample": _RESAMPLE[interpolation],
        "image_mean": said["mean"],
        "image_std": said["std"],
    }
