"""What a model in memory lacks to be read: its tokenizer and preprocessing, found where its files lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, ModelError, companions
from clipdrift.model.families import FAMILIES

_BY_CLASS = {"CLIPModel": "clip", "SiglipModel": "siglip"}


def clip_around(model: nn.Module, processor: object) -> tuple[Clip | None, object]:
    """A Clip around a live model, and what is known of its preprocessing.

    Args:
        processor: transformers' processor of both, its tokenizer or its image processor, a Preprocess, a Clip
            whose tokenizer and preprocessing hold here too, a name or folder where those lie; None: where the
            model was loaded from.

    Returns:
        The Clip, None where the model has no text tower or no tokenizer is known; the preprocessing, None
        where none is known.
    """
    if isinstance(processor, Clip):
        return _borrowed(model, processor), processor.preprocess
    place = processor if isinstance(processor, str) else getattr(model, "name_or_path", "")
    found = None
    if isinstance(processor, str) or (processor is None and place):
        try:
            found = companions(model, str(place))
        except (ModelError, DataError):
            if isinstance(processor, str):
                raise
    if found is not None:
        clip, preprocess = found
        return (clip if _family(model) else None), preprocess
    tokenizer: Any = getattr(processor, "tokenizer", None) if isinstance(processor, ProcessorMixin) else None
    if isinstance(processor, PreTrainedTokenizerBase):
        tokenizer, processor = processor, None
    family = _family(model)
    if tokenizer is None or family is None:
        return None, processor
    texts = FAMILIES[family].texts(model, tokenizer)
    blank = Preprocess.from_config({"image_processor_type": FAMILIES[family].preprocessing})
    return Clip(type(model).__name__, model, tokenizer, blank, {}, texts), processor


def bound(clip: Clip, model: nn.Module) -> Clip:
    """A Clip around another model of the same kind: its texts are encoded by that."""
    if clip.model is model:
        return clip
    encoder: Any = clip.texts
    return replace(clip, model=model, texts=replace(encoder, model=model))


def _borrowed(model: nn.Module, clip: Clip) -> Clip | None:
    """Another Clip's tokenizer around this model, where it has a text tower of the same kind."""
    if not _same_kind(model, clip.model):
        return None
    return bound(clip, model)


def _same_kind(one: object, other: object) -> bool:
    kinds = {kind.__name__ for kind in type(one).__mro__}
    return type(other).__name__ in kinds and (_family(other) is not None or type(one) is type(other))


def _family(model: object) -> str | None:
    return next((_BY_CLASS[k.__name__] for k in type(model).__mro__ if k.__name__ in _BY_CLASS), None)
