"""Labels from tables beside images, in the forms that people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from odd_inputs import images, opened, put, said, write

from clipdrift.data.errors import DataError

COLOURS = ("red", "green", "blue")


def rows(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"{i}.png", COLOURS[i % 3]) for i in range(start, start + count)]


def csv(pairs: list[tuple[str, str]], header: str = "file_name,label", separator: str = ",") -> str:
    lines = [header.replace(",", separator), *(f"{name}{separator}{label}" for name, label in pairs)]
    return "\n".join(lines) + "\n"


def check(source: object, count: int) -> None:
    """Image number i has colour number i mod 3, whatever its split."""
    found = images(source)  # type: ignore[arg-type]
    assert set(found) == set(COLOURS)
    assert sum(map(len, found.values())) == count
    for name, files in found.items():
        assert {COLOURS[int(Path(file).stem) % 3] for file in files} == {name}


FORMS = {
    "metadata.csv": csv(rows(12)).encode(),
    "metadata.csv, semicolons": csv(rows(12), separator=";").encode(),
    "metadata.tsv": csv(rows(12), separator="\t").encode(),
    "metadata.csv, mark": b"\xef\xbb\xbf" + csv(rows(12)).encode(),
    "metadata.csv, UTF-16": csv(rows(12)).encode("utf-16"),
    "metadata.csv, Windows lines": csv(rows(12)).replace("\n", "\r\n").encode(),
    "metadata.csv, category": csv(rows(12), "filename,category").encode(),
    "metadata.csv, Class": csv(rows(12), "Image,Class").encode(),
    "metadata.csv, backslashes": csv([(f".\\{n}", c) for n, c in rows(12)]).encode(),
    "metadata.jsonl": "".join(json.dumps({"file_name": n, "label": c}) + "\n" for n, c in rows(12)).encode(),
    "metadata.jsonl, lists": "".join(
        json.dumps({"file_name": n, "labels": [c]}) + "\n" for n, c in rows(12)
    ).encode(),
    "labels.csv": csv(rows(12), "id,breed").encode(),
    "labels.csv, without ending": csv(
        [(n.removesuffix(".png"), c) for n, c in rows(12)], "id,species"
    ).encode(),
    "train.csv": csv(rows(12), "image_id,kind of colour").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_flat_folder_with_a_table(tmp_path: Path, form: str) -> None:
    """The labels are the table's; a fifth of each class is held out, and that is said."""
    put(tmp_path, "{}.png*12")
    write(tmp_path / form.partition(",")[0], FORMS[form])
    source = opened(tmp_path)
    check(source, 12)
    assert source.test is not None
    assert len(source.test) == 3
    assert said(source.notes, "labels are read from")
    assert said(source.notes, "a fifth of each class is held out here")
    assert source.passed == ()


