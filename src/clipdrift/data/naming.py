"""Match readable class names with labels, and say where names and data disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipdrift.data.catalog import CatalogRow, readable
from clipdrift.data.codes import alike, are_codes, without_codes
from clipdrift.data.errors import DataError

_SHOWN = 20
"""Pairs of a mapping that are printed; all of them are in the record."""


@dataclass(frozen=True)
class Naming:
    """Readable names in label order.

    Attributes:
        names: As prompts have them.
        own: The data's own, where they differ from ``names`` by more than readability; else empty.
        notes: What was guessed or is doubtful.
    """

    names: tuple[str, ...]
    own: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def class_names(
    found: Sequence[str] | None, *, given: tuple[str, ...] | None, row: CatalogRow | None, data: str
) -> Naming:
    """Readable names in label order.

    What the user gives wins. Next the data's own names, because they alone are sure to be in the data's
    order; where they are the row's ``labels``, each is replaced by the row's name for it, and a number or
    WordNet id that stands before all of them is left out. Only data with numbers alone take the row's
    ``classes`` by position.

    Args:
        found: The data's own names in label order; ``None`` if labels are bare numbers.
        given: ``classes`` of the configuration.
        row: The catalog's row, if there is one.
        data: How errors name the data set.

    Raises:
        DataError: No names at all, a wrong number of them, two that are alike to a tokenizer, or the data's
            own in another order.
    """
    naming = _named(found, given, row, data)
    if len(naming.names) < 2:
        raise DataError(f"{data}: {len(naming.names)} class(es) found, at least two are needed")
    if (pair := alike(naming.names)) is not None:
        one, other = pair
        how = "two classes are both called" if one == other else "a tokenizer reads two classes alike,"
        both = repr(one) if one == other else f"{one!r} and {other!r}"
        raise DataError(f"{data}: {how} {both}; set `classes` to tell them apart")
    if are_codes(naming.names):
        shown = ", ".join(naming.names[:3])
        doubt = (
            f"{data}: class names look like codes ({shown}, ...), of which a text encoder knows nothing: "
            "zero-shot and text prompts will be near chance; set `classes` to readable names, in label order"
        )
        return Naming(naming.names, naming.own, (*naming.notes, doubt))
    return naming


def _named(
    found: Sequence[str] | None, given: tuple[str, ...] | None, row: CatalogRow | None, data: str
) -> Naming:
    if given is not None:
        if found is None:
            return Naming(given)
        _agree(given, found, data)
        return _mapped(given, found, data, "classes are named as `classes` says")
    if found is None:
        if row is None or row.classes is None:
            raise DataError(f"{data}: its labels are numbers without names; set `classes`, in label order")
        return Naming(row.classes)
    if row is not None and row.labels and row.classes and set(found) == set(row.labels):
        meaning = dict(zip(row.labels, row.classes, strict=True))
        return Naming(tuple(meaning[name] for name in found))
    if row is not None and row.classes and len(row.classes) == len(found) and _counted(found):
        return _mapped(row.classes, found, data, f"classes are named as the catalog names {row.name}'s")
    if (left := without_codes(found)) is not None:
        names = tuple(readable(name) for name in left)
        return _mapped(names, found, data, "codes before class names are left out")
    return Naming(tuple(readable(name) for name in found))


def _counted(names: Sequence[str]) -> bool:
    """Whether names are whole numbers in order, from 0 or 1 on without a gap."""
    if not all(name.isascii() and name.isdigit() for name in names):
        return False
    numbers = [int(name) for name in names]
    return numbers in (list(range(len(names))), list(range(1, len(names) + 1)))


def _mapped(names: tuple[str, ...], found: Sequence[str], data: str, why: str) -> Naming:
    """Names by position, with a note of what stands for what if that is more than readability."""
    own = tuple(found)
    if names in (own, tuple(readable(name) for name in own)):
        return Naming(names)
    pairs = [f"{name} = {new}" for name, new in zip(own, names, strict=True)]
    more = f", and {len(pairs) - _SHOWN} more (all are in the record)" if len(pairs) > _SHOWN else ""
    note = f"{data}: {why}: {', '.join(pairs[:_SHOWN])}{more}"
    return Naming(names, own, (note,))


def _agree(given: tuple[str, ...], found: Sequence[str], data: str) -> None:
    if len(given) != len(found):
        raise DataError(
            f"{data}: `classes` names {len(given)} classes, the data have {len(found)} ({_listed(found)})"
        )
    own = tuple(readable(name) for name in found)
    if set(given) == set(own) and given != own:
        raise DataError(
            f"{data}: `classes` has the data's own names in another order (label 0 is {own[0]!r}); "
            "leave it out"
        )


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
