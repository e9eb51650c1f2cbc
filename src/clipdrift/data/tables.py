"""Data sets kept as parquet tables: from the Hugging Face hub, its cache, or a folder in the same layout.

Bytes of images are handed on as they are. No loading script and no remote code is ever run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipdrift.data.errors import DataError
from clipdrift.data.folder_words import exact_split_of, is_system
from clipdrift.data.metadata import METADATA
from clipdrift.errors import one_line

if TYPE_CHECKING:
    from datasets import Dataset

_SHARD = re.compile(r"(?P<split>[\w.]+?)-\d{5}-of-(?P<shards>\d{5})(?:-[0-9a-f]+)?")


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
        pieces = path.relative_to(root).parts
        if any(piece.startswith(".") or is_system(piece) for piece in pieces) or path.name in METADATA:
            continue
        folder, split = path.parent, path.stem
        if match := _SHARD.fullmatch(path.stem):
            split, shards[path] = match["split"], int(match["shards"])
        elif path.stem.isdecimal():
            if folder == root:
                raise DataError(
                    f"{root}: {path.name} does not say of which split it is; name such files "
                    "train-00000-of-00001.parquet and so on, or put them in train/ and test/"
                )
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
        if len(paths) < expected:
            raise DataError(
                f"{root}: {len(paths)} of {expected} files of split {split!r} are there; copy the rest"
            )
        if len(paths) > expected:
            names = ", ".join(path.name for path in paths[:3])
            raise DataError(
                f"{root}: {len(paths)} files of split {split!r}, whose names say that they are {expected} "
                f"({names}); remove those of another download"
            )
    return splits


def archive_splits(root: Path) -> dict[str, list[Path]]:
    """The archives of each split of a WebDataset: ``.tar`` files whose name or folder says which it is.

    Empty if there are none. Archives that tell no split are under ``""``.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted((*root.glob("*.tar"), *root.glob("*/*.tar"))):
        words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name if path.parent != root else ""]
        part = next((part for word in words if word and (part := exact_split_of(word))), None)
        if not any(is_system(piece) or piece.startswith(".") for piece in path.relative_to(root).parts):
            name = {"train": "train", "test": "test", None: ""}.get(part, "validation")
            splits.setdefault(name, []).append(path)
    return splits


def load_files(
    files: Mapping[str, list[Path]],
    wanted: Mapping[str, str],
    data: str,
    kind: Literal["parquet", "webdataset"] = "parquet",
) -> dict[str, Dataset]:
    """The wanted splits as tables, by part.

    Args:
        files: Files of every split.
        kind: What they are; of archives, files with the same name up to their ending are a row.
        wanted: Split name of each part, as ``{"train": "train", "test": "validation"}``.
        data: How errors name the data set.

    Raises:
        DataError: No such split, or a file that is no parquet.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    tables = {}
    for part, split in wanted.items():
        if split not in files:
            raise DataError(missing_split(data, part, split, files))
        filled = [path for path in files[split] if kind == "webdataset" or not _is_empty(path)]
        if not filled:
            raise DataError(f"{data}: split {split!r} has no rows; write it again or name another")
        paths = [str(path) for path in filled]
        try:
            with _progress_for_people(), _errors_once():
                tables[part] = (_without_views(filled) if kind == "parquet" else None) or load_dataset(
                    # "train" here is what `datasets` calls a list of files without splits.
                    kind,
                    data_files=paths,
                    split="train",
                )
        except (ArrowException, DatasetsError, OSError, ValueError, TypeError, NotImplementedError) as error:
            reason = one_line(error.__cause__ or error)
            raise DataError(
                f"{data}: split {split!r} cannot be read as {kind} ({reason}); copy it again"
            ) from error
    return tables


def _is_empty(path: Path) -> bool:
    """Whether a file says itself that it has no rows, which `datasets` fails on."""
    from pyarrow import ArrowException, parquet

    try:
        return bool(parquet.read_metadata(path).num_rows == 0)
    except (ArrowException, OSError, ValueError):
        return False  # whoever reads it says what is wrong with it


def _without_views(paths: list[Path]) -> Dataset | None:
    """Tables with columns of Arrow's view types, which `datasets` does not know, read whole and made plain.

    ``None`` where there are none.
    """
    import pyarrow
    from datasets import Dataset
    from pyarrow import parquet

    schema = parquet.read_schema(paths[0])
    plain = pyarrow.schema([f.with_type(_plain(f.type)) for f in schema], metadata=schema.metadata)
    if plain == schema:
        return None
    return Dataset(pyarrow.concat_tables([parquet.read_table(path).cast(plain) for path in paths]))


def _plain(kind: Any) -> Any:
    import pyarrow
    from pyarrow import types

    if types.is_binary_view(kind):
        return pyarrow.large_binary()
    if types.is_string_view(kind):
        return pyarrow.large_string()
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pyarrow.struct([field.with_type(_plain(field.type)) for field in fields])
    return kind


def load_saved(root: Path, wanted: Mapping[str, str], data: str) -> dict[str, Dataset]:
    """The wanted splits of a folder that ``datasets`` wrote with ``save_to_disk``, by part.

    Raises:
        DataError: No such split, a single table without splits, or damaged files.
    """
    loaded = saved_tables(root)
    if "" in loaded:
        raise DataError(
            f"{root}: one table without splits; divide it (`train_test_split`) and save the DatasetDict again"
        )
    for part, split in wanted.items():
        if split not in loaded:
            raise DataError(missing_split(data, part, split, loaded))
    return {part: loaded[split] for part, split in wanted.items()}


def saved_tables(root: Path) -> dict[str, Dataset]:
    """All tables of a folder that ``datasets`` wrote with ``save_to_disk``, by split; ``""`` is one without.

    Raises:
        DataError: Damaged files.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        with _progress_for_people():
            loaded = load_from_disk(str(root))
    except Exception as error:  # what it raises on damaged files differs by version
        raise DataError(
            f"{root}: cannot be read as saved by save_to_disk ({one_line(error)}); save it again"
        ) from None
    return dict(loaded) if isinstance(loaded, DatasetDict) else {"": loaded}


