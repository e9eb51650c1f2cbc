"""Training objectives: frozen models told apart by ``name``, and what goes together with which."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from clipdrift.config.base import MethodOptions, ObjectiveOptions, PenaltyOptions, Towers, name_of
from clipdrift.config.methods import BUILT_IN, Flyp, LogitScale, LoraOptions, LpFt
from clipdrift.config.named import DataSet
from clipdrift.config.penalties import holds_alone, why_not_held


class Classification(ObjectiveOptions):
    """The method's own loss on labelled images: cross-entropy of a head, flyp's against class texts."""

    name: Literal["classification"]
    summary: ClassVar[str] = "images with labels: the method's own loss"


class ContrastiveObjective(ObjectiveOptions):
    """CLIP's or SigLIP's loss on images with captions; nothing but the towers and their scale is trained."""

    name: Literal["contrastive"]
    summary: ClassVar[str] = "images with captions: CLIP's or SigLIP's loss, on either tower or both"
    reference: ClassVar[str] = "Radford et al. 2021"
    towers: Literal["both", "image", "text"] = Field("both", description="What the method is applied to.")
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="softmax: CLIP's. sigmoid: SigLIP's (Zhai et al. 2023), with the model's own bias, "
        "or, where it has none, one that begins where the backbone expects as many pairs as there are. "
        "Captions or images that repeat in a batch are pairs of each other.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the softmax loss.")
    logit_scale: Literal["auto", "trained", "fixed"] = Field(
        "auto",
        description="The scale of cosines, at most 100 (or a SigLIP's own, where that is more); by the "
        "sigmoid loss a bias that the model has goes with it. auto: trained, and fixed with adapters, which "
        "have no place to keep it.",
    )

    replay: DataSet | None = Field(
        None, description="Another set of images with captions, of which every batch has a share."
    )
    replay_share: float = Field(0.2, gt=0, lt=1, description="That share.")

    def trained_towers(self, method: MethodOptions) -> Towers:
        """The towers that a method is applied to; none by one that trains the logit scale alone."""
        if isinstance(method, LogitScale):
            return ()
        return ("image", "text") if self.towers == "both" else (self.towers,)

    def trains_scale(self, method: MethodOptions) -> bool:
        """Whether the logit scale is trained."""
        return self.logit_scale == "trained" or (
            self.logit_scale == "auto" and not isinstance(method, LoraOptions)
        )


class NoTask(ObjectiveOptions):
    """Penalties alone, on the target's training images: training reads no label. The last epoch is the chosen
    one, as validation says nothing; the head stays as it began, and accuracies are those of such a head."""

    name: Literal["no_task"]
    summary: ClassVar[str] = "penalties alone: nothing is learnt and training reads no label"


OBJECTIVES: tuple[type[ObjectiveOptions], ...] = (Classification, ContrastiveObjective, NoTask)
"""Every objective, in the order of listings."""

Objective = Annotated[Classification | ContrastiveObjective | NoTask, Field(discriminator="name")]

_OWN = {
    "linear_probe": "it trains a head on classes, which captions have not; method projections trains what a "
    "contrastive model has instead",
    "lp_ft": "it trains a head on classes first, which captions have not; method full_ft trains the towers",
    "flyp": "it is the contrastive loss on texts of classes; for captions take method full_ft",
}
"""Methods without a meaning for captions, and why."""
_NO_MEANING = ("label_column", "classes", "prompts", "per_class")
"""Keys of a target that captions have no use for."""


def why_not_without_task(method: MethodOptions, penalties: Collection[PenaltyOptions]) -> str | None:
    """Say why a run on penalties alone is not possible; None: it is."""
    if not penalties:
        return "objective no_task without a penalty: nothing is trained; set penalty = 'entropy_pull'"
    if all(holds_alone(one) for one in penalties):
        names = ", ".join(one.name for one in penalties)
        return (
            f"objective no_task with penalty {names} alone: it is least at the backbone, so nothing moves; "
            "add one that moves the model, such as entropy_pull with a ratio other than 1"
        )
    if isinstance(method, Flyp | LpFt):
        return (
            f"objective no_task with method {method.name}: it learns classes by itself; take full_ft or lora"
        )
    return None


def why_not_zero_shot(objective: ObjectiveOptions, method: MethodOptions) -> str | None:
    """Say why a run's head cannot begin as the class texts; None: it can."""
    if isinstance(objective, ContrastiveObjective):
        return (
            "head = 'zero_shot' with objective contrastive: captions have no classes, so there is no head; "
            "leave it out"
        )
    if isinstance(method, Flyp):
        return "head = 'zero_shot' with method flyp: its head is the class texts at every step; leave it out"
    return None


def why_not_contrastive(
    objective: ContrastiveObjective,
    method: MethodOptions,
    penalties: Iterable[PenaltyOptions],
    target: Collection[str],
    data: Collection[str],
    published: bool,
) -> str | None:
    """Say why a run on captions is not possible; None: it is.

    Args:
        penalties: The run's.
        target, data: Keys of ``data.target`` and of ``data`` that are set.
    """
    name = method.name
    if name in _OWN:
        return f"method {name} with objective contrastive: {_OWN[name]}"
    if name not in {name_of(options) for options in BUILT_IN} and objective.towers != "image":
        return f"method {name} prepares the image tower alone: set objective.towers = 'image'"
    if isinstance(method, LogitScale):
        if objective.logit_scale == "fixed":
            return f"objective.logit_scale = 'fixed' with method {name}: then nothing is trained"
        if objective.towers != "both":
            return f"objective.towers with method {name}: it trains neither tower; leave it out"
        if penalty := next(iter(penalties), None):
            return f"penalty {penalty.name} with method {name}: neither tower moves; leave one of them out"
    if objective.logit_scale == "trained" and isinstance(method, LoraOptions):
        return (
            f"objective.logit_scale = 'trained' with method {name}: an adapter has no place to keep the "
            "scale; leave it at 'auto'"
        )
    if objective.label_smoothing and objective.loss == "sigmoid":
        return "objective.label_smoothing belongs to the softmax loss; leave it out with loss = 'sigmoid'"
    for penalty in penalties:
        where = f"objective.towers = {objective.towers!r}"
        if why := why_not_held(penalty, objective.trained_towers(method), where):
            return why
    if published:
        return (
            "data.protocol = 'published' with objective contrastive: the published studies trained on classes"
        )
    for key in sorted(data):
        if key.endswith("_per_class"):
            instead = f"data.{key.removesuffix('_per_class')}_images"
            return f"data.{key} with objective contrastive: captions have no classes; set {instead}"
    for key in _NO_MEANING:
        if key in target:
            return f"data.target.{key} with objective contrastive: captions have no classes; leave it out"
    return None
