"""Grammar of odd data folders, tables of images, configurations and tables of runs, for hypothesis."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from odd_inputs import picture

SPLITS = (
    "train",
    "test",
    "val",
    "Training",
    "testing",
    "VALIDATION",
    "dev",
    "seg_train",
    "seg_test",
    "fold1",
    "fold2",
    "test1",
    "train2017",
    "val2017",
    "x_part_1",
    "x_part_2",
)
HELPERS = ("images", "masks", "labels", "annotations", "JPEGImages", "data", "images_001", "ground_truth")
"""Names that are never all of a class list."""

_CLASSES = (
    "cat",
    "dog",
    "Cat",
    "elk",
    "sea_lake",
    "SeaLake",
    "001.cat",
    "002.dog",
    "0",
    "1",
    "2",
    "10",
    "n01440764",
)
_ODD = (
    "__MACOSX", ".hidden", "@eaDir", "caf\u00e9", "cafe\u0301", "a b", "-x", "2020", "2021", "x" * 120,
    "\udce9t\udce9",
    "%s", "{}", "a'b", "new\nline", "\u202etxt", "con", "...",
)  # fmt: skip
FOLDERS = st.one_of(st.sampled_from(_CLASSES), st.sampled_from((*SPLITS, *HELPERS)), st.sampled_from(_ODD))

_FILES: dict[str, Callable[[int], bytes]] = {
    "{}.png": picture,
    "{}.JPG": lambda i: picture(i, "JPEG"),
    "{}.jpeg": picture,
    "{}_mask.png": picture,
    "{}": picture,
    "{}.gif": lambda i: picture(i, "GIF"),
    "{}.heic": picture,
    "{}.txt": lambda i: b"text",
    "._{}.jpg": lambda i: b"\0\5\x16\7",
    "x\udce9{}.png": picture,
    "{}.tar": lambda i: b"x" * 100,
}
_BROKEN: dict[str, Callable[[int], bytes]] = {"{}.jpg": lambda i: b"", "b{}.png": lambda i: picture(i)[:40]}
KINDS = st.sampled_from([*["{}.png"] * 8, *_FILES])  # mostly plain pictures, so that some are read


@dataclass(frozen=True)
class Group:
    """Files of one kind in one folder."""

    folders: tuple[str, ...]
    kind: str
    count: int

    def write(self, root: Path, start: int) -> None:
        place = root.joinpath(*self.folders)
        try:
            place.mkdir(parents=True, exist_ok=True)
            for i in range(start, start + self.count):
                content = (_FILES | _BROKEN)[self.kind](i)
                Path(os.fsdecode(os.fsencode(place / self.kind.format(i)))).write_bytes(content)
        except OSError:
            return  # a name that this file system refuses, or a file where a folder should be


GROUPS = st.builds(
    Group,
    st.lists(FOLDERS, max_size=3).map(tuple),
    st.one_of(KINDS, KINDS, st.sampled_from(sorted(_BROKEN))),
    st.integers(0, 7),
)

_CELLS = st.sampled_from(
    ["red", "blue", "", "0", "1", "nan", "caf\u00e9", '"', "a;b", "[1]", "\x85", "1,0", "0,1"]
)
_NAMES = st.sampled_from(
    [*(f"{i}.png" for i in range(8)), "gone.png", ".\\0.png", "train/0.png", "cat/1.png", "", "1"]
)
_HEADERS = st.sampled_from(
    [
        "file_name,label",
        "file_name,text",
        "file_name,MEL,NV",
        "id,breed",
        "image;caption",
        "label",
        "a,b,c",
        "",
        "x|y",
    ]
)
_ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32"])


@dataclass(frozen=True)
class TableFile:
    """A table beside images."""

    folders: tuple[str, ...]
    name: str
    header: str
    rows: tuple[tuple[str, str], ...]
    encoding: str

    def write(self, root: Path, start: int) -> None:
        if self.name.endswith(".jsonl"):
            keys = [*self.header.replace(";", ",").split(","), "x"][:2]
            text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in self.rows)
        else:
            separator = next((s for s in ";|" if s in self.header), ",")
            text = "\n".join([self.header, *(separator.join(row) for row in self.rows)])
        try:
            root.joinpath(*self.folders).mkdir(parents=True, exist_ok=True)
            root.joinpath(*self.folders, self.name).write_bytes(text.encode(self.encoding, "replace"))
        except OSError:
            return


TABLES = st.builds(
    TableFile,
    st.lists(FOLDERS, max_size=1).map(tuple),
    st.sampled_from(["metadata.csv", "metadata.jsonl", "metadata.tsv", "labels.csv", "train.csv", "test.csv",
                     "birds.csv", "images.txt", "train_test_split.txt", "captions.txt", "results.csv",
                     "metadata.parquet"]),
    _HEADERS,
    st.lists(st.tuples(_NAMES, _CELLS), max_size=10).map(tuple),
    _ENCODINGS,
)  # fmt: skip

_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS: dict[str, Callable[[int], pa.Array]] = {
    "struct": lambda n: pa.array([{"bytes": picture(i), "path": f"{i}.png"} for i in range(n)], _STRUCT),
    "paths": lambda n: pa.array([{"bytes": None, "path": f"{i}.png"} for i in range(n)], _STRUCT),
    "empty cells": lambda n: pa.array([None] * n, _STRUCT),
    "binary": lambda n: pa.array([picture(i) for i in range(n)]),
    "view": lambda n: pa.array([picture(i) for i in range(n)], pa.binary_view()),
    "lists": lambda n: pa.array([[picture(i)] for i in range(n)]),
    "text": lambda n: pa.array(["a" * 11_000] * n),
    "names": lambda n: pa.array([f"{i}.png" for i in range(n)]),
    "numbers": lambda n: pa.array(list(range(n))),
    "nulls": lambda n: pa.nulls(n),
}
_LABELS: dict[str, Callable[[int], pa.Array]] = {
    "texts": lambda n: pa.array(["red", "blue"] * (n // 2)),
    "text numbers": lambda n: pa.array([str(i % 3) for i in range(n)]),
    "numbers": lambda n: pa.array([i % 2 for i in range(n)]),
    "floats": lambda n: pa.array([0.5] * n),
    "lists": lambda n: pa.array([["red"]] * n),
    "nulls": lambda n: pa.nulls(n),
    "hidden": lambda n: pa.array([-1] * n),
    "flags": lambda n: pa.array([True, False] * (n // 2)),
}


@dataclass(frozen=True)
class ParquetFile:
    """A table of images."""

    name: str
    image: str
    label: str
    column: str
    rows: int

    def write(self, root: Path, start: int) -> None:
        path = root / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {self.column: _COLUMNS[self.image](self.rows), "label": _LABELS[self.label](self.rows)}
        pq.write_table(pa.table(columns), path)


PARQUET = st.builds(
    ParquetFile,
    st.sampled_from(["train.parquet", "test.parquet", "0000.parquet", "data/train-00000-of-00001.parquet",
                     "data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet",
                     "x/train.parquet", "train/0000.parquet", "test/0000.parquet", "data.parquet"]),
    st.sampled_from(sorted(_COLUMNS)),
    st.sampled_from(sorted(_LABELS)),
    st.sampled_from(["image", "picture", "img", "odd"]),
    st.sampled_from([0, 6, 12]),
)  # fmt: skip

Part = Group | TableFile | ParquetFile


def write_parts(root: Path, parts: list[Part]) -> Path:
    """Write all of a folder's parts."""
    root.mkdir(parents=True, exist_ok=True)
    for start, part in enumerate(parts):
        part.write(root, 10 * start if isinstance(part, Group) and start else 0)
    return root


