"""Which column of a table holds the images and which the labels, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipdrift.data.captions import numbered_columns
from clipdrift.data.class_folders import in_label_order
from clipdrift.data.errors import DataError
from clipdrift.data.images import ImageSet, LabelArray, TableRows, image_set
from clipdrift.data.metadata import CAPTION_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset, Features

IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "pixels", "jpg", "jpeg", "png", "image_bytes")
LABEL_NAMES = ("label", "labels", "class", "category", "fine_label", "target", "cls")

_BASE64 = re.compile(r"(?:data:image/[\w.+-]+;base64,)?[A-Za-z0-9+/\s_-]{100,}={0,2}\s*")


@dataclass(frozen=True)
class ImageColumns:
    """Names of the image and the label column; ``None``: to be found out."""

    image: str | None
    label: str | None


def read_tables(
    tables: Mapping[str, Dataset],
    wanted: Mapping[str, str],
    columns: ImageColumns,
    data: str,
    folder: Path | None = None,
    labelled: bool = True,
) -> tuple[tuple[str, ...] | None, dict[str, ImageSet], tuple[str, ...]]:
    """Image sets of the tables, by part, the data's own class names, and what was guessed.

    Names come from a ClassLabel feature, or are the distinct texts of a text column in label order; ``None``
    if labels are bare numbers.

    Args:
        folder: Where paths in the image column start, if they are relative.
        labelled: Whether there must be labels; without a column of them all are 0.

    Raises:
        DataError: A column that is missing, ambiguous or of a useless type; splits that disagree.
    """
    found: dict[str, tuple[tuple[str, ...] | None, list[Any]]] = {}
    stores: dict[str, TableRows] = {}
    notes: list[str] = []
    for part, table in tables.items():
        image, label, guessed = find_columns(table.features, columns, data, labelled)
        stores[part], said = image_rows(table, image, label, f"{data} {wanted[part]}", folder)
        notes += [note for note in (*guessed, *said) if note not in notes]
        found[part] = (None, [0] * len(table))
        if label is not None:
            found[part] = _labels(table, label, f"{data} {wanted[part]}")
    names = {part: own for part, (own, _) in found.items()}
    first = next(iter(names.values()))
    if any(own != first for own in names.values()):
        raise DataError(f"{data}: its splits have different classes ({_difference(names)}); they must agree")
    sets = {part: image_set(_numbers(values, first), stores[part]) for part, (_, values) in found.items()}
    return first, sets, tuple(notes)


def find_columns(
    features: Features, columns: ImageColumns, data: str, labelled: bool = True
) -> tuple[str, str | None, tuple[str, ...]]:
    """The named columns, or the only ones that they can be by their type, or else by their name.

    Args:
        labelled: Whether there must be labels.

    Returns:
        The image column, the label column, and a note for each that its name alone tells.

    Raises:
        DataError: It names the columns that exist.
    """
    from datasets import ClassLabel, Image

    chosen: list[str] = []
    notes: list[str] = []
    for key, name, kind, usual in (
        ("image_column", columns.image, Image, IMAGE_NAMES),
        ("label_column", columns.label, ClassLabel, LABEL_NAMES),
    ):
        candidates = [column for column, feature in features.items() if isinstance(feature, kind)]
        if name is None and len(candidates) == 1:
            name = candidates[0]
        if name is None and not candidates:
            like = [column for column in features if column.lower() in usual and column not in chosen]
            if len(like) == 1:
                name = like[0]
                notes.append(f"{data}: column {name!r} is taken as `{key}` by its name")
        if name is None and key == "label_column" and not labelled:
            return chosen[0], None, tuple(notes)
        if name is None or name not in features:
            problem = "which column is meant is not clear" if name is None else f"no column {name!r}"
            raise DataError(f"{data}: {problem}; it has {', '.join(features)}; set `{key}`")
        chosen.append(name)
    return chosen[0], chosen[1], tuple(notes)


def image_rows(
    table: Dataset, column: str, label: str | None, where: str, folder: Path | None
) -> tuple[TableRows, list[str]]:
    """The image column, to give encoded bytes, and what was guessed of it.

    Raises:
        DataError: It holds something else, or addresses.
    """
    from datasets import Image

    feature = table.features[column]
    kind = table.data.schema.field(column).type
    text = getattr(feature, "dtype", None) in ("string", "large_string")
    encoded, notes = False, []
    if text:
        first = next((cell for cell in table[:50][column] if cell), "")
        if re.match(r"\w+://", first):
            raise DataError(
                f"{where}: column {column!r} holds addresses ({first[:60]}); nothing is downloaded: "
                "put the images themselves in it, or files beside it"
            )
        if _BASE64.fullmatch(first[:20_000]):
            encoded = True
            notes.append(f"{where}: column {column!r} is read as base64 text")
    elif not isinstance(feature, Image) and not _holds_bytes(kind):
        raise DataError(
            f"{where}: column {column!r} holds {str(kind)[:80]}; one image a row is needed, as bytes, as "
            "a struct of bytes and path, or as a path"
        )
    captions = _caption_column(table.features, {column, label})
    rows = table.select_columns([column, *([captions] if captions else [])])
    if not encoded:
        rows = rows.cast_column(column, Image(decode=False))
    return TableRows(rows, column, where, folder, encoded, captions), notes


def caption_columns(features: Features, named: str | None, image: str, data: str) -> list[str]:
    """Columns of captions: the one that was named, all with a number (``caption_1``), or the likeliest.

    Raises:
        DataError: There is none; it names the columns that exist.
    """
    likeliest = _caption_column(features, {image})
    numbered = [column for column in numbered_columns(features) if _holds_text(features[column])]
    found = ([named] if named else numbered) or ([likeliest] if likeliest else [])
    if not found or found[0] not in features or image in found:
        problem = "no column of captions is known" if named is None else f"no column of captions {named!r}"
        raise DataError(f"{data}: {problem}; it has {', '.join(features)}; set `caption_column`")
    return found


def _caption_column(features: Features, others: set[str | None]) -> str | None:
    """The likeliest column of captions: texts, lists of texts, or objects that have one."""
    own = {column.lower(): column for column in features if column not in others}
    for name in (*CAPTION_COLUMNS, "txt", "json"):  # the last two are a WebDataset's
        if name in own and _holds_text(features[own[name]]):
            return own[name]
    return None


def _holds_text(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return any(_holds_text(feature[key]) for key in CAPTION_COLUMNS if key in feature)
    if hasattr(feature, "feature"):  # a list
        return _holds_text(feature.feature)
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return {"bytes", "path"} & {kind.field(i).name for i in range(kind.num_fields)} != set()
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _labels(table: Dataset, column: str, data: str) -> tuple[tuple[str, ...] | None, list[Any]]:
    from datasets import ClassLabel

    # Through arrow, because `datasets` would decode row by row in Python.
    values: list[Any] = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    for row, value in enumerate(values):
        if value is None or isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(
                f"{data} row {row}: label {value!r:.80} in column {column!r} is neither a number nor a name"
            )
    feature = table.features[column]
    if isinstance(feature, ClassLabel) and feature.names:
        return tuple(feature.names), values
    if any(isinstance(value, str) for value in values):
        return in_label_order({str(value) for value in values}, data), values
    return None, values


def _numbers(values: list[Any], names: tuple[str, ...] | None) -> LabelArray:
    position = {name: label for label, name in enumerate(names or ())}
    return np.array(
        [position[value] if isinstance(value, str) else value for value in values], dtype=np.int64
    )


def _difference(names: Mapping[str, tuple[str, ...] | None]) -> str:
    parts = []
    for part, own in names.items():
        others = {name for other, theirs in names.items() if other != part for name in theirs or ()}
        only = sorted(set(own or ()) - others)
        parts.append(f"only in {part}: {', '.join(only[:3])}" if only else f"{part} has {len(own or ())}")
    return "; ".join(parts)
