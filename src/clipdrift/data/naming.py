"""Match readable class names with labels, and say where names and data disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clipdrift.data.catalog import CatalogRow, readable
from clipdrift.data.errors import DataError


def class_names(
    found: Sequence[str] | None, *, given: tuple[str, ...] | None, row: CatalogRow | None, data: str
) -> tuple[str, ...]:
    """Readable names in label order.

    What the user gives wins. Next the data's own names, because they alone are sure to be in the data's
    order; where they are the row's ``labels``, each is replaced by the row's name for it. Only data with bare
    numbers take the row's ``classes`` by position.

    Args:
        found: The data's own names in label order; ``None`` if labels are bare numbers.
        given: ``classes`` of the configuration.
        row: The catalog's row, if there is one.
        data: How errors name the data set.

    Raises:
        DataError: No names at all, a wrong number of them, two alike, or the data's own in another order.
    """
    if given is not None:
        names = given
        if found is not None:
            _agree(given, found, data)
    elif found is None:
        if row is None or row.classes is None:
            raise DataError(f"{data}: its labels are numbers without names; set `classes`, in label order")
        names = row.classes
    elif row is not None and row.labels and row.classes and set(found) == set(row.labels):
        meaning = dict(zip(row.labels, row.classes, strict=True))
        names = tuple(meaning[name] for name in found)
    else:
        names = tuple(readable(name) for name in found)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{data}: two classes are both called {twice[0]!r}; set `classes` to tell them apart")
    if len(names) < 2:
        raise DataError(f"{data}: {len(names)} class(es) found, at least two are needed")
    return names


def _agree(given: tuple[str, ...], found: Sequence[str], data: str) -> None:
    if len(given) != len(found):
        raise DataError(f"{data}: `classes` names {len(given)} classes, the data have {len(found)}")
    own = tuple(readable(name) for name in found)
    if set(given) == set(own) and given != own:
        raise DataError(
            f"{data}: `classes` has the data's own names in another order (label 0 is {own[0]!r}); "
            "leave it out"
        )
