"""What is found by a name or under a path: the backbone and data sets."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from clipdrift.config.base import MACHINE, Frozen


def _name_or_path(value: object) -> object:
    """``"./some/folder"`` is short for a name (the folder's) and a path; any other string is a name."""
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "./", "../", "~")) or value in (".", ".."):
        return {"name": PurePath(value).name or value, "path": value}
    return {"name": value}


class _Named(Frozen):
    """Something found by a name or, on this machine, under a path."""

    name: str = Field(min_length=1)
    path: str | None = Field(
        None, description="A local copy; used instead of the hub.", json_schema_extra=MACHINE
    )
    fingerprint: str | None = Field(
        None,
        description="Content hash of a local copy, filled in when the run starts; part of the run's key.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return _name_or_path(value)


class ModelConfig(_Named):
    """The backbone: a Hugging Face CLIP by hub id or directory, or one that is shipped:
    `clipdrift/mini`, `clipdrift/mini-photo`."""

    name: str = Field(
        "openai/clip-vit-base-patch32",
        min_length=1,
        description="Hub id, directory, clipdrift/mini, clipdrift/mini-photo.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")


class DataSet(_Named):
    """One data set: a catalog row, a hub id, a folder, or a generated world. Set only what a row lacks."""

    name: str = Field(min_length=1, description="Catalog row (`clipdrift ls datasets`), hub id or folder.")
    image_column: str | None = Field(None, description="Column of the images (hub data sets without a row).")
    label_column: str | None = Field(None, description="Column of the labels.")
    caption_column: str | None = Field(None, description="Column of the captions, of pictures with captions.")
    train_split: str | None = Field(None, description="Name of the training split.")
    test_split: str | None = Field(None, description="Name of the test split.")
    classes: tuple[str, ...] | None = Field(None, description="Readable class names, in label order.")
    prompts: tuple[str, ...] | None = Field(
        None,
        description="Prompt templates with one {}; the first alone is used unless an ensemble is asked for.",
    )
    per_class: int | None = Field(
        None,
        ge=1,
        description="Use this many test images of each class (transfer sets), chosen by the data seed; in a "
        "pretraining so many training images, of which a generated world draws what it is asked for.",
    )
    skip_per_class: int | None = Field(
        None,
        ge=1,
        description="Leave out the test images (transfer sets) that per_class of this number would use.",
    )
    retrieval: bool = Field(
        False, description="A transfer set of images with captions, tested by retrieval instead of zero-shot."
    )

    @model_validator(mode="after")
    def _templates(self) -> Self:
        for prompt in self.prompts or ():
            if prompt.count("{}") != 1:
                raise ValueError(f"prompt {prompt!r} must contain {{}} exactly once, for the class name")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not skipped: such runs are written as they were before anything could be."""
        data: dict[str, Any] = written(self)
        if self.skip_per_class is None:
            data.pop("skip_per_class", None)
        return data
