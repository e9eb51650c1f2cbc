"""Read a checked RunConfig from TOML and ``--set a.b=c``; every error is one line that names the key."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clipdrift.config import methods, penalties
from clipdrift.config.models import RunConfig
from clipdrift.errors import ClipdriftError

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ClipdriftError, ValueError):
    """A configuration that cannot be run; the message names the key, the value and what is legal."""


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's TOML file (or the defaults) and apply ``a.b=c`` overrides.

    Raises:
        ConfigError: missing file, broken TOML, unknown key, illegal value or combination.
    """
    return parse_config(read_toml(path, overrides), RunConfig)


def read_toml(path: Path | str | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The TOML file's tables with the overrides put in, unchecked."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors put a mark first
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error})") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for text in overrides:
        key, value = read_value(text)
        data = put(data, key, value, f"--set {text}")
    return data


def read_value(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``; what is not TOML is a string.

    Raises:
        ConfigError: no key or no equals sign.
    """
    key, equals, raw = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"--set {text}: write it as key=value, for example optim.learning_rate=1e-5")
    try:
        return key.strip(), tomllib.loads(f"value = {raw.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), raw.strip()


def put(data: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """A copy of nested tables with the value of a dotted key.

    Raises:
        ConfigError: part of the key is no table; ``where`` says who asked for it.
    """
    parts = key.split(".")
    out = copy.deepcopy(dict(data))
    table = out
    for part in parts[:-1]:
        inner = table.get(part, {})
        if isinstance(inner, str):  # a name alone stands for a table with that name
            inner = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}: {part} is not a table")
        table[part] = inner
        table = inner
    table[parts[-1]] = value
    return out


@functools.cache
def legal_keys() -> frozenset[str]:
    """Every dotted key of a run's configuration, those of all methods included."""
    return frozenset(_keys(RunConfig, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def parse_config(data: Mapping[str, Any], model: type[Model]) -> Model:
    """Check plain data against ``model``.

    Raises:
        ConfigError: with one line for the first thing that is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, model)) from None


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    owner, hidden, choice = _owner(model, path)
    key = ".".join(p for i, p in enumerate(path) if i not in hidden) or "configuration"
    value, kind = first["input"], first["type"]
    if kind == "extra_forbidden":
        legal = sorted(owner.model_fields)
        near = difflib.get_close_matches(path[-1], legal, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        options = [name for name in legal if name != "name"]
        where = f" of {choice}" if choice else ""
        listed = ", ".join(options if choice else legal) or "none"
        return f"{key} = {value!r}: unknown key{hint}; legal keys{where}: {listed}"
    if kind.startswith("union_tag_"):
        key = ".".join(p for p in path if not p.isdigit())
    if kind == "union_tag_invalid":
        context = first.get("ctx", {})
        tag = context.get("tag")
        broken = methods.EXTENSIONS.broken | penalties.EXTENSIONS.broken  # type: ignore[operator]
        if tag in broken:
            return f"{key}.name = {tag!r}: {broken[tag]}"
        return f"{key}.name = {tag!r}: unknown; legal: {context.get('expected_tags')}"
    if kind == "union_tag_not_found":
        return f'{key} = {value!r}: give it a name, for example {key}.name = "lora"'
    if kind == "missing":
        return f"{key}: missing"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    shown = "" if kind == "value_error" and isinstance(value, (Mapping, BaseModel)) else f" = {value!r}"
    return f"{key}{shown}: {message}"


def _owner(model: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], set[int], str | None]:
    """The model that holds the last key of ``path``, what of it is no key, and which of several it is."""
    hidden: set[int] = set()
    choice = None
    current: type[BaseModel] = model
    for index, part in enumerate(path[:-1]):
        field = current.model_fields.get(part)
        inner = [] if field is None else _models(field.annotation)
        if field is None:
            continue
        listed = index + 1 < len(path) and path[index + 1].isdigit()
        tag = index + 1 + listed
        if len(inner) > 1 and tag < len(path):
            inner = [m for m in inner if path[tag] in typing.get_args(m.model_fields["name"].annotation)]
            hidden.add(index + 1)  # the position in a list, whose entries are known by name; else the name
            choice = path[tag]
        if inner:
            current = inner[0]
    return current, hidden, choice


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Find all pydantic models inside an annotation, through unions, tuples and Annotated."""
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [m for arg in typing.get_args(annotation) for m in _models(arg)]
