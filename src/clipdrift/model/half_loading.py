"""Load half a model from files: an image tower or a text tower alone, an image classifier with its head."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from clipdrift.config import ModelConfig
from clipdrift.data.errors import DataError
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.base import ModelError, check_finite
from clipdrift.model.clip import (
    OPEN_CLIP,
    PREPROCESSORS,
    SHIPPED,
    VOCABULARIES,
    check_size,
    from_files,
    has_any,
    place_of,
    read_json,
    read_preprocessor,
    read_tokenizer,
    read_weights,
)
from clipdrift.model.families import FAMILIES, HALF_FAMILIES, HalfFamily
from clipdrift.model.halves import ImageHalf, TextHalf, half_of, text_half_of

Kind = Literal["image tower", "text tower", "image classifier"]
_ARTICLES: dict[Kind, str] = {
    "image tower": "an image tower alone",
    "text tower": "a text tower alone",
    "image classifier": "an image classifier",
}


@dataclass(frozen=True, eq=False)
class Classifier:
    """An image classifier: a live model of transformers with a head, and the names of its classes.

    Attributes:
        model: gives ``logits`` (B, C) of normalised images.
        classes: names by output; ``LABEL_0`` and so on where the file has none.
        preprocess: that its own files ask for; None: they have none.
        in_memory: it belongs to somebody else.
    """

    model: Any
    classes: tuple[str, ...]
    preprocess: Preprocess | None = None
    in_memory: bool = False


@dataclass(frozen=True, eq=False)
class Half:
    """Half a model, ready to be completed by a whole one.

    Attributes:
        name: as it was given.
        kind: what it is.
        title: its class, as people call it.
        view: its tower, through which its weights are read.
        classifier: whose tower it is; None: no classifier's.
        tokenizer: of a text tower, where its files have one.
        preprocess, preprocessor: of an image tower, where its files have one, and as the file says it.
        in_memory: it belongs to somebody else.
        interpolated_from: image size in pixels that its positions were made for, where they have been
            interpolated to another.
        notes: what was done to read it that a reader should know.
    """

    name: str
    kind: Kind
    title: str
    view: ImageHalf | TextHalf
    classifier: Classifier | None = None
    tokenizer: Any = None
    preprocess: Preprocess | None = None
    preprocessor: dict[str, Any] = field(default_factory=dict)
    in_memory: bool = False
    interpolated_from: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def article(self) -> str:
        """What it is, in words."""
        return _ARTICLES[self.kind]


def half_kind(name: str | Path) -> HalfFamily | None:
    """What half of a model lies under a name, told from its config.json; None: none, or nothing is there."""
    config = ModelConfig.model_validate(str(name))
    if config.path is None and (config.name in SHIPPED or config.name.startswith(OPEN_CLIP)):
        return None
    try:
        return _family(read_json(place_of(config), "config.json", config))
    except ModelError:  # whoever loads it as a whole model says so
        return None


def load_half(name: str | Path) -> Half | None:
    """Load half a model by hub id or folder; strict, as :func:`clipdrift.model.clip.load`.

    Returns:
        None where what lies there is no half.

    Raises:
        ModelError: weights missing, left over, of another shape or no numbers, unreadable files.
    """
    family = half_kind(name)
    if family is None:
        return None
    config = ModelConfig.model_validate(str(name))
    half = from_files(config, lambda place, notes: _load(place, config, family, notes))
    return replace(half, name=str(name))


def half_in_memory(model: nn.Module, name: str) -> Half | None:
    """A live half: a tower without projection or an image classifier of transformers; None: no such class."""
    title = type(model).__name__
    view: ImageHalf | TextHalf | None = half_of(model)
    if view is None:
        view = text_half_of(model)
        return None if view is None else Half(name, "text tower", title, view, in_memory=True)
    if not title.endswith("ForImageClassification"):
        return Half(name, "image tower", title, view, in_memory=True)
    head = Classifier(model, _classes(model), in_memory=True)
    return Half(name, "image classifier", title, view, head, in_memory=True)


def _family(settings: dict[str, Any]) -> HalfFamily | None:
    kinds = settings.get("architectures")
    for kind in kinds if isinstance(kinds, list) else ():
        if str(kind).endswith("ForImageClassification") and str(kind) in HALF_FAMILIES:
            return HALF_FAMILIES[str(kind)]
    return HALF_FAMILIES.get(str(settings.get("model_type")))


def _load(place: str, config: ModelConfig, family: HalfFamily, notes: list[str]) -> Half:
    whole = FAMILIES[family.family]
    optional = (family.projection,) if family.projection else ()
    model, lacking = read_weights(place, config, family, notes, optional)
    check_finite(model, config.name)
    if family.side == "text tower":
        text = text_half_of(model)
        assert text is not None
        view = TextHalf(text.text_model, text.kind) if lacking else text
        there = has_any(place, VOCABULARIES, config)
        tokenizer = read_tokenizer(place, config, whole, view.config.text_config) if there else None
        return Half(config.name, "text tower", family.title, view, None, tokenizer, notes=tuple(notes))
    image = _image_view(model, family, lacking, config)
    preprocessor, preprocess = {}, None
    if has_any(place, PREPROCESSORS, config):
        preprocessor = read_preprocessor(place, config)
        try:
            kind = FAMILIES[image.kind].preprocessing
            preprocess = Preprocess.from_config({"image_processor_type": kind} | preprocessor)
        except DataError as error:
            raise ModelError(f"{config.name}: {error}") from None
        check_size(preprocess, int(image.config.image_size), config.name)
    if family.left_out:
        notes.append(
            f"{config.name}: its {family.left_out}, of another joint space than BASE's, are left out."
        )
    head = "classifier" in dict(model.named_children())
    return Half(
        config.name,
        "image classifier" if head else "image tower",
        family.title,
        image,
        Classifier(model, _classes(model), preprocess) if head else None,
        preprocess=preprocess,
        preprocessor=preprocessor,
        notes=tuple(notes),
    )


def _image_view(model: Any, family: HalfFamily, lacking: frozenset[str], config: ModelConfig) -> ImageHalf:
    """The image tower in what was loaded, with its projection where that leads into a CLIP's joint space."""
    if (view := half_of(model)) is not None:
        return view
    view = half_of(model.vision_model)
    if view is None:  # a VisionTextDualEncoder takes any image tower
        kind = type(model.vision_model).__name__
        raise ModelError(
            f"{config.name}: its image tower is a {kind}; only those of CLIP and SigLIP can be read"
        )
    own = family.projection and not lacking
    return ImageHalf(view.vision_model, view.kind, model.visual_projection) if own else view


def _classes(model: Any) -> tuple[str, ...]:
    names = model.config.id2label
    return tuple(str(names.get(i, f"LABEL_{i}")) for i in range(int(model.config.num_labels)))