def test_metadata_as_parquet(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*12")
    pd.DataFrame(rows(12), columns=["file_name", "label"]).to_parquet(tmp_path / "metadata.parquet")
    check(opened(tmp_path), 12)


def test_a_table_in_each_split(tmp_path: Path) -> None:
    """Splits are folders, labels are tables in them: the folders' names are no classes."""
    for split, count in (("train", 12), ("test", 6)):
        put(tmp_path, f"{split}/{{}}.png*{count}")
        write(tmp_path / split / "metadata.csv", csv(rows(count)))
    source = opened(tmp_path)
    check(source, 18)
    assert source.train is not None
    assert all("/train/" in source.train.where(i) for i in range(len(source.train)))
    assert len(source.train) == 12
    named = opened(tmp_path, train_split="test", test_split="train")
    assert named.train is not None
    assert len(named.train) == 6


@pytest.mark.parametrize("value", [("train", "test"), ("Training", "TEST")])
def test_a_column_that_names_the_split(tmp_path: Path, value: tuple[str, str]) -> None:
    put(tmp_path, "{}.png*12")
    lines = [f"{name},{label},{value[i % 4 == 0]}" for i, (name, label) in enumerate(rows(12))]
    write(tmp_path / "birds.csv", "filepaths,labels,data set\n" + "\n".join(lines))
    (tmp_path / "birds.csv").rename(tmp_path / "labels.csv")
    source = opened(tmp_path)
    assert source.test is not None
    assert sorted(Path(source.test.where(i)).name for i in range(3)) == ["0.png", "4.png", "8.png"]


def test_kaggle_where_only_train_has_labels(tmp_path: Path) -> None:
    """Images to be predicted have none: they are counted, and the labelled ones divided."""
    put(tmp_path, "train/{}.png*12", "test/{}.png*5")
    write(tmp_path / "train.csv", csv([(n.removesuffix(".png"), c) for n, c in rows(12)], "id,breed"))
    write(tmp_path / "sample_submission.csv", csv(rows(5), "id,breed"))
    source = opened(tmp_path)
    check(source, 12)
    assert all("/train/" in file for files in images(source).values() for file in files)
    assert [(one.place, one.ending, one.count) for one in source.passed] == [
        (".", ".csv", 1), ("test", ".png (images)", 5),
    ]  # fmt: skip
    (tmp_path / "train.csv").rename(tmp_path / "labels.csv")  # of which folder, then?
    with pytest.raises(DataError, match=r"there are several images 0 below .*; write their folder before it"):
        opened(tmp_path)


def lines(header: str, *rows: str) -> str:
    return "\n".join([header, *rows]) + "\n"


def test_a_labelled_test_table_is_the_test_part(tmp_path: Path) -> None:
    """Beside ``train.csv``, whether or not folders divide the images."""
    put(tmp_path, "photos/{}.png*18")
    write(tmp_path / "train.csv", csv(rows(12), "image,label"))
    write(tmp_path / "test.csv", csv(rows(6, 12), "image,label"))
    source = opened(tmp_path)
    check(source, 18)
    assert source.test is not None
    assert sorted(int(Path(source.test.where(i)).stem) for i in range(6)) == list(range(12, 18))
    assert source.passed == ()
    write(tmp_path / "test.csv", lines("image", *(f"{i}.png" for i in range(12, 18))))  # without labels
    source = opened(tmp_path)
    check(source, 12)
    assert [(one.ending, one.count) for one in source.passed] == [(".csv", 1), (".png (images)", 6)]
    write(tmp_path / "test.csv", lines("image,width", *(f"{i}.png,8" for i in range(12, 18))))
    check(opened(tmp_path), 12)
    write(tmp_path / "test.csv", lines("image,label", "elsewhere.png,red"))
    source = opened(tmp_path)
    check(source, 12)
    assert said(source.notes, "1 of 1 rows name images that are not there")


def test_images_that_no_split_has_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "train/{}.png*6", "test/{}.png*3", "{}_more.png*4")
    table = [(f"train/{n}", c) for n, c in rows(6)] + [(f"test/{n}", c) for n, c in rows(3)]
    write(tmp_path / "metadata.csv", csv(table + [(f"{i}_more.png", "red") for i in range(4)]))
    source = opened(tmp_path)
    check(source, 9)
    assert [(one.place, one.count) for one in source.passed] == [(".", 4)]
    assert said(source.notes, "4 labelled images tell no split, beside those that do")


ONE_HOT = [f"{i},{','.join('1.0' if j == i % 3 else '0.0' for j in range(3))},0.0" for i in range(12)]


def test_one_column_for_each_class(tmp_path: Path) -> None:
    """As ISIC's: names of columns are the classes; one that is nowhere one is no class."""
    put(tmp_path, "ISIC_Training_Input/{}.png*12")
    file = write(tmp_path / "ISIC_Training_GroundTruth.csv", lines("image,red,green,blue,UNK", *ONE_HOT))
    source = opened(tmp_path)
    check(source, 12)
    assert said(source.notes, "the columns red, green, blue, UNK are read as classes")
    assert said(source.notes, "no image is UNK")
    file.write_text(file.read_text().replace(".0", ""))
    check(opened(tmp_path), 12)


@pytest.mark.parametrize(("row", "count"), [("7,1.0,0.0,1.0,0.0", "2"), ("7,0.0,0.0,0.0,0.0", "no")])
def test_several_classes_an_image_are_refused(tmp_path: Path, row: str, count: str) -> None:
    put(tmp_path, "{}.png*12")
    table = [*ONE_HOT[:7], row, *ONE_HOT[8:]]
    write(tmp_path / "labels.csv", lines("image,red,green,blue,UNK", *table))
    with pytest.raises(DataError, match=f"the row of 7 has {count} ones in red, .* not supported") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


PLACES = ("labels.csv", "birds.csv", "data/labels.csv", "set/labels.csv", "annotations/labels.csv")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("folder", ["photos of birds", "images"])
def test_one_table_and_one_folder_of_images(tmp_path: Path, place: str, folder: str) -> None:
    """At the root, or both one level below it, or the table alone."""
    top = place.split("/")[0] + "/" if place.startswith(("data", "set")) else ""
    put(tmp_path, f"{top}{folder}/{{}}.png*12")
    write(tmp_path / place, csv(rows(12)))
    source = opened(tmp_path)
    check(source, 12)
    assert source.passed == ()


