"""Tables of images in the types and layouts that people's tools write."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_inputs import archive, opened, picture, put, said, write

from clipdrift.data.errors import BadImage, DataError

LABELS = ["red", "green", "blue"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = [picture(i) for i in range(3)]


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are never written to the user's cache."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def tables(root: Path, column: Any, name: str = "image", files: tuple[str, str] = ("train", "test")) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        pq.write_table(pa.table({name: column, "label": LABELS}), root / f"{file}.parquet")
    return root


TYPES = {
    "binary": pa.array(PICTURES, pa.binary()),
    "large_binary": pa.array(PICTURES, pa.large_binary()),
    "binary_view": pa.array(PICTURES, pa.binary_view()),
    "struct": pa.array([{"bytes": p, "path": None} for p in PICTURES], STRUCT),
    "struct of views": pa.array(
        [{"bytes": p, "path": "x"} for p in PICTURES],
        pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
    ),
    "base64": pa.array([base64.b64encode(p).decode() for p in PICTURES]),
    "base64, lines": pa.array([base64.encodebytes(p).decode() for p in PICTURES]),
    "base64, for addresses": pa.array([base64.urlsafe_b64encode(p).decode() for p in PICTURES]),
    "data address": pa.array(["data:image/png;base64," + base64.b64encode(p).decode() for p in PICTURES]),
}


@pytest.mark.parametrize("kind", TYPES)
def test_pictures_in_any_type(tmp_path: Path, kind: str) -> None:
    """The bytes are those that were put in; what was guessed is said."""
    source = opened(tables(tmp_path, TYPES[kind]))
    assert source.train is not None
    by_label = {source.classes[label]: i for i, label in enumerate(source.train.labels.tolist())}
    assert {name: source.train.read(i) for name, i in by_label.items()} == dict(
        zip(LABELS, PICTURES, strict=True)
    )
    assert said(source.notes, "column 'image' is taken as `image_column` by its name")
    assert said(source.notes, "is read as base64 text") == (kind.startswith(("base64", "data")))


def test_paths_start_at_the_tables_folder(tmp_path: Path) -> None:
    put(tmp_path, "pictures/{}.png*3")
    source = opened(tables(tmp_path, pa.array([f"pictures/{i}.png" for i in range(3)])))
    assert source.train is not None
    assert sorted(source.train.read(i) for i in range(3)) == sorted(PICTURES)
    assert source.passed == ()  # they are read, if by way of the table
    put(tmp_path, "pictures/more{}.png*2")
    assert [(one.place, one.count) for one in opened(tmp_path).passed] == [("pictures", 2)]


@pytest.mark.parametrize(("column", "message"), [
    (pa.array([[{"bytes": p, "path": None}] for p in PICTURES], pa.list_(STRUCT)), "one image a row"),
    (pa.array([[p] for p in PICTURES], pa.list_(pa.binary())), "one image a row is needed"),
    (pa.array([1, 2, 3]), "holds int64; one image a row is needed"),
    (pa.array(["https://example.org/a.png"] * 3), "holds addresses .*nothing is downloaded"),
    (pa.array([{"data": p} for p in PICTURES]), "one image a row is needed"),
])  # fmt: skip
def test_columns_that_hold_no_pictures(tmp_path: Path, column: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        opened(tables(tmp_path, column))
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_broken_cell_is_told_in_a_short_line(tmp_path: Path) -> None:
    """Text of kilobytes is not repeated in the message."""
    good = base64.b64encode(PICTURES[0]).decode()
    source = opened(tables(tmp_path, pa.array([good, "A" * 11_001, "#" * 11_000])))
    assert source.train is not None
    for row in (1, 2):
        with pytest.raises(BadImage, match=rf"mine train row {row}") as error:
            source.train.read(row)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("files", [("0000", "0001"), ("1", "2")])
def test_numbers_that_name_no_split(tmp_path: Path, files: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="does not say of which split it is"):
        opened(tables(tmp_path, TYPES["binary"], files=files))


def test_more_files_than_their_names_say(tmp_path: Path) -> None:
    """Two downloads in one folder: not "2 of 1"."""
    names = ("train-00000-of-00001", "train-00000-of-00001-0a1b2c")
    tables(tmp_path, TYPES["binary"], files=names)
    with pytest.raises(DataError, match="2 files of split 'train', whose names say that they are 1") as error:
        opened(tmp_path)
    assert "2 of 1" not in str(error.value)


def test_text_numbers_are_in_numeric_order(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = {"image": [picture(i) for i in range(12)], "label": [str(i) for i in range(12)]}
        pq.write_table(pa.table(table), tmp_path / f"{split}.parquet")
    source = opened(tmp_path, classes=tuple(f"name {letter}" for letter in "abcdefghijkl"))
    assert source.train is not None
    assert source.train.labels.tolist() == list(range(12))


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": p, "path": None} for p in PICTURES], "label": LABELS}
    )
    datasets.DatasetDict(train=made, test=made).save_to_disk(str(tmp_path / "saved"))
    source = opened(tmp_path / "saved")
    assert source.kind == "saved"
    assert source.classes == tuple(sorted(LABELS))
    assert source.train is not None
    assert sorted(source.train.read(i) for i in range(3)) == sorted(PICTURES)
    with pytest.raises(DataError, match="no split 'validation'; it has test, train"):
        opened(tmp_path / "saved", test_split="validation")
    with pytest.raises(DataError, match="one table without splits"):
        opened(tmp_path / "saved" / "train")
    write(tmp_path / "saved" / "train" / "state.json", "{")
    with pytest.raises(DataError, match="cannot be read as saved by save_to_disk") as error:
        opened(tmp_path / "saved")
    assert "\n" not in str(error.value)


def test_archives_of_a_webdataset(tmp_path: Path) -> None:
    for name, count in (("pets-train-000000", 6), ("pets-train-000001", 2), ("pets-test-000000", 4)):
        archive(tmp_path / f"{name}.tar", ".png", ".cls", count=count)
    source = opened(tmp_path, classes=("cat", "dog"))
    assert source.kind == "webdataset"
    assert source.train is not None
    assert source.test is not None
    assert source.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert source.train.read(1) == picture(1)
    assert len(source.test) == 4
    assert source.passed == ()
    with pytest.raises(DataError, match="numbers without names; set `classes`"):
        opened(tmp_path)
    archive(tmp_path / "pets-train-000000.tar", ".png", ".txt")
    archive(tmp_path / "pets-train-000001.tar", ".png", ".txt")
    with pytest.raises(DataError, match="it has png, txt, __key__, __url__; set `label_column`"):
        opened(tmp_path, classes=("cat", "dog"))


@pytest.mark.parametrize(("name", "advice"), [
    ("0000.tar", "unpack them"), ("images.zip", "unpack them"), ("x.npz", "save them as PNG"),
])  # fmt: skip
def test_archives_are_named_with_what_to_do(tmp_path: Path, name: str, advice: str) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=advice):
        opened(tmp_path)


def test_metadata_as_parquet_is_no_table_of_images(tmp_path: Path) -> None:
    """Beside class folders it says something of the files."""
    put(tmp_path, "cat/{}.png*3", "dog/{}.png*3")
    pq.write_table(pa.table({"file_name": ["cat/0.png"], "text": ["a cat"]}), tmp_path / "metadata.parquet")
    source = opened(tmp_path)
    assert source.kind == "folder"
    assert source.classes == ("cat", "dog")
