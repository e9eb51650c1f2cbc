"""Captions beside images, in the forms that people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from odd_inputs import put, said, write

from clipdrift.data.captions import read_captions
from clipdrift.data.errors import DataError


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(separator: str = ",", header: str = "file_name,text") -> str:
    rows = [separator.join((f"{i}.png", f"picture {i}")) for i in range(3)]
    return "\n".join([header.replace(",", separator), *rows]) + "\n"


ONE_EACH = {i: (f"picture {i}",) for i in range(3)}
TWO_EACH = {i: (f"picture {i}", f"no. {i}") for i in range(3)}
FORMS = {
    "metadata.csv": table(),
    "metadata.csv;semicolons": table(";"),
    "metadata.tsv": table("\t"),
    "metadata.csv;mark": "\ufeff" + table(),
    "captions.txt": table(header="image,caption"),
    "captions.csv": table(header="filename,description"),
    "metadata.csv;backslashes": table().replace("\n0", "\n.\\0"),
    "metadata.csv;folders": table().replace("\n0", "\nelsewhere/0"),
    "metadata.jsonl": lines(*({"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(3))),
}
SEVERAL = {
    "metadata.jsonl": lines(
        *({"file_name": f"{i}.png", "text": [f"picture {i}", f"no. {i}"]} for i in range(3))
    ),
    "metadata.jsonl;captions": lines(
        *({"file_name": f"{i}.png", "captions": [f"picture {i}", f"no. {i}"]} for i in range(3))
    ),
    "metadata.jsonl;Karpathy": lines(
        *(
            {"filename": f"{i}.png", "sentences": [{"raw": f"picture {i}"}, {"raw": f"no. {i}"}]}
            for i in range(3)
        )
    ),
    "metadata.csv;numbered": "file_name,caption_1,caption_2\n"
    + "".join(f"{i}.png,picture {i},no. {i}\n" for i in range(3)),
    "metadata.csv;list in text": "file_name,raw\n"
    + "".join(f"{i}.png,\"['picture {i}', 'no. {i}']\"\n" for i in range(3)),
    "results.csv": "image_name| comment_number| comment\n"
    + "".join(f"{i}.png| 0| picture {i}\n{i}.png| 1| no. {i}\n" for i in range(3)),
}


def captions_of(folder: Path, paths: list[Path]) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    """Texts by position, and notes."""
    found = read_captions(folder, paths)
    return dict(found.texts), found.notes


@pytest.mark.parametrize("form", FORMS)
def test_one_caption_each(tmp_path: Path, form: str) -> None:
    put(tmp_path, "{}.png*3")
    write(tmp_path / form.partition(";")[0], FORMS[form])
    assert captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)]) == (ONE_EACH, ())


@pytest.mark.parametrize("form", SEVERAL)
def test_several_captions_each(tmp_path: Path, form: str) -> None:
    put(tmp_path, "{}.png*3")
    write(tmp_path / form.partition(";")[0], SEVERAL[form])
    assert captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)]) == (TWO_EACH, ())


def test_captions_as_parquet(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*3")
    rows = [(f"{i}.png", [f"picture {i}", f"no. {i}"]) for i in range(3)]
    pd.DataFrame(rows, columns=["file_name", "captions"]).to_parquet(tmp_path / "metadata.parquet")
    assert captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)]) == (TWO_EACH, ())


def test_captions_in_split_folders(tmp_path: Path) -> None:
    """Each table is about the images of its own folder."""
    for split in ("train", "test"):
        put(tmp_path, f"{split}/{{}}.png*2")
        write(tmp_path / split / "metadata.csv", f"file_name,text\n0.png,{split} zero\n1.png,{split} one\n")
    files = [tmp_path / split / f"{i}.png" for split in ("test", "train") for i in range(2)]
    found, notes = captions_of(tmp_path, files)
    assert found == {0: ("test zero",), 1: ("test one",), 2: ("train zero",), 3: ("train one",)}
    assert notes == ()


def test_lines_end_at_the_newline_alone(tmp_path: Path) -> None:
    """Captions from the web hold Unicode's other separators."""
    put(tmp_path, "0.png")
    odd = "one\x85two\u2028three\x0cfour"
    write(tmp_path / "metadata.jsonl", lines({"file_name": "0.png", "text": odd}))
    assert captions_of(tmp_path, [tmp_path / "0.png"])[0] == {0: (odd,)}


def test_a_quotation_mark_between_bars_is_a_character(tmp_path: Path) -> None:
    """Flickr30k's file has unpaired ones, and one line that lacks a field."""
    put(tmp_path, "{}.png*2")
    content = 'image_name| comment_number| comment\n0.png| 0| a "dog\n1.png| 0   a cat\n1.png| 1| a cat\n'
    write(tmp_path / "results.csv", content)
    found, notes = captions_of(tmp_path, [tmp_path / "0.png", tmp_path / "1.png"])
    assert found == {0: ('a "dog',), 1: ("a cat",)}
    assert said(notes, "1 lines with another number of columns")


