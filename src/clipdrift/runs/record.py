"""Record of a run: one JSON file with its configuration, its course and its result. Loads no torch."""

from __future__ import annotations

import copy
import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from clipdrift.config.base import Frozen
from clipdrift.config.models import RunConfig
from clipdrift.errors import ClipdriftError
from clipdrift.listing import installed_extensions
from clipdrift.outcomes.chance import accuracy_p
from clipdrift.runs.frozen import Wording, damage_at, read_json
from clipdrift.texts import drift

SCHEMA_VERSION = 1

OPTIONS = (
    "head", "rank", "matrices", "train_projection", "frozen_blocks", "tuned_blocks", "penalty",
    "penalty_weight", "weight_decay", "epochs", "batch_size", "protocol", "train_images", "other_options",
)  # fmt: skip
"""Columns of a table of runs that tell cells apart, beside target, backbone, method and learning rate."""


class RecordError(ClipdriftError):
    """A record that is missing, damaged or of another schema."""


class DamagedRecordError(RecordError):
    """A record that was cut off or altered; the run has to be repeated."""


class Values(Frozen):
    """One measure of one model: its mean over blocks, each block, and the drift from the backbone.

    ``drift`` is in percent of the backbone's value; where that is zero or changes sign over the blocks it is
    the change itself and ``absolute`` is true. Measures that are a comparison already (cka, embedding_drift,
    weight_drift) have none.
    """

    mean: float
    blocks: tuple[float, ...] = ()
    drift: float | None = None
    drift_blocks: tuple[float, ...] = ()
    absolute: bool = False

    def drift_text(self) -> str:
        """The drift for people: in percent, or in the measure's own unit where it is absolute."""
        return "" if self.drift is None else drift(self.drift, self.absolute)


class Transfer(Frozen):
    """Zero-shot accuracy (percent) on one set, and retention: 100 x accuracy / the backbone's accuracy."""

    accuracy: float
    retention: float | None = Field(None, description="None where the backbone's accuracy is 0.")


class Recall(Frozen):
    """Retrieval in one direction."""

    at: dict[int, float] = Field(description="Recall at k (percent), by k.")
    median_rank: float = Field(description="Of the best match, from 1.")
    interval: tuple[float, float] = Field(
        description="95 % interval of recall at 1 (percent), by bootstrap over images."
    )


class Retrieval(Frozen):
    """Images among captions and captions among images of one set."""

    images: int
    captions: int
    repeated: int = Field(description="Captions that several images have; each is right for all of these.")
    image_to_text: Recall
    text_to_image: Recall

    @property
    def recall(self) -> float:
        """Mean of both recalls at 1, in percent: what stands for accuracy where there are no classes."""
        return (self.image_to_text.at[1] + self.text_to_image.at[1]) / 2


class CrossedTowers(Frozen):
    """Accuracy, or mean recall at 1, (percent) of one adapted tower with the backbone's other one."""

    tuned_image: float
    tuned_text: float


class Point(Frozen):
    """The model at one moment of the training.

    Of a run on captions, accuracies are means of recall at 1 in both directions, on training images within
    the batch.
    """

    epoch: int
    step: int
    ends_epoch: bool
    learning_rate: float
    train_loss: float
    train_accuracy: float | None = Field(None, description="None without a task: no label was read.")
    validation_accuracy: float | None = None
    test_accuracy: float | None = Field(None, description="Read once, at the epoch chosen on validation.")
    measures: dict[str, Values] = Field(default_factory=dict)
    transfer: dict[str, Transfer] = Field(default_factory=dict)
    retrieval: dict[str, Retrieval] = Field(
        default_factory=dict, description="On `validation`, `test` and transfer sets with captions."
    )
    crossed: dict[str, CrossedTowers] = Field(
        default_factory=dict, description="Where both towers have changed, on `test` and the transfer sets."
    )
    logit_scale: float | None = Field(
        None, description="What cosines are multiplied by, where it is trained."
    )


class ImageCounts(Frozen):
    """The images of one purpose: how many, which (content hash), what could not be read."""

    count: int
    fingerprint: str
    bad: tuple[tuple[str, str], ...] = ()


class DataFacts(Frozen):
    """Facts about a data set that the configuration only names."""

    kind: str
    classes: tuple[str, ...] = Field(description="Empty where there are captions instead.")
    prompts: tuple[str, ...]
    images: dict[str, ImageCounts]
    own_names: tuple[str, ...] = Field(
        (), description="The data's own class names in label order, where `classes` are others."
    )
    captions: dict[str, int] = Field({}, description="Captions by purpose, where there are any.")
    notes: tuple[str, ...] = Field((), description="What was guessed, left out or is doubtful.")
    passed: tuple[tuple[str, str, int], ...] = Field(
        (), description="Files of a local copy that were not read: folder, ending, how many."
    )