_ABOVE = (
    (), (), ("train", "test"), ("Training", "Testing"), ("train", "val", "test"), ("images",),
    ("images", "masks"), ("pets",), ("fold1", "fold2"), ("train", "test1"), ("train2017", "val2017"),
    ("x_part_1", "x_part_2"), ("images_001", "images_002"), ("amazon", "dslr"), ("", "pets"),
    ("amazon/images", "dslr/images"),
)  # fmt: skip
_LEVELS = (
    ("cat", "dog"), ("cat", "dog"), ("0", "1", "10", "2"), ("001.cat", "002.dog"), ("cat", "Cat"),
    ("train", "boat"), (), ("n01440764", "n01443537"),
)  # fmt: skip
_BELOW = ((), (), (), ("images",), ("images", "masks"), ("2020", "2021"), ("train", "test"))


@st.composite
def laid_out(draw: st.DrawFn) -> list[Part]:
    """A folder whose pictures lie alike in a few places: what people mostly have, with an oddity in it."""
    above, classes = draw(st.sampled_from(_ABOVE)), draw(st.sampled_from(_LEVELS))
    below = draw(st.sampled_from(_BELOW))
    count = draw(st.sampled_from([1, 4, 8]))
    places = [
        tuple(part for part in (a, c, b) if part)
        for a in above or ("",) for c in classes or ("",) for b in below or ("",)
    ]  # fmt: skip
    parts: list[Part] = [Group(place, "{}.png", count) for place in places]
    parts += draw(st.lists(st.one_of(GROUPS, TABLES), max_size=2))
    return parts


FOLDER_PARTS: st.SearchStrategy[list[Part]] = st.one_of(
    laid_out(),
    laid_out(),
    st.lists(st.one_of(GROUPS, GROUPS, TABLES), max_size=5),
    st.lists(PARQUET, min_size=1, max_size=3),
)

_VALUES = st.sampled_from(
    [
        "3",
        "-1",
        "0",
        "1e-4",
        "nan",
        "inf",
        '"x"',
        "true",
        "[]",
        "{}",
        '["a", "b"]',
        '""',
        "1e400",
        "2030-01-01",
    ]
)
_KEYS = st.sampled_from(
    ["model", "model.name", "data.target", "data.transfer", "data.train_per_class", "data.seed",
     "data.protocol", "method", "method.name", "method.rank", "method.targets", "optim.learning_rate",
     "optim.epochs", "optim.batch_size", "penalty", "seed", "evaluation.batch_size", "odd", "odd.key", "a b"]
)  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    """A run's TOML file, changed in a few lines and in its bytes."""
    lines = [f"{key} = {value}" for key, value in draw(st.lists(st.tuples(_KEYS, _VALUES), max_size=4))]
    lines += draw(
        st.lists(
            st.sampled_from(["[data]", "[[penalty]]", "x", "= 3", "\x00", "# ü", "seed = 3"]), max_size=3
        )
    )
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.encode(encoding)
