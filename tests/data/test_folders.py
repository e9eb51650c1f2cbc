from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tables import local

from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.folders import all_images
from clipdrift.data.tree import passed_over, read_tree


def test_split_folders(image_folder: Any, encode: Any) -> None:
    root = image_folder({"train/cat": 12, "train/dog": 2, "test/cat": 1, "test/dog": 2, "val/cat": 1})
    (root / "train/cat/im3.png").rename(root / "train/cat/IM3.JPEG")
    for junk in ("README.md", ".DS_Store", "Thumbs.db", "._im1.png"):
        (root / "train/cat" / junk).write_bytes(b"junk")
    source = local(root)
    assert source.kind == "folder"
    assert source.classes == ("cat", "dog")
    assert source.train is not None
    assert source.test is not None
    assert source.train.labels.tolist() == [0] * 12 + [1] * 2
    order = [Path(source.train.where(i)).name for i in range(12)]
    assert order == ["IM3.JPEG"] + [f"im{i}.png" for i in (0, 1, 2, *range(4, 12))]  # im2 before im10
    assert source.test.where(0) == str(root / "test/cat/im0.png")
    assert source.test.read(0) == encode(2000)


def test_validation_folder_counts_only_by_name(image_folder: Any) -> None:
    root = image_folder({f"{split}/{name}": 2 for split in ("train", "val") for name in ("a", "b")})
    with pytest.raises(DataError, match="no split 'test'; it has train, val; set"):
        local(root)
    source = local(root, test_split="val")
    assert source.test is not None
    assert str(root / "val") in source.test.where(0)


@pytest.mark.parametrize(("counts", "message"), [
    ({"train/a": 1, "train/b": 1, "test/a": 1}, "no class folder 'b' in 'test'"),
    ({"train/a": 1, "train/b": 0, "test/a": 1, "test/b": 1}, "train/b: no images in this class folder"),
    ({"a": 3, "b": 0}, "b: no images in this class folder"),
    ({"a": 3, "b": 1}, "b: one image only"),
    ({"a": 3}, "1 class\\(es\\) found, at least two"),
    ({"sea_lake": 2, "SeaLake": 2}, "two classes are both called 'sea lake'"),
])  # fmt: skip
def test_faulty_folders(image_folder: Any, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        local(image_folder(counts))
    assert "\n" not in str(error.value)


def test_one_level_is_divided_by_us_once_and_for_all(image_folder: Any) -> None:
    root = image_folder({"train": 10, "boat": 20, "car": 2})  # "train" is a vehicle here
    source = local(root)
    assert source.classes == ("boat", "car", "train")
    assert source.train is not None
    assert source.test is not None
    assert np.bincount(source.test.labels).tolist() == [4, 1, 2]
    assert np.bincount(source.train.labels).tolist() == [16, 1, 8]
    files = [images.where(i) for images in (source.train, source.test) for i in range(len(images))]
    assert len(set(files)) == 32
    again = local(root)
    assert again.test is not None
    assert again.test.fingerprint() == source.test.fingerprint()
    held_out = {source.test.where(i) for i in range(len(source.test))}
    shutil.rmtree(root / "boat")
    fewer = local(root).test
    assert fewer is not None
    assert {fewer.where(i) for i in range(len(fewer))} < held_out
    with pytest.raises(DataError, match="no split 'held_out'"):
        local(root, test_split="held_out")


def test_links_are_followed(image_folder: Any, tmp_path: Path) -> None:
    root = image_folder({"a": 3, "elsewhere/b": 3})
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(root / "a")
    (linked / "b").symlink_to(root / "elsewhere/b")
    source = local(linked)
    assert source.classes == ("a", "b")
    (root / "a/im0.png").unlink()
    (root / "a/im0.png").symlink_to("nowhere.png")
    source = local(linked)
    dangling = [images for images in (source.train, source.test) if images is not None]
    place = [
        (images, i)
        for images in dangling
        for i in range(len(images))
        if images.where(i).endswith("a/im0.png")
    ]
    with pytest.raises(BadImage, match=re.escape("a/im0.png: cannot be read")):
        place[0][0].read(place[0][1])


def test_classes_of_a_folder_may_be_renamed_but_not_by_mistake(image_folder: Any) -> None:
    root = image_folder({"n01": 2, "n02": 2})
    assert local(root, classes=("tench", "goldfish")).classes == ("tench", "goldfish")
    with pytest.raises(DataError, match="names 3 classes, the data have 2"):
        local(root, classes=("a", "b", "c"))
    with pytest.raises(DataError, match="own names in another order"):
        local(root, classes=("n02", "n01"))
    with pytest.raises(DataError, match="both called 'x'"):
        local(root, classes=("x", "x"))


def test_unlabelled_images(image_folder: Any, tmp_path: Path) -> None:
    root = image_folder({"b": 2, "a/deep": 1, ".hidden": 1})
    tree = read_tree(root)
    images = all_images(tree)
    passed = passed_over(tree, set(tree.below))
    assert [(one.place, one.ending, one.count) for one in passed] == [(".", "hidden", 1)]
    assert [Path(images.where(i)).relative_to(root).as_posix() for i in range(3)] == [
        "a/deep/im0.png", "b/im0.png", "b/im1.png",
    ]  # fmt: skip
    assert images.labels.tolist() == [0, 0, 0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: neither parquet files nor images in it"):
        all_images(read_tree(tmp_path / "empty"))
