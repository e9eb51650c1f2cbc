"""The configuration's parts as frozen pydantic models. Field descriptions are the documentation.

Defaults follow the strict protocol. Fields marked ``machine`` name places or speed on one machine; they
never change a result and so do not enter the run's key.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1
"""Raised when the meaning of a key or a default changes; part of every run key."""

_MACHINE: dict[str, Any] = {"machine": True}


class Frozen(BaseModel):
    """Base of all parts: immutable, strict about unknown keys, no nan or inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


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
        None, description="A local copy; used instead of the hub.", json_schema_extra=_MACHINE
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
    """The backbone: a Hugging Face CLIP by hub id or directory, or `clipdrift/mini`, which is shipped."""

    name: str = Field(
        "openai/clip-vit-base-patch32", min_length=1, description="Hub id, directory, clipdrift/mini."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")


class DataSet(_Named):
    """One data set: a catalog row, a hub id, a folder, or a generated world. Set only what a row lacks."""

    name: str = Field(min_length=1, description="Catalog row (`clipdrift ls datasets`), hub id or folder.")
    image_column: str | None = Field(None, description="Column of the images (hub data sets without a row).")
    label_column: str | None = Field(None, description="Column of the labels.")
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
        description="Use this many test images of each class (transfer sets), chosen by the data seed.",
    )

    @model_validator(mode="after")
    def _templates(self) -> Self:
        for prompt in self.prompts or ():
            if prompt.count("{}") != 1:
                raise ValueError(f"prompt {prompt!r} must contain {{}} exactly once, for the class name")
        return self


class DataConfig(Frozen):
    """What is fine-tuned on, what is tested zero-shot, and how images are divided."""

    target: DataSet = Field(DataSet(name="eurosat"), description="The data set fine-tuned on.")
    transfer: tuple[DataSet, ...] = Field(
        (DataSet(name="cifar100"),), description="Data sets tested zero-shot before and after."
    )
    protocol: Literal["strict", "published"] = Field(
        "strict",
        description="strict: validation and probe carved from the training split, test read once. published: "
        "validation is the test split, for comparison with published values only.",
    )
    seed: int = Field(0, ge=0, description="Seed of the division, apart from the run's seed.")
    train_per_class: int | None = Field(
        None, ge=1, description="Training images of each class; none: all left."
    )
    validation_per_class: int | None = Field(
        None, ge=1, description="Validation images of each class; none: a tenth of the class."
    )
    probe_per_class: int | None = Field(
        None, ge=1, description="Probe images of each class; none: 200 over all classes, rounded up."
    )
    flip: bool = Field(True, description="Mirror half of the training images at random.")
    skip_bad_images: bool = Field(
        False, description="Leave out unreadable images, count and list them in the record."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_target(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("target"), dict):
            return value | {"target": {"name": "eurosat"} | value["target"]}
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [t.name for t in self.transfer]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"transfer names {name!r} twice")
        if self.protocol == "published" and self.validation_per_class is not None:
            raise ValueError(
                "validation_per_class has no meaning under the published protocol (it is the test split)"
            )
        return self


class FullFineTuning(Frozen):
    """Image tower, visual projection and head are trained."""

    name: Literal["full_ft"]


Target = Literal["q", "k", "v", "out", "mlp"]


class Lora(Frozen):
    """Low-rank adapters (peft) in the image tower; its own weights stay as they are."""

    name: Literal["lora"]
    rank: int = Field(8, ge=1, description="Rank r of the adapters.")
    alpha: float | None = Field(
        None, gt=0, description="Scale numerator (the update is alpha/r B A); none: 2 x rank."
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapters' input.")
    targets: tuple[Target, ...] = Field(("q", "v"), min_length=1, description="Matrices that get an adapter.")
    train_projection: bool = Field(True, description="Train the visual projection in full.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets names a matrix twice: {', '.join(self.targets)}")
        return self


class LinearProbe(Frozen):
    """Only the head is trained."""

    name: Literal["linear_probe"]


Method = Annotated[FullFineTuning | Lora | LinearProbe, Field(discriminator="name")]


class OptimConfig(Frozen):
    """AdamW with linear warm-up, then cosine to zero."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of all steps spent on the linear warm-up.")
    clip_norm: float | None = Field(
        1.0, gt=0, description="Largest gradient norm; write 'none' to switch off."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Training precision. auto: bf16 autocast on a GPU that has it, else fp32."
    )

    @model_validator(mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("clip_norm") == "none":
            return value | {"clip_norm": None}
        return value


class EvaluationConfig(Frozen):
    """What is measured, and when. Measuring is always in float32."""

    batch_size: int | None = Field(
        None,
        ge=1,
        description="Images per forward pass; none: by the number of tokens. No number depends on it.",
        json_schema_extra=_MACHINE,
    )
    per_epoch: int = Field(
        1, ge=1, description="How often within an epoch internals are measured (dense option)."
    )
    epoch_transfer_per_class: int = Field(
        0,
        ge=0,
        description="After each epoch, test zero-shot on this many images per class; 0: at the end only.",
    )
    prompt_ensemble: bool = Field(
        False, description="Average text features over all templates, not the first alone."
    )


class RunConfig(Frozen):
    """One fine-tuning, complete. Its :attr:`key` names the run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: Method = FullFineTuning(name="full_ft")
    optim: OptimConfig = OptimConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(42, ge=0, description="Seed of the head, dropout, order and flips.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        method = value.get("method", {})
        if isinstance(method, str):
            method = {"name": method}
        if isinstance(method, dict):  # options alone belong to the default method
            value = value | {"method": {"name": "full_ft"} | method}
        return value

    @property
    def key(self) -> str:
        """16 hex digits: the hash of everything that can change the result.

        Keys at their default are left out, so that an option added later does not rename older runs;
        ``SCHEMA`` is part of it for the day that a default's meaning changes.
        """
        content = {"schema": SCHEMA, **_result_keys(self)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _result_keys(part: BaseModel) -> dict[str, Any]:
    """The part as plain data without machine fields and without defaults (a name is always kept)."""
    out: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("machine"):
            continue
        plain = _plain(value)
        # compared after machine fields are gone: one of them, deep inside, must not bring its table back
        if name != "name" and not field.is_required() and plain == _plain(field.default):
            continue
        out[name] = plain
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _result_keys(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
