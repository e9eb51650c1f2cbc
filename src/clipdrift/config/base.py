"""Base classes of configuration models."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

MACHINE: dict[str, Any] = {"machine": True}
"""Marks fields that never change a result, as they name places or speed on one machine, or what is shown."""


Towers = tuple[Literal["image", "text"], ...]
"""Some of the two towers, the image tower first."""


class Frozen(BaseModel):
    """Base of all parts: immutable, strict about unknown keys, no nan or inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class MethodOptions(Frozen):
    """Base of a method's options. Subclasses narrow ``name`` to a Literal and say what the method does."""

    name: str
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""


class PenaltyOptions(Frozen):
    """Base of a penalty's options. Subclasses narrow ``name`` to a Literal and say what the penalty is."""

    name: str
    weight: float = Field(0.1, gt=0, description="What the term is multiplied by.")
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""


class ObjectiveOptions(Frozen):
    """Base of an objective's options. Subclasses narrow ``name`` to a Literal and say what is learnt."""

    name: str
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""


def name_of(options: type[MethodOptions] | type[PenaltyOptions] | type[ObjectiveOptions]) -> str:
    """The one name that a class of options accepts."""
    (name,) = get_args(options.model_fields["name"].annotation)
    return str(name)