@pytest.mark.parametrize("names", ["{}.png*6", "birds/{}.png*6", "images/{}.png*6", "x/images/{}.png*6"])
def test_columns_are_listed_where_none_has_labels(tmp_path: Path, names: str) -> None:
    put(tmp_path, names)
    table = lines("image_id,dx,age", *(f"{i},{'ab'[i % 2]},4" for i in range(6)))
    write(tmp_path / "HAM_metadata.csv", table)
    told = "HAM_metadata.csv has the columns image_id, dx, age: name the column of labels with `label_column`"
    with pytest.raises(DataError, match=told) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"no table with a column 'hue' of labels; " + told):
        opened(tmp_path, label_column="hue")
    assert opened(tmp_path, label_column="dx").classes == ("a", "b")


def test_a_named_column_of_no_table_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/{}.png*3", "dog/{}.png*3")
    with pytest.raises(DataError, match="no table with a column 'hue' of labels; there is no table in it"):
        opened(tmp_path, label_column="hue")


def test_the_column_may_be_named(tmp_path: Path) -> None:
    """And then goes before class folders."""
    put(tmp_path, "a/{}.png*6", "b/{}.png*6")
    lines = [f"{folder}/{i}.png,{COLOURS[i % 3]}" for folder in "ab" for i in range(6)]
    write(tmp_path / "metadata.csv", "file_name,hue\n" + "\n".join(lines))
    assert opened(tmp_path).classes == ("a", "b")
    assert opened(tmp_path, label_column="hue").classes == ("blue", "green", "red")


def test_parts_of_an_archive_are_no_splits(tmp_path: Path) -> None:
    """Images of all of them are labelled by the table, though its rows name no folder."""
    for part in range(2):
        for i in range(6 * part, 6 * part + 6):
            put(tmp_path, f"x_images_part_{part + 1}/{i}.png")
    write(tmp_path / "labels.csv", csv([(n.removesuffix(".png"), c) for n, c in rows(12)], "image_id,label"))
    check(opened(tmp_path), 12)


def test_captions_are_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*4")
    write(tmp_path / "metadata.csv", csv([(f"{i}.png", f"picture {i}") for i in range(4)], "file_name,text"))
    write(tmp_path / "train.csv", csv([(f"{i}.png", f"picture {i}") for i in range(4)], "image,caption"))
    with pytest.raises(DataError, match="no table of their labels"):
        opened(tmp_path)


def test_bare_numbers_are_labels_and_not_names(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*24")
    write(tmp_path / "labels.csv", csv([(f"{i}.png", str(i % 12)) for i in range(24)]))
    with pytest.raises(DataError, match="numbers without names"):
        opened(tmp_path)
    given = tuple(f"name {letter}" for letter in "abcdefghijkl")
    for name, files in images(opened(tmp_path, classes=given)).items():
        assert {int(Path(file).stem) % 12 for file in files} == {given.index(name)}


@pytest.mark.parametrize(("content", "message"), [
    ("file_name,label\n0.png,red\n0.png,blue\n", "0.png has two labels, 'red' and 'blue'"),
    ("file_name,label\nnowhere.png,red\n", "none of the 1 images that column 'file_name' names"),
    ("file_name,label\n", "none of the 0 images"),
    ("label\nred\n", "one column only"),
    ("", "one column only"),
    (b"\xff\xfe\xff", "UTF-16"),
    (b"a,b\0\xff", "not a text file"),
    ("file_name,label\n0.png,red\n1.png,red\n2.png,blue\n", "one image only"),
])  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path: Path, content: str | bytes, message: str) -> None:
    put(tmp_path, "{}.png*4")
    write(tmp_path / "metadata.csv", content)
    with pytest.raises(DataError, match=message) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


def test_several_labels_an_image(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*4")
    write(tmp_path / "metadata.jsonl", '{"file_name": "0.png", "labels": ["red", "blue"]}\n')
    with pytest.raises(DataError, match="several labels in one row"):
        opened(tmp_path)


def test_rows_and_images_that_find_no_partner_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*14")
    table = csv(rows(12)) + "gone.png,red\nlost.png,blue\n12.png,\nodd,line,here\n"
    write(tmp_path / "metadata.csv", table)
    source = opened(tmp_path)
    check(source, 12)
    assert said(source.notes, "2 of 15 rows name images that are not there, the first gone.png")
    assert said(source.notes, "1 rows without a label")
    assert said(source.notes, "1 lines with another number of columns")
    assert [(one.ending, one.count) for one in source.passed] == [(".png (images)", 2)]
