"""Read a frozen model from a JSON file; missing, damaged and foreign files are told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clipdrift.errors import ClipdriftError

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Wording:
    """Wording of failures of one kind of file.

    Attributes:
        error: raised where the file is missing or of another schema.
        missing: what to say where there is none.
        foreign: what to say of another schema; ``{found}`` is filled in.
        again: what to do about damage.
        damaged: raised for damage; none: ``error``.
    """

    schema: int
    error: type[ClipdriftError]
    missing: str
    foreign: str
    again: str
    damaged: type[ClipdriftError] | None = None


def read_json(file: Path, words: Wording) -> dict[str, Any]:
    """Read the file's content as plain data of the schema that this version reads. Raises as ``words``
    says."""
    damaged = words.damaged or words.error
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise words.error(f"{file}: {words.missing}") from None
    except (OSError, ValueError) as error:
        raise damaged(f"{file}: damaged ({error}); {words.again}") from None
    found = data.get("schema_version") if isinstance(data, Mapping) else None
    if not isinstance(data, dict) or found != words.schema:
        raise words.error(f"{file}: {words.foreign.format(found=found)}")
    return data


def read_model(file: Path, model: type[Model], words: Wording) -> Model:
    """Read the file's content as a model. Raises as ``words`` says."""
    data = read_json(file, words)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise damage_at(file, error, words) from None


def damage_at(file: Path, error: ValidationError, words: Wording) -> ClipdriftError:
    """Make the error for the first thing that does not fit, in one line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return (words.damaged or words.error)(f"{file}: damaged at {where}: {first['msg']}; {words.again}")