class ModelFacts(Frozen):
    """Shape of the image tower and what was trained."""

    blocks: int
    heads: int
    patches: int
    width: int
    parameters: int = Field(description="Of image tower and projection.")
    trained: int = Field(description="Trained parameters, the head included.")
    notes: tuple[str, ...] = Field((), description="What was done to read the backbone.")


class Backbone(Frozen):
    """The model before adaptation: internals on the probe set, zero-shot accuracy (percent) by set."""

    measures: dict[str, Values]
    zero_shot: dict[str, float]
    retrieval: dict[str, Retrieval] = Field(default_factory=dict)


class Remark(Frozen):
    """Something that a run's rules said, and the look at which they did."""

    kind: Literal["warning", "rate", "stop", "note"] = Field(
        description="rate: multiplied by rules.factor from there on; stop: the training ended there."
    )
    epoch: int
    step: int
    text: str = Field(description="In plain words, with the number and the rule.")


class Record(Frozen):
    """One run. ``status`` is ``done`` or ``diverged``; a run without a record is not finished."""

    schema_version: Literal[1] = 1
    key: str
    status: Literal["done", "diverged"]
    reason: str | None = None
    config: RunConfig
    environment: dict[str, Any]
    model: ModelFacts
    target: DataFacts
    transfer: dict[str, DataFacts]
    units: dict[str, str]
    backbone: Backbone
    history: tuple[Point, ...]
    best: Point | None = Field(None, description="The epoch chosen on validation.")
    last: Point | None = Field(None, description="The last epoch.")
    artefacts: dict[str, str] = Field({}, description="What was saved, relative to the run's folder.")
    timings: dict[str, float] = Field({}, description="Seconds by stage.")
    remarks: tuple[Remark, ...] = Field(
        (), description="What its rules said; absent where they said nothing."
    )

    @model_serializer(mode="wrap")
    def _as_ever(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave remarks out where there are none: such records are written as they were before any."""
        data: dict[str, Any] = written(self)
        if not self.remarks:
            data.pop("remarks", None)
        return data

    @property
    def stopped(self) -> Remark | None:
        """What ended the training early, and when; None where it went on to its last step."""
        return next((remark for remark in self.remarks if remark.kind == "stop"), None)

    def chance_p(self, transfer: str) -> float | None:
        """P-value that the backbone's zero-shot accuracy on a set is above chance; None where unknown."""
        facts, accuracy = self.transfer.get(transfer), self.backbone.zero_shot.get(transfer)
        images = 0 if facts is None or "test" not in facts.images else facts.images["test"].count
        if facts is None or accuracy is None or not images:
            return None
        return accuracy_p(accuracy, images, len(facts.classes))

    def to_json(self) -> str:
        """One line: a study of thousands is read as a whole."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False) + "\n"

    def without_times(self) -> dict[str, Any]:
        """Copy of what a repetition on the same machine must reproduce to the bit."""
        return self.model_dump(mode="json", exclude={"timings", "environment"})


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: missing, not JSON, cut off, or of a schema that this version does not know.
    """
    data = read_json(path, _WORDING)
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "union_tag_invalid" and first["loc"][:1] == ("config",):
            brought = data.get("environment", {}).get("extensions", {})
            said = ", ".join(f"{what} by {who}" for what, who in brought.items()) or "by nothing it names"
            raise RecordError(
                f"{path}: {first['loc'][1]} {first['ctx']['tag']!r} is of a package that is not installed "
                f"here (the record was made with {said}); install it to read this run"
            ) from None
        raise damage_at(path, error, _WORDING) from None


_WORDING = Wording(
    schema=SCHEMA_VERSION,
    error=RecordError,
    missing="no record; the run has not finished",
    foreign=f"record schema {{found}}, this version of clipdrift reads {SCHEMA_VERSION}; use the version "
    "that wrote it, or run again",
    again="delete it and run again",
    damaged=DamagedRecordError,
)


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and the commit of the source tree, where it is one.

    Looked up once a process: what is loaded does not change with what is installed or edited later.
    """
    return {"device": device, **copy.deepcopy(_loaded())}


@cache
def _loaded() -> dict[str, Any]:
    packages = {}
    for name in ("clipdrift", "torch", "transformers", "peft", "numpy", "pillow", "datasets"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "unknown"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        **({"extensions": found} if (found := installed_extensions()) else {}),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (state := _git("status", "--porcelain")) is None else bool(state),
    }


def _git(*arguments: str) -> str | None:
    """Output of git in clipdrift's own source tree; None where that is an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
