"""Configuration of a run as frozen pydantic models. Field descriptions are the documentation.

Defaults follow the strict protocol. Fields marked ``machine`` name places or speed on one machine; they
never change a result and so do not enter the run's key.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from clipdrift.config.base import MACHINE, Frozen
from clipdrift.config.methods import FullFineTuning, LogitScale, Method
from clipdrift.config.named import DataSet, ModelConfig
from clipdrift.config.objectives import (
    Classification,
    ContrastiveObjective,
    NoTask,
    Objective,
    why_not_contrastive,
    why_not_without_task,
    why_not_zero_shot,
)
from clipdrift.config.penalties import Penalty, held
from clipdrift.config.rules import RulesConfig

SCHEMA = 1
"""Raised when the meaning of a key or a default changes; part of every run key."""


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
    train_images: int | None = Field(
        None, ge=2, description="Of images with captions: so many for training; none: all left."
    )
    validation_images: int | None = Field(
        None, ge=2, description="Of images with captions: so many for validation; none: a tenth."
    )
    probe_images: int | None = Field(
        None,
        ge=4,
        description="Of images with captions: so many in the probe set; none: 200 or a tenth.",
    )
    test_images: int | None = Field(
        None, ge=2, description="Of images with captions: so many for the test; none: all, or a tenth."
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
        json_schema_extra=MACHINE,
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
        json_schema_extra=MACHINE,
    )
    per_epoch: int = Field(
        1, ge=1, description="How often within an epoch internals are measured (dense option)."
    )
    at: Literal["dense"] | tuple[float, ...] = Field(
        (),
        description="Steps after which internals are measured besides: shares of the training, as "
        "[0.01, 0.02, 0.05, 0.1], rounded down to whole steps from the first on; or 'dense': after 1, 2, "
        "4, 8 ... steps.",
    )
    shown_images: int = Field(
        4,
        ge=0,
        description="Keep attention of so many probe images, before and after, for pictures (maps.npz).",
        json_schema_extra=MACHINE,
    )
    epoch_transfer_per_class: int = Field(
        0,
        ge=0,
        description="After each epoch, test zero-shot on this many images per class; 0: at the end only.",
    )
    transfer_at: Literal["epochs", "looks"] = Field(
        "epochs",
        description="When zero-shot is tested on epoch_transfer_per_class images: after each epoch, or "
        "whenever internals are measured.",
    )
    prompt_ensemble: bool = Field(
        False, description="Average text features over all templates, not the first alone."
    )
    least_retention: float | None = Field(
        None,
        gt=0,
        description="Choose among the epochs that keep this much (percent) of zero-shot accuracy on every "
        "transfer set, as far as it is tested after each epoch; none: the best on validation.",
    )

    @field_validator("at", mode="before")
    @classmethod
    def _shares(cls, value: object) -> object:
        several: list[Any] = [*value] if isinstance(value, list | tuple) else [value]
        numbers = [isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= 1 for v in several]
        if value != "dense" and not all(numbers):
            raise ValueError("shares of the training above 0 and up to 1, as [0.01, 0.1], or 'dense'")
        return value if value == "dense" else tuple(sorted({float(v) for v in several}))

    @model_validator(mode="after")
    def _tested(self) -> Self:
        if self.least_retention is not None and not self.epoch_transfer_per_class:
            raise ValueError(
                "least_retention needs retention after each epoch: set epoch_transfer_per_class too"
            )
        if self.transfer_at == "looks" and not self.epoch_transfer_per_class:
            raise ValueError("transfer_at = 'looks' needs images to test: set epoch_transfer_per_class too")
        return self


class RunConfig(Frozen):
    """One fine-tuning, complete. Its :attr:`key` names the run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: Method = FullFineTuning(name="full_ft")
    penalty: tuple[Penalty, ...] = Field(
        (), description="Extra loss terms: a name, a table, or a list of them; none: plain loss."
    )
    objective: Objective = Field(
        Classification(name="classification"),
        description="What is learnt: from labels, from captions, or nothing.",
    )
    head: Literal["linear", "zero_shot"] = Field(
        "linear",
        description="What the classifier begins as. linear: drawn at random from the seed, on the projected "
        "embedding. zero_shot: the texts of the target's classes times the logit scale, on the normalised "
        "embedding: before the first step its logits are the backbone's zero-shot ones, and interpolation "
        "takes it along.",
    )
    optim: OptimConfig = OptimConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    rules: RulesConfig = RulesConfig()
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
        objective = value.get("objective")
        if isinstance(objective, str):
            value = value | {"objective": {"name": objective}}
        elif isinstance(objective, dict):  # options alone belong to the only one that has any
            value = value | {"objective": {"name": "contrastive"} | objective}
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
                "which every penalty acts on, does not move; leave one of them out"
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
        if self.head == "zero_shot" and (why := why_not_zero_shot(self.objective, self.method)):
            raise ValueError(why)
        if self.evaluation.least_retention is not None and all(s.retrieval for s in self.data.transfer):
            raise ValueError("evaluation.least_retention needs a transfer set with classes")
        data = {key for key, value in self.data if value is not None}
        if isinstance(self.objective, ContrastiveObjective):
            target = {key for key, value in self.data.target if value is not None}
            why = why_not_contrastive(
                self.objective, self.method, self.penalty, target, data, self.data.protocol == "published"
            )
            if why is not None:
                raise ValueError(why)
            if clash := {"validation", "test"} & {spec.name for spec in self.data.transfer}:
                raise ValueError(
                    f"a transfer set called {min(clash)!r} would be taken for the target's; "
                    "give it another name beside its path"
                )
        else:
            if isinstance(self.method, LogitScale):
                raise ValueError(
                    f"method {self.method.name} with objective {self.objective.name}: the loss on labels has "
                    "no logit scale; the one on captions has (objective = 'contrastive')"
                )
            without = isinstance(self.objective, NoTask)
            if without and (why := why_not_without_task(self.method, self.penalty)):
                raise ValueError(why)
            for penalty in self.penalty:
                if "text" in held(penalty, ("image",)):
                    raise ValueError(
                        f"penalty {penalty.name} on the text tower: it is held over captions (objective = "
                        "'contrastive'); with classes penalties hold the image tower"
                    )
            counted = sorted(key for key in data if key.endswith("_images") and key != "skip_bad_images")
            if counted:
                raise ValueError(
                    f"data.{counted[0]} is of images with captions (objective = 'contrastive'); with "
                    f"classes, set data.{counted[0].removesuffix('_images')}_per_class"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out rules where there are none and the head where it is linear: such runs are written as they
        were before either was an option."""
        data: dict[str, Any] = written(self)
        if self.head == "linear":
            data.pop("head", None)
        if self.rules == RulesConfig():
            data.pop("rules", None)
        return data

    @property
    def key(self) -> str:
        """16 hex digits: the hash of everything that can change the result.

        Keys at their default are left out, so that an option added later does not rename older runs;
        ``SCHEMA`` is part of it for the day that a default's meaning changes.
        """
        acting = self.model_copy(update={"rules": self.rules.acting()})
        content = {"schema": SCHEMA, **_result_keys(acting)}
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