def is_saved(root: Path) -> bool:
    """Whether ``datasets`` wrote this folder with ``save_to_disk``."""
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def load_hub(hub: str, wanted: Mapping[str, str] | None, data: str) -> dict[str, Dataset]:
    """The wanted splits of a hub data set as tables, by part; ``None``: all that there are, by their names.

    What the hub's cache holds is used as it is, without asking the network: all runs of a study then see the
    same images, online or not. Otherwise only the wanted splits are fetched.

    Raises:
        DataError: Not on the hub, not reachable and not in the cache, or without the split.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    splits = ("",) if wanted is None else wanted.values()
    patterns = [pattern for split in splits for pattern in (f"*{split}*.parquet", f"*{split}/*.parquet")]

    def read(folder: Path) -> dict[str, Dataset] | None:
        files = parquet_splits(folder) if folder.is_dir() else {}
        asked = {split: split for split in files} if wanted is None else wanted
        return load_files(files, asked, data) if files and all(s in files for s in asked.values()) else None

    try:
        cached = Path(
            snapshot_download(hub, repo_type="dataset", allow_patterns=patterns, local_files_only=True)
        )
        if (tables := read(cached)) is not None:
            return tables
    except (LocalEntryNotFoundError, DataError):
        pass  # nothing or only a part of it was ever fetched
    try:
        with _progress_for_people():
            folder = Path(snapshot_download(hub, repo_type="dataset", allow_patterns=patterns))
        if (tables := read(folder)) is not None:
            return tables
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


def _load_other(hub: str, wanted: Mapping[str, str] | None, data: str) -> dict[str, Dataset]:
    """Hub sets that hold no parquet under the usual names: archives, loose images, unusual configurations."""
    from datasets import load_dataset

    with _progress_for_people():
        loaded = load_dataset(hub)
    if wanted is None:
        return dict(loaded)
    for part, split in wanted.items():
        if split not in loaded:
            raise DataError(missing_split(data, part, split, loaded))
    return {part: loaded[split] for part, split in wanted.items()}


def missing_split(data: str, part: str, split: str, existing: Mapping[str, object]) -> str:
    """The message for a split that is not there."""
    return f"{data}: no split {split!r}; it has {', '.join(sorted(existing))}; set `{part}_split`"


@contextmanager
def _errors_once() -> Iterator[None]:
    """Keep `datasets` from logging an error that it raises as well."""
    from datasets.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


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
