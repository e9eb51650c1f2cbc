"""Pictures with captions in tables of images: parquet, saved tables, archives, the hub."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdrift.config.named import DataSet
from clipdrift.data.errors import DataError
from clipdrift.data.pairs import ANY, TEST, TRAIN, VALIDATION, PairSource, open_pairs

Encode = Callable[..., bytes]
Contents = dict[bytes, tuple[int, tuple[str, ...]]]


def pairs(path: Path, **options: Any) -> PairSource:
    return open_pairs(DataSet(name="mine", path=str(path), **options))


def contents(source: PairSource) -> Contents:
    """Part and captions by the picture's bytes."""
    each = dict(enumerate(source.captions))
    assert all(each[i] == source.captions.all(i) for i in each)
    assert source.captions.counts.tolist() == [len(each[i]) for i in each]
    return {bytes(source.images.read(i)): (int(source.part[i]), each[i]) for i in each}


def write(path: Path, pictures: list[bytes], **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pictures, **columns}), path)


def said(source: PairSource, *words: str) -> bool:
    return any(all(word in note for word in words) for note in source.notes)


@pytest.mark.parametrize("captions", [
    {"text": ["a", "b"]},
    {"label": [7, 8], "caption": ["a", "b"]},
    {"captions": [["a"], ["b"]]},
    {"sentences": [[{"raw": "a", "sentid": 1}], [{"raw": "b", "sentid": 2}]]},
    {"caption": ["['a']", '["b"]']},
    {"caption_0": ["a", None], "caption_1": ["", "b"]},
])  # fmt: skip
def test_parquet_by_split(tmp_path: Path, encode: Encode, captions: dict[str, Any]) -> None:
    pictures = [encode(i) for i in range(8)]
    for place, split in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation", "test")):
        write(tmp_path / f"data/{split}.parquet", pictures[2 * place : 2 * place + 2], **captions)
    source = pairs(tmp_path)
    assert source.kind == "parquet"
    parts = (TRAIN, TRAIN, TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST)
    expected = {picture: (parts[i], ("ab"[i % 2],)) for i, picture in enumerate(pictures)}
    assert contents(source) == expected
    assert said(source, f"captions are read from column '{list(captions)[-1][:7]}")
    assert [source.images.where(i) for i in (0, 3, 7)] == [
        "mine test row 0", "mine train row 1", "mine validation row 1"
    ]  # fmt: skip


def test_rows_without_captions_are_left_out_and_counted(tmp_path: Path, encode: Encode) -> None:
    pictures = [encode(i) for i in range(5)]
    cells = [["a", " "], [], None, [""], ["b", "c"]]
    write(tmp_path / "train.parquet", pictures, captions=pa.array(cells, pa.list_(pa.string())))
    source = pairs(tmp_path)
    assert contents(source) == {pictures[0]: (TRAIN, ("a",)), pictures[4]: (TRAIN, ("b", "c"))}
    assert said(source, "3 of 5 images have no caption, left out")
    assert source.captions.text(1, 1) == "c"
    with pytest.raises(IndexError, match="an image with 2 captions has no caption number 2"):
        source.captions.text(1, 2)
    part = source.captions.subset(np.array([1, 0]))
    assert list(part) == [("b", "c"), ("a",)]
    assert part.all(0) == ("b", "c")
    assert part.texts(np.array([1, 0, 0]), np.array([0, 1, 0])) == ["a", "c", "b"]


def test_captions_stay_in_the_table(tmp_path: Path, encode: Encode) -> None:
    """Pieces of several tables in any order; a fingerprint that does not depend on where they are kept."""
    pictures = [encode(i) for i in range(6)]
    texts = [[f"no. {i} {k}" for k in range(1 + i % 3)] for i in range(6)]
    for split, rows in (("test", slice(0, 2)), ("train", slice(2, 6))):
        write(tmp_path / f"tables/{split}.parquet", pictures[rows], captions=texts[rows])
    source = pairs(tmp_path / "tables")
    order = np.array([5, 0, 4, 1, 1])
    assert list(source.captions.subset(order)) == [tuple(texts[i]) for i in order]
    loose = tmp_path / "loose"
    for i in range(6):
        place = loose / ("test" if i < 2 else "train") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pictures[i])
        place.with_suffix(".txt").write_text("\n".join(texts[i]))
    other = pairs(loose)
    assert contents(other) == contents(source)
    assert list(other.captions.subset(order)) == [tuple(texts[i]) for i in order]
    assert other.captions.fingerprint() == source.captions.fingerprint()
    assert other.captions.subset(order).fingerprint() != source.captions.fingerprint()


def test_a_column_of_splits_goes_before_the_tables_name(tmp_path: Path, encode: Encode) -> None:
    """Flickr30k on the hub is one table called ``test``."""
    pictures = [encode(i) for i in range(4)]
    splits = ["train", "val", "test", None]
    write(tmp_path / "test.parquet", pictures, caption=["a", "b", "c", "d"], split=splits)
    source = pairs(tmp_path)
    assert source.part.tolist() == [TRAIN, VALIDATION, TEST, TEST]
    assert said(source, "splits are read from column 'split'")


def test_names_of_splits(tmp_path: Path, encode: Encode) -> None:
    for place, split in enumerate(("first", "second", "val", "third")):
        write(tmp_path / f"{split}.parquet", [encode(place)], text=[split])
    source = pairs(tmp_path, train_split="first", test_split="second")
    found = dict(zip((texts[0] for texts in source.captions), source.part.tolist(), strict=True))
    assert found == {"first": TRAIN, "second": TEST, "val": VALIDATION, "third": ANY}
    assert said(source, "mine third: no name of a split that is known; divided with the training images")


