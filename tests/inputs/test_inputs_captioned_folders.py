"""Pictures with captions as files, in the layouts that people have, opened to be trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from odd_inputs import picture, put, said, write

from clipdrift.config.named import DataSet
from clipdrift.data.errors import DataError
from clipdrift.data.pairs import ANY, TEST, TRAIN, VALIDATION, PairSource, open_pairs

PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}


def pairs(path: Path, **options: Any) -> PairSource:
    return open_pairs(DataSet(name="mine", path=str(path), **options))


def contents(source: PairSource) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Part and captions by file name; the picture of each file is checked."""
    found = {}
    for i in range(len(source)):
        file = Path(source.images.where(i))
        assert source.images.read(i) == file.read_bytes()
        found[file.name] = (int(source.part[i]), source.captions.all(i))
    assert len(found) == len(source)
    return found


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def two(i: int) -> list[str]:
    return [f"picture {i}", f"no. {i}"]


EXPECTED = {f"{i}.png": (ANY, tuple(two(i))) for i in range(3)}


def jsonl(root: Path) -> None:
    write(root / "metadata.jsonl", lines(*({"file_name": f"{i}.png", "text": two(i)} for i in range(3))))


def rows(root: Path) -> None:
    said = "".join(f"{i}.png;{text}\n" for text_of in (0, 1) for i in range(3) for text in [two(i)[text_of]])
    write(root / "captions.csv", "\ufefffile_name;caption\n" + said)


def numbered(root: Path) -> None:
    said = "".join(f".\\{i}.png\t{two(i)[0]}\t{two(i)[1]}\n" for i in range(3))
    write(root / "metadata.tsv", "image\tcaption_1\tcaption_2\n" + said)


def parquet(root: Path) -> None:
    table = pd.DataFrame([(f"{i}.png", two(i)) for i in range(3)], columns=["file_name", "captions"])
    table.to_parquet(root / "captions.parquet")


def flickr(root: Path) -> None:
    said = "".join(f"{i}.png| {k}| {text}\n" for i in range(3) for k, text in enumerate(two(i)))
    write(root / "results.csv", "image_name| comment_number| comment\n" + said)


def beside(root: Path) -> None:
    for i in range(3):
        write(root / f"{i}.txt", f"{two(i)[0]}\n\n{two(i)[1]}\n")


def coco(root: Path) -> None:
    content = {
        "images": [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(3)],
        "annotations": [{"image_id": 10 + i, "caption": text} for i in range(3) for text in two(i)],
    }
    write(root / "annotations/captions.json", json.dumps(content))


def openclip(root: Path) -> None:
    said = "".join(f"{i}.png\t{text}\n" for i in range(3) for text in two(i))
    write(root / "pairs.csv", "filepath\ttitle\n" + said)


