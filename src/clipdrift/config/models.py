"""Configuration of a run as frozen pydantic models. Field descriptions are the documentation.

Defaults follow the strict protocol. Fields marked ``machine`` name places or speed on one machine; they
never change a result and so do not enter the run's key.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from clipdrift.config.base import Frozen
from clipdrift.config.methods import FullFineTuning, Method
from clipdrift.config.penalties import Penalty

SCHEMA = 1
"""Raised when the meaning of a key or a default changes; part of every run key."""

_MACHINE: dict[str, Any] = {"machine": True}


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


class OptimConfig(Frozen):
    """AdamW with linear warm-up, then cosine to zero."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Images at a time in memory, where a batch is too many: gradients are summed over its "
        "parts. The result is the same to rounding; where there is dropout, other units are dropped.",
        json_schema_extra=_MACHINE,
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of all steps spent on the linear warm-up.")
    clip_norm: float | None = Field(
        1.0, gt=0, description="Largest gradient norm; write 'none' to switch off."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Training precision. auto: bf16 autocast on a GPU that has it, else fp32."
    )
    keep_frozen: bool = Field(
        True,
        description="Compute what lies before the first trained block once per image and mirror image, and "
        "keep it. The result is the same to rounding.",
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
    shown_images: int = Field(
        4,
        ge=0,
        description="Keep attention of so many probe images, before and after, for pictures (maps.npz).",
        json_schema_extra=_MACHINE,
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
    penalty: tuple[Penalty, ...] = Field(
        (), description="Extra loss terms: a name, a table, or a list of them; none: plain loss."
    )
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
        penalty = value.get("penalty")
        if penalty is not None:
            several = [penalty] if isinstance(penalty, str | dict) else penalty
            if isinstance(several, list | tuple):
                named = tuple({"name": one} if isinstance(one, str) else one for one in several)
                value = value | {"penalty": named}
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [penalty.name for penalty in self.penalty]
        if self.method.name == "linear_probe" and names:
            raise ValueError(
                f"penalty {names[0]} with method linear_probe: only the head is trained, so the image tower, "
                "which every penalty holds near the backbone, does not move; leave one of them out"
            )
        if (
            self.method.name == "flyp"
            and (self.optim.micro_batch or self.optim.batch_size) < self.optim.batch_size
        ):
            raise ValueError(
                "optim.micro_batch with method flyp: its loss contrasts the images of a batch with one "
                "another, so a batch cannot be done in parts; a smaller optim.batch_size is another run"
            )
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"penalty names {name!r} twice")
        if self.model.name.startswith(("open_clip:", "hf-hub:")):
            what = "dora on OpenCLIP attention" if self.method.name == "dora" else self.method.name
            raise ValueError(
                f"model {self.model.name}: {what} is not possible: that attention keeps queries, keys and "
                "values in one matrix that no method here reaches; OpenCLIP models can be measured and "
                "compared, and trained once they are converted to transformers' CLIPModel"
            )
        return self

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