def test_a_single_split_is_divided(tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "test.parquet", [encode(i) for i in range(3)], text=["a", "b", "c"])
    source = pairs(tmp_path)
    assert source.part.tolist() == [ANY] * 3
    assert said(source, "all images are in the test split, which is divided")


@pytest.mark.parametrize("splits", [True, False])
def test_saved_tables(tmp_path: Path, encode: Encode, splits: bool) -> None:
    def table(*numbers: int) -> datasets.Dataset:
        rows = {
            "image": [{"bytes": encode(i), "path": None} for i in numbers],
            "text": [f"{i}" for i in numbers],
        }
        return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())

    saved = datasets.DatasetDict({"train": table(0, 1), "validation": table(2)}) if splits else table(0, 1, 2)
    saved.save_to_disk(str(tmp_path / "saved"))
    source = pairs(tmp_path / "saved")
    assert source.kind == "saved"
    parts = (TRAIN, TRAIN, VALIDATION) if splits else (ANY, ANY, ANY)
    assert contents(source) == {encode(i): (parts[i], (f"{i}",)) for i in range(3)}


def test_columns_by_name(tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "train.parquet", [b"wrong"], shot=[encode(0)], text=["wrong"], alt=["a"])
    source = pairs(tmp_path, image_column="shot", caption_column="alt")
    assert contents(source) == {encode(0): (TRAIN, ("a",))}
    refused(tmp_path, "no column of captions 'nix'; it has image, shot, text, alt", caption_column="nix")
    refused(tmp_path, "no column 'nix'", image_column="nix")


def test_paths_in_the_image_column(tmp_path: Path, encode: Encode) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots/0.png").write_bytes(encode(0))
    (tmp_path / "shots/1.png").write_bytes(encode(1))
    pq.write_table(pa.table({"image": ["shots/0.png"], "text": ["a"]}), tmp_path / "train.parquet")
    source = pairs(tmp_path)
    assert contents(source) == {encode(0): (TRAIN, ("a",))}
    assert [(one.place, one.ending, one.count) for one in source.passed] == [("shots", ".png (images)", 1)]


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("ending", ["txt", "json", "json, several"])
def test_webdataset(tmp_path: Path, encode: Encode, ending: str) -> None:
    def caption(i: int) -> bytes:
        content = {
            "txt": f"picture {i}\n\nno. {i}\n",
            "json": json.dumps({"caption": f"picture {i}", "width": 8}),
        }
        return content.get(ending, json.dumps({"captions": [f"picture {i}"], "key": "x"})).encode()

    for place, split in enumerate(("train-000", "train-001", "val-000")):
        members: dict[str, bytes] = {}
        for i in (2 * place, 2 * place + 1):
            members |= {f"{i:04}.png": encode(i), f"{i:04}.{ending[:4].rstrip(',')}": caption(i)}
        tar(tmp_path / f"{split}.tar", members)
    source = pairs(tmp_path)
    assert source.kind == "webdataset"
    parts = [TRAIN] * 4 + [VALIDATION] * 2
    more = [(f"no. {i}",) if ending == "txt" else () for i in range(6)]  # a caption a line
    assert contents(source) == {encode(i): (parts[i], (f"picture {i}", *more[i])) for i in range(6)}


def test_what_img2dataset_writes(tmp_path: Path, encode: Encode) -> None:
    """Numbered archives without a split, a table about each beside it, and a file of statistics."""
    for shard in range(2):
        members: dict[str, bytes] = {}
        for i in (2 * shard, 2 * shard + 1):
            about = {
                "caption": f"picture {i}",
                "url": "x",
                "key": f"{i:09}",
                "exif": "{}",
                "status": "success",
            }
            members |= {f"{i:09}.jpg": encode(i, format="JPEG"), f"{i:09}.txt": f"picture {i}".encode()}
            members |= {f"{i:09}.json": json.dumps(about).encode()}
        tar(tmp_path / f"{shard:05}.tar", members)
        pq.write_table(pa.table({"caption": ["x"], "key": ["y"]}), tmp_path / f"{shard:05}.parquet")
        (tmp_path / f"{shard:05}_stats.json").write_text("{}")
    source = pairs(tmp_path)
    assert contents(source) == {encode(i, format="JPEG"): (ANY, (f"picture {i}",)) for i in range(4)}
    assert {(one.ending, one.count) for one in source.passed} == {(".parquet", 2), (".json", 2)}


def test_the_hub_by_name(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """All splits that its cache holds."""
    for place, split in enumerate(("train", "validation", "test")):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", [encode(place)], caption=[split])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub, **options: str(tmp_path))
    source = open_pairs(DataSet(name="some/captions"))
    assert (source.kind, source.part.tolist()) == ("hub", [TEST, TRAIN, VALIDATION])
    assert list(source.captions) == [("test",), ("train",), ("validation",)]


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message) as error:
        pairs(path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("columns", "message"), [
    ({}, "mine: no column of captions is known; it has image; set `caption_column`"),
    ({"text": [1]}, "no column of captions is known; it has image, text"),
    ({"text": [""]}, "none of 1 images has a caption in column 'text'"),
])  # fmt: skip
def test_tables_without_captions_are_refused(
    tmp_path: Path, encode: Encode, columns: dict[str, Any], message: str
) -> None:
    write(tmp_path / "train.parquet", [encode(0)], **columns)
    refused(tmp_path, message)


def test_tables_without_images_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"], "text": ["a"]}), tmp_path / "train.parquet")
    refused(tmp_path, "which column is meant is not clear; it has url, text; set `image_column`")
    pq.write_table(pa.table({"image": ["https://x.org/a.png"], "text": ["a"]}), tmp_path / "train.parquet")
    refused(tmp_path, "holds addresses .*nothing is downloaded")