@pytest.mark.parametrize(("content", "words"), [
    ("file_name,text\nother.png,x\n", ("retrieval was not tested", "names none of the images")),
    ("place,text\n0.png,x\n", ("retrieval was not tested", "no column of file names (place, text)")),
    ("file_name,text\n0.png,x\n1.png,\n", ("1 of 3 images have captions",)),
    ("file_name,text\n0.png,x\n1.png,\n", ("1 rows have no caption",)),
])  # fmt: skip
def test_why_captions_were_not_used_is_said(tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    put(tmp_path, "{}.png*3")
    write(tmp_path / "metadata.csv", content)
    _, notes = captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)])
    assert said(notes, *words)


def test_cells_that_are_no_text_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*3")
    rows = ({"file_name": "0.png", "text": 3}, {"file_name": "1.png", "text": {"x": 1}})
    write(tmp_path / "metadata.jsonl", lines(*rows, {"file_name": "2.png", "text": "a cat"}))
    found, notes = captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)])
    assert found == {2: ("a cat",)}
    assert said(notes, "2 cells are no captions")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("metadata.jsonl", "{\n", "line 1: not JSON"),
    ("metadata.jsonl", "[]\n", "line 1: not an object"),
    ("metadata.parquet", "x", "cannot be read as parquet"),
    ("captions.csv", "a sentence\n", "one column only"),
])  # fmt: skip
def test_broken_tables_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        captions_of(tmp_path, [])
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def karpathy(split: str, i: int) -> dict[str, Any]:
    sentences = [{"raw": f"picture {i}", "tokens": ["picture", str(i)]}, {"raw": f"no. {i}"}]
    return {"filename": f"{i}.png", "filepath": "val2014", "split": split, "sentences": sentences}


@pytest.mark.parametrize("place", [".", "annotations"])
def test_karpathys_splits(tmp_path: Path, place: str) -> None:
    """File names start at the folder of the images, wherever the annotations lie."""
    put(tmp_path, "val2014/{}.png*3")
    content = {"images": [karpathy("test", i) for i in range(3)], "dataset": "coco"}
    write(tmp_path / place / "dataset_coco.json", json.dumps(content))
    files = [tmp_path / "val2014" / f"{i}.png" for i in range(3)]
    found = read_captions(tmp_path, files)
    assert found.texts == TWO_EACH
    assert found.files == {tmp_path / place / "dataset_coco.json"}


def test_cocos_captions(tmp_path: Path) -> None:
    put(tmp_path, "val2017/{}.png*3")
    images = [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(3)]
    said = [{"image_id": 10 + i, "caption": text} for i in range(3) for text in (f"picture {i}", f"no. {i}")]
    content = {"images": images, "annotations": [*said, {"image_id": 99, "caption": "of none"}]}
    write(tmp_path / "annotations" / "captions_val2017.json", json.dumps(content))
    write(tmp_path / "annotations" / "instances_val2017.json", "not looked at")
    files = [tmp_path / "val2017" / f"{i}.png" for i in range(3)]
    assert read_captions(tmp_path, files).texts == TWO_EACH


def test_json_of_another_kind_is_no_captions(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*3")
    write(tmp_path / "dataset_info.json", '{"description": "x"}')
    write(tmp_path / "captions.json", "[1, 2]")
    assert captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)]) == ({}, ())
    write(tmp_path / "captions.json", "{")
    with pytest.raises(DataError, match=r"captions\.json: not JSON"):
        captions_of(tmp_path, [tmp_path / "0.png"])


def test_a_text_file_beside_each_image(tmp_path: Path) -> None:
    """A line each; numbers are boxes of a detector, not captions."""
    put(tmp_path, "a/{}.png*3")
    for i in range(3):
        write(tmp_path / "a" / f"{i}.txt", f"picture {i}\n\nno. {i}\n")
    files = [tmp_path / "a" / f"{i}.png" for i in range(3)]
    found = read_captions(tmp_path, files)
    assert found.texts == TWO_EACH
    assert found.files == {path.with_suffix(".txt") for path in files}
    write(tmp_path / "a" / "1.txt", "0 0.5 0.5 0.1 0.2\n3 0.1 0.1 1e-2 0.2\n")
    write(tmp_path / "a" / "2.txt", b"\xff\xfe\xfd")
    texts, notes = captions_of(tmp_path, files)
    assert texts == {0: TWO_EACH[0]}
    assert said(notes, "2 text files beside images hold numbers or no text")


def test_openclips_table(tmp_path: Path) -> None:
    put(tmp_path, "{}.png*3")
    rows = "".join(f"{tmp_path / f'{i}.png'}\tpicture {i}\n" for i in range(3))
    write(tmp_path / "captions.csv", "filepath\ttitle\n" + rows)
    assert captions_of(tmp_path, [tmp_path / f"{i}.png" for i in range(3)]) == (ONE_EACH, ())
