"""Data sets kept as parquet tables: from the Hugging Face hub, its cache, or a folder in the same layout.

Bytes of images are handed on as they are. No loading script and no remote code is ever run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipdrift.data.errors import DataError
from clipdrift.data.images import ImageSet, LabelArray, TableRows, image_set
from clipdrift.errors import one_line

if TYPE_CHECKING:
    from datasets import Dataset, Features

_SHARD = re.compile(r"(?P<split>[\w.]+?)-\d{5}-of-(?P<shards>\d{5})(?:-[0-9a-f]+)?")


@dataclass(frozen=True)
class ImageColumns:
    """Names of the image and the label column; ``None``: to be found out."""

    image: str | None
    label: str | None


def parquet_splits(root: Path) -> dict[str, list[Path]]:
    """The parquet files of each split in a folder of the hub's layout; empty if there are none.

    Understood are ``train-00000-of-00002.parquet``, ``train.parquet`` and ``train/0000.parquet``, in the
    folder itself, in ``data/`` or in the folder of a configuration.

    Raises:
        DataError: Several configurations side by side, or a shard that is not there.
    """
    configurations: dict[str, dict[str, list[Path]]] = {}
    shards: dict[Path, int] = {}
    for path in sorted((*root.glob("*.parquet"), *root.glob("*/*.parquet"), *root.glob("*/*/*.parquet"))):
        if any(piece.startswith(".") for piece in path.relative_to(root).parts):
            continue
        folder, split = path.parent, path.stem
        if match := _SHARD.fullmatch(path.stem):
            split, shards[path] = match["split"], int(match["shards"])
        elif path.stem.isdecimal():
            folder, split = path.parent.parent, path.parent.name
        configurations.setdefault(folder.relative_to(root).as_posix(), {}).setdefault(split, []).append(path)
    if not configurations:
        return {}
    usual = [name for name in (".", "data", "default") if name in configurations]
    if len(configurations) > 1 and not usual:
        raise DataError(
            f"{root}: several configurations ({', '.join(configurations)}); set `path` to the "
            "folder of one of them"
        )
    splits = configurations[usual[0] if usual else next(iter(configurations))]
    for split, paths in splits.items():
        expected = shards.get(paths[0], len(paths))
        if len(paths) != expected:
            raise DataError(
                f"{root}: {len(paths)} of {expected} files of split {split!r} are there; copy the rest"
            )
    return splits


def load_files(files: Mapping[str, list[Path]], wanted: Mapping[str, str], data: str) -> dict[str, Dataset]:
    """The wanted splits as tables, by part.

    Args:
        files: Parquet files of every split.
        wanted: Split name of each part, as ``{"train": "train", "test": "validation"}``.
        data: How errors name the data set.

    Raises:
        DataError: No such split, or a file that is no parquet.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    tables = {}
    for part, split in wanted.items():
        if split not in files:
            raise DataError(missing_split(data, part, split, files))
        paths = [str(path) for path in files[split]]
        try:
            with _progress_for_people():
                # "train" here is what `datasets` calls a list of files without splits.
                tables[part] = load_dataset("parquet", data_files=paths, split="train")
        except (DatasetsError, OSError, ValueError) as error:
            reason = one_line(error.__cause__ or error)
            raise DataError(
                f"{data}: split {split!r} cannot be read as parquet ({reason}); copy it again"
            ) from error
    return tables