@pytest.mark.parametrize("layout", [jsonl, rows, numbered, parquet, flickr, beside, coco, openclip])
def test_layouts_that_name_no_split(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    put(tmp_path, "{}.png*3")
    layout(tmp_path)
    source = pairs(tmp_path)
    assert contents(source) == EXPECTED
    assert source.kind == ("table" if layout is openclip else "folder")
    assert source.notes == source.passed == ()
    assert source.images.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train2017", "val2017", "test2017")])
def test_split_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The same file names in each, every table about its own folder."""
    for number, split in enumerate(names):
        write(tmp_path / split / "0.png", picture(number))
        write(tmp_path / split / "metadata.csv", f"file_name,text\n0.png,of {split}\n")
    source = pairs(tmp_path)
    parts = {source.captions.text(i, 0): int(source.part[i]) for i in range(3)}
    assert parts == {f"of {split}": PARTS[split.rstrip("0127")] for split in names}


def test_a_column_of_splits_goes_before_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/{}.png*4")
    splits = ("train", "dev", "Test", "")
    said_ = "".join(f"train/{i}.png,picture {i},{split}\n" for i, split in enumerate(splits))
    write(tmp_path / "metadata.csv", "file_name,text,split\n" + said_)
    assert pairs(tmp_path).part.tolist() == [TRAIN, VALIDATION, TEST, TRAIN]


def test_splits_that_are_not_known_are_said(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*2")
    write(tmp_path / "metadata.csv", "file_name,text,fold\n0.png,x,7\n1.png,y,8\n")
    source = pairs(tmp_path)
    assert source.part.tolist() == [ANY, ANY]
    assert said(source.notes, "2 rows name a split that is not known ('7', '8')")


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    write(tmp_path / "metadata.csv", "file_name,text,split\n0.png,x,train\n0.png,y,test\n")
    refused(tmp_path, r"0\.png: in the training split and in the test split; one is needed")


def karpathy(i: int, split: str, folder: str | None) -> dict[str, Any]:
    place = {} if folder is None else {"filepath": folder}
    sentences = [{"raw": text, "tokens": text.split()} for text in two(i)]
    return {"filename": f"{i}.png", "split": split, "sentences": sentences, "cocoid": i, **place}


@pytest.mark.parametrize("folder", ["val2014", "images/val2014", None])
def test_karpathys_splits(tmp_path: Path, folder: str | None) -> None:
    """His splits go before folders' names, his captions before COCO's, which lie beside them."""
    put(tmp_path, f"{folder or 'images'}/{{}}.png*4")
    splits = ("train", "restval", "val", "test")
    filepath = None if folder is None else "val2014"
    content = {"images": [karpathy(i, split, filepath) for i, split in enumerate(splits)]}
    write(tmp_path / f"dataset_{'flickr30k' if folder is None else 'coco'}.json", json.dumps(content))
    if folder is not None:
        annotations = [{"image_id": 0, "caption": text} for text in two(0)]
        other = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": annotations}
        write(tmp_path / "annotations/captions_val2014.json", json.dumps(other))
    source = pairs(tmp_path)
    parts = (TRAIN, TRAIN, VALIDATION, TEST)
    assert contents(source) == {f"{i}.png": (part, tuple(two(i))) for i, part in enumerate(parts)}
    words = ("captions_val2014.json", "2 captions of images that have captions from another file")
    assert said(source.notes, *words) == (folder is not None)


@pytest.mark.parametrize("images", ["", "images/"])
@pytest.mark.parametrize("place", [".", "annotations"])
def test_coco(tmp_path: Path, images: str, place: str) -> None:
    """File names start at the split's folder, and both splits may use the same ones."""
    for number, split in enumerate(("train2017", "val2017")):
        write(tmp_path / f"{images}{split}/0.png", picture(number))
        captions = [{"image_id": 5, "caption": f"of {split}"}, {"image_id": 5, "caption": " "}]
        content = {"images": [{"id": 5, "file_name": "0.png"}], "annotations": captions}
        write(tmp_path / place / f"captions_{split}.json", json.dumps(content))
        write(tmp_path / "annotations" / f"instances_{split}.json", "not looked at")
    source = pairs(tmp_path)
    found = {source.captions.all(i): int(source.part[i]) for i in range(2)}
    assert found == {("of train2017",): TRAIN, ("of val2017",): VALIDATION}
    assert said(source.notes, "captions_train2017.json", "1 rows have no caption")
    assert said(source.notes, "2 .json in annotations")


def test_cocos_splits_of_one_folder(tmp_path: Path) -> None:
    put(tmp_path, "images/{}.png*2")
    for i, split in enumerate(("train", "val")):
        annotations = [{"image_id": i, "caption": text} for text in two(i)]
        content = {"images": [{"id": i, "file_name": f"{i}.png"}], "annotations": annotations}
        write(tmp_path / f"captions_{split}.json", json.dumps(content))
    assert pairs(tmp_path).part.tolist() == [TRAIN, VALIDATION]


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("absolute", [True, False])
def test_openclips_table_by_its_own_path(tmp_path: Path, separator: str, absolute: bool) -> None:
    """Images of the folder that it does not name are none of its business."""
    put(tmp_path, "shots/{}.png*4")
    start = f"{tmp_path}/" if absolute else ""
    rows = [(f"{start}shots/{i}.png", text) for i in range(3) for text in two(i)]
    table = write(
        tmp_path / "pairs.csv", "".join(f"{a}{separator}{b}\n" for a, b in [("filepath", "title"), *rows])
    )
    source = pairs(table)
    assert (contents(source), source.kind, source.notes, source.passed) == (EXPECTED, "table", (), ())
    again = pairs(tmp_path)  # the folder that holds it
    assert contents(again) == EXPECTED
    assert [(one.place, one.ending, one.count) for one in again.passed] == [("shots", ".png (images)", 1)]
    assert again.captions.fingerprint() == source.captions.fingerprint()


def test_tables_named_as_splits(tmp_path: Path) -> None:
    put(tmp_path, "shots/{}.png*3")
    for i, split in enumerate(PARTS):
        write(tmp_path / f"{split}.csv", f"filepath,title\nshots/{i}.png,picture {i}\n")
    source = pairs(tmp_path)
    expected = {f"{i}.png": (part, (f"picture {i}",)) for i, part in enumerate(PARTS.values())}
    assert contents(source) == expected
    write(tmp_path / "more.csv", "filepath,title\nshots/0.png,x\n")
    refused(tmp_path, r"more\.csv and test\.csv both name files and captions; set `path` to one of them")


def test_what_a_table_names_and_is_not_there(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*2")
    table = write(
        tmp_path / "pairs.tsv", "filepath\ttitle\n0.png\ta\n9.png\tb\n1.png\t\n9.png\tc\n8.png\td\n"
    )
    source = pairs(table)
    assert contents(source) == {"0.png": (ANY, ("a",))}
    assert said(source.notes, "pairs.tsv: 2 of 4 images are not there, the first 9.png")
    assert said(source.notes, "1 of 2 images have no caption, left out")
    assert said(source.notes, "1 rows have no caption")


def test_columns_by_name(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*2")
    content = "file_name,wo,text,was\nx,0.png,wrong,a\ny,1.png,wrong,b\n"
    table = write(tmp_path / "metadata.csv", content)
    for place in (tmp_path, table):
        source = pairs(place, image_column="wo", caption_column="Was")
        assert contents(source) == {"0.png": (ANY, ("a",)), "1.png": (ANY, ("b",))}
    refused(tmp_path, r"none of 2 images has a caption \(.*a column 'nix'\)", caption_column="nix")
    refused(
        table, "no column of captions is known among file_name, wo, .*`caption_column`", caption_column="n"
    )
    refused(table, "no column of file names is known .*set `image_column`", image_column="n")


def test_images_without_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*4")
    write(tmp_path / "metadata.csv", "file_name,text\n0.png,x\n0.png,\n1.png,\n9.png,z\n2.png,y\n")
    source = pairs(tmp_path)
    assert contents(source) == {"0.png": (ANY, ("x",)), "2.png": (ANY, ("y",))}
    assert said(source.notes, "mine: 2 of 4 images have no caption, left out")
    assert said(source.notes, "metadata.csv: 2 rows have no caption, left out")
    assert source.passed == ()


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    """A table written on one system, files on another that takes letters apart."""
    write(tmp_path / "cafe\u0301.png", picture())
    write(tmp_path / "metadata.csv", "file_name,text\ncaf\u00e9.png,a café\n")
    assert pairs(tmp_path).captions.all(0) == ("a café",)


def test_an_archive_unpacked_into_a_folder_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "flickr8k" / "Flickr8k"
    put(root, "Images/{}.png*3")
    write(
        root / "captions.txt", "image,caption\n" + "".join(f"{i}.png,{t}\n" for i in range(3) for t in two(i))
    )
    source = pairs(tmp_path)
    assert contents(source) == EXPECTED
    assert said(source.notes, "read in flickr8k/Flickr8k")


def test_images_of_one_split_are_divided(tmp_path: Path) -> None:
    put(tmp_path, "val2017/{}.png*3")
    for i in range(3):
        write(tmp_path / f"val2017/{i}.txt", "\n".join(two(i)))
    write(tmp_path / "README.md")
    source = pairs(tmp_path)
    assert contents(source) == EXPECTED
    assert said(source.notes, "all images are in the validation split, which is divided")


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message) as error:
        pairs(path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("files", "message"), [
    ({}, r"none of 3 images has a caption \(looked for: metadata\.jsonl .*x\.txt beside x\.jpg"),
    ({"metadata.csv": "file_name,text\n9.png,x\n"}, r"csv: none of the 1 images that it names is there"),
    ({"metadata.csv": "place,text\n0.png,x\n"}, r"metadata\.csv has no column of file names \(place, text\)"),
    ({"metadata.csv": "file_name,text\n0.png,\n"}, "none of the 1 images that it names has a caption"),
    ({"metadata.jsonl": "{\n"}, r"metadata\.jsonl line 1: not JSON"),
    ({"0.txt": "0 0.5 0.1\n"}, r"none of 3 images has a caption \(1 text files beside images hold numbers"),
    ({"pairs.csv": "filepath,title\n/nowhere/0.png,x\n"}, "none of the 1 images that it names is there"),
    ({"pairs.csv": "filepath,title\n0.png,\n"}, "none of the 1 images that it names has a caption"),
])  # fmt: skip
def test_folders_without_captions_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    put(tmp_path, "{}.png*3")
    for name, content in files.items():
        write(tmp_path / name, content)
    refused(tmp_path, message)


def test_what_is_no_place_of_captions(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(write(tmp_path / "x.zip"), r"x\.zip: a file, and no table")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "none of 0 images has a caption")
    with pytest.raises(DataError, match="a generated world has classes and no captions"):
        open_pairs(DataSet(name="terrain-10"))
    with pytest.raises(DataError, match="no data set is called 'terain'"):
        open_pairs(DataSet(name="terain"))
