"""Methods, penalties and measures from other packages, found by their entry points. Loads no torch.

A package declares, in its ``pyproject.toml``::

    [project.entry-points."clipdrift.methods"]
    head_and_scale = "my_package:HEAD_AND_SCALE"

and the object is a :class:`MethodSpec`, :class:`PenaltySpec` or :class:`MeasureSpec`. It names its options
and says what it does. The work is a dotted name (``my_package.work:prepare``), imported when first used.
Keep the spec's module free of torch, or every command starts as slowly as torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

from pydantic import BaseModel

from clipdrift.errors import ClipdriftError, named_line

ExtensionGroup = Literal["methods", "penalties", "measures"]


class ExtensionError(ClipdriftError):
    """An installed extension that cannot be used; the message names the distribution it came with."""


@dataclass(frozen=True)
class MethodSpec:
    """A way to adapt a backbone.

    Attributes:
        options: a ``clipdrift.config.MethodOptions`` whose ``name`` is a Literal of the entry point's name.
        prepare: dotted name of ``(clip, options, texts) -> MethodPlan``, as in ``clipdrift.adapt.methods``.
        summary, reference: for ``clipdrift ls methods``.
    """

    options: type[BaseModel]
    prepare: str
    summary: str
    reference: str = ""


@dataclass(frozen=True)
class PenaltySpec:
    """An extra loss term.

    Attributes:
        options: a ``clipdrift.config.PenaltyOptions`` whose ``name`` is a Literal of the entry point's name.
        term: dotted name of ``(options, setting) -> Term``, as those in ``clipdrift.adapt.penalties``.
        summary, reference: for ``clipdrift ls penalties``.
    """

    options: type[BaseModel]
    term: str
    summary: str
    reference: str = ""


@dataclass(frozen=True)
class MeasureSpec:
    """A measure of a model's internals on the probe images.

    Attributes:
        summary, unit, range, reference: for ``clipdrift ls measures``; the unit stands in every record.
        read: dotted name of ``(internals) -> values``: of one model, compared as drift from the backbone.
        compare: dotted name of ``(backbone, adapted) -> values``: a comparison already, as CKA is. Exactly
            one of the two is given. Both take :class:`clipdrift.measures.Internals` and return
            one float, or one float per block.
        family: where it is listed: attention, flow, representation, weights or ability.
    """

    summary: str
    unit: str = ""
    range: str = ""
    reference: str = ""
    read: str | None = None
    compare: str | None = None
    family: str = "representation"


_SPECS: Mapping[str, type] = {"methods": MethodSpec, "penalties": PenaltySpec, "measures": MeasureSpec}
_FAMILIES = ("attention", "flow", "representation", "weights", "ability")


@dataclass(frozen=True)
class Extension:
    """One usable entry point: its name, its spec, and the distribution that brought it."""

    group: str
    name: str
    spec: Any
    distribution: str


@dataclass(frozen=True)
class Found:
    """The extensions of one group, and why others cannot be used, by name."""

    usable: Mapping[str, Extension] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)


@cache
def extensions(group: ExtensionGroup, taken: frozenset[str] = frozenset()) -> Found:
    """Find all extensions of a group, once. Never raises: what is broken is told when it is asked for.

    Args:
        group: ``methods``, ``penalties`` or ``measures``.
        taken: names of the built-in ones, which an extension cannot have.
    """
    usable: dict[str, Extension] = {}
    broken: dict[str, str] = {}
    for point in sorted(entry_points(group=f"clipdrift.{group}"), key=lambda p: (p.name, _distribution(p))):
        said = f"{group} extension {point.name!r} of {_distribution(point)}"
        if point.name in taken or _read_otherwise(point.name):
            broken[point.name] = f"{said}: clipdrift uses that name itself; rename the extension"
        elif point.name in usable or point.name in broken:
            first = usable.pop(point.name, None)
            others = first.distribution if first else "another distribution"
            broken[point.name] = f"{said}: {others} brings one of that name too; uninstall one of them"
        else:
            try:
                usable[point.name] = Extension(group, point.name, _load(point, group), _distribution(point))
            except Exception as error:  # whatever a stranger's module raises
                reason = named_line(error)
                broken[point.name] = f"{said} cannot be used ({reason})"
    return Found(usable, broken)


def _read_otherwise(name: str) -> bool:
    """Whether tables would take it for something else, as ``last_...`` or ``..._drift``."""
    prefixes = ("last_", "best_", "epoch1_", "backbone_", "retention_", "zero_shot_")
    return (
        not name.isidentifier()
        or name.startswith(prefixes)
        or name.endswith(("_drift", "_sd", "_magnitude", "_of_last_block"))
    )


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _load(point: EntryPoint, group: str) -> Any:
    spec: Any = point.load()
    wanted: Any = _SPECS[group]
    if not isinstance(spec, wanted):
        raise TypeError(f"{point.value} is a {type(spec).__name__}, not a {wanted.__name__}")
    if isinstance(spec, MeasureSpec):
        if (spec.read is None) == (spec.compare is None):
            raise ValueError("give exactly one of read and compare")
        if spec.family not in _FAMILIES:
            raise ValueError(f"family {spec.family!r}; legal: {', '.join(_FAMILIES)}")
    else:
        name = spec.options.model_fields.get("name")
        if name is None or get_args(name.annotation) != (point.name,):
            raise ValueError(
                f'{spec.options.__name__}.name has to be Literal["{point.name}"], as the entry point'
            )
    return spec


def loaded(extension: Extension, place: str) -> Callable[..., Any]:
    """The function that a spec names.

    Raises:
        ExtensionError: its module cannot be imported, or has no such function.
    """
    module, colon, name = place.partition(":")
    said = f"{extension.group} extension {extension.name!r} of {extension.distribution}"
    if not colon:
        raise ExtensionError(
            f"{said}: {place!r} is no place of a function; write it as package.module:function"
        )
    try:
        function = getattr(import_module(module), name)
    except Exception as error:
        reason = named_line(error)
        raise ExtensionError(f"{said}: {place} cannot be used ({reason})") from None
    if not callable(function):
        raise ExtensionError(f"{said}: {place} is no function")
    made: Callable[..., Any] = function
    return made