def load_hub(hub: str, wanted: Mapping[str, str], data: str) -> dict[str, Dataset]:
    """The wanted splits of a hub data set as tables, by part.

    What the hub's cache holds is used as it is, without asking the network: all runs of a study then see the
    same images, online or not. Otherwise only the wanted splits are fetched.

    Raises:
        DataError: Not on the hub, not reachable and not in the cache, or without the split.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [
        pattern for split in wanted.values() for pattern in (f"*{split}*.parquet", f"*{split}/*.parquet")
    ]
    try:
        cached = Path(
            snapshot_download(hub, repo_type="dataset", allow_patterns=patterns, local_files_only=True)
        )
        files = parquet_splits(cached)
        if all(split in files for split in wanted.values()):
            return load_files(files, wanted, data)
    except (LocalEntryNotFoundError, DataError):
        pass  # nothing or only a part of it was ever fetched
    try:
        with _progress_for_people():
            folder = Path(snapshot_download(hub, repo_type="dataset", allow_patterns=patterns))
        files = parquet_splits(folder) if folder.is_dir() else {}
        if all(split in files for split in wanted.values()):
            return load_files(files, wanted, data)
        return _load_other(hub, wanted, data)
    except DataError:
        raise
    except GatedRepoError as error:
        raise DataError(
            f"{data}: {hub} is gated; accept its terms on the hub and log in (`hf auth login`)"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(f"{data}: {hub} is not on the hub, or private; check the id or log in") from error
    except Exception as error:  # which one depends on the HTTP client, and that on huggingface_hub's version
        raise DataError(
            f"{data}: {hub} is not in the hub's cache and the hub cannot be reached; fetch it once with a "
            f"network (`hf download --repo-type dataset {hub}`) or set `path` to a local copy"
        ) from error


def _load_other(hub: str, wanted: Mapping[str, str], data: str) -> dict[str, Dataset]:
    """Hub sets that hold no parquet under the usual names: archives, loose images, unusual configurations."""
    from datasets import load_dataset

    with _progress_for_people():
        loaded = load_dataset(hub)
    for part, split in wanted.items():
        if split not in loaded:
            raise DataError(missing_split(data, part, split, loaded))
    return {part: loaded[split] for part, split in wanted.items()}


def read_tables(
    tables: Mapping[str, Dataset], wanted: Mapping[str, str], columns: ImageColumns, data: str
) -> tuple[tuple[str, ...] | None, dict[str, ImageSet]]:
    """Image sets of the tables, by part, and the data's own class names.

    Names come from a ClassLabel feature, or are the sorted distinct texts of a text column; ``None`` if
    labels are bare numbers.

    Raises:
        DataError: A column that is missing, ambiguous or of a useless type; splits that disagree.
    """
    from datasets import Image

    found: dict[str, tuple[tuple[str, ...] | None, list[Any]]] = {}
    casts: dict[str, TableRows] = {}
    for part, table in tables.items():
        image, label = find_columns(table.features, columns, data)
        rows = table.select_columns([image]).cast_column(image, Image(decode=False))
        casts[part] = TableRows(rows, image, f"{data} {wanted[part]}")
        found[part] = _labels(table, label, f"{data} {wanted[part]}")
    names = {part: own for part, (own, _) in found.items()}
    first = next(iter(names.values()))
    if any(own != first for own in names.values()):
        raise DataError(f"{data}: its splits have different classes ({_difference(names)}); they must agree")
    sets = {part: image_set(_numbers(values, first), casts[part]) for part, (_, values) in found.items()}
    return first, sets


def find_columns(features: Features, columns: ImageColumns, data: str) -> tuple[str, str]:
    """The named columns, or the only ones that they can be.

    Raises:
        DataError: It names the columns that exist.
    """
    from datasets import ClassLabel, Image

    chosen = []
    for key, name, kind in (
        ("image_column", columns.image, Image),
        ("label_column", columns.label, ClassLabel),
    ):
        candidates = [column for column, feature in features.items() if isinstance(feature, kind)]
        if name is None and len(candidates) == 1:
            name = candidates[0]
        if name is None or name not in features:
            problem = "which column is meant is not clear" if name is None else f"no column {name!r}"
            raise DataError(f"{data}: {problem}; it has {', '.join(features)}; set `{key}`")
        chosen.append(name)
    return chosen[0], chosen[1]


def missing_split(data: str, part: str, split: str, existing: Mapping[str, object]) -> str:
    """The message for a split that is not there."""
    return f"{data}: no split {split!r}; it has {', '.join(sorted(existing))}; set `{part}_split`"


def _labels(table: Dataset, column: str, data: str) -> tuple[tuple[str, ...] | None, list[Any]]:
    from datasets import ClassLabel

    # Through arrow, because `datasets` would decode row by row in Python.
    values: list[Any] = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    for row, value in enumerate(values):
        if value is None or isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(
                f"{data} row {row}: label {value!r} in column {column!r} is neither a number nor a name"
            )
    feature = table.features[column]
    if isinstance(feature, ClassLabel) and feature.names:
        return tuple(feature.names), values
    if any(isinstance(value, str) for value in values):
        return tuple(sorted({str(value) for value in values})), values
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


@contextmanager
def _progress_for_people() -> Iterator[None]:
    """Silences the progress bars of both libraries where nobody watches, and leaves them as they were."""
    import datasets.utils as datasets_utils
    import huggingface_hub.utils as hub_utils

    if sys.stderr.isatty():
        yield
        return
    shown = [utils for utils in (datasets_utils, hub_utils) if not utils.are_progress_bars_disabled()]
    for utils in shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        for utils in shown:
            utils.enable_progress_bars()
