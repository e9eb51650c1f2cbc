"""Images with captions in tables and archives: what compare tests image-text retrieval on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_inputs import archive, picture, put, said, write
from transformers import CLIPModel

import clipdrift
from clipdrift.comparison import Comparison

Compare = Callable[[Path], Comparison]
COUNT = 6
TEXTS = [[f"picture {i}", f"no. {i}"] for i in range(COUNT)]


@pytest.fixture
def compared(tiny_clip_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """A comparison on a folder of images, without what takes long."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    tuned = CLIPModel.from_pretrained(tiny_clip_dir)
    options: dict[str, Any] = {"flow": False, "spectrum": False, "shown": 0, "cache": tmp_path / "cache"}
    return lambda folder: clipdrift.compare(str(tiny_clip_dir), tuned, folder, **options)


def rows(column: str) -> dict[str, Any]:
    return {"image": [{"bytes": picture(i), "path": None} for i in range(COUNT)], column: TEXTS}


@pytest.mark.parametrize("column", ["caption", "captions", "text", "sentences"])
def test_a_table_of_images_and_captions(compared: Compare, tmp_path: Path, column: str) -> None:
    """Without labels, and with one split alone, which is said."""
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.table(rows(column)), tmp_path / "pairs" / "train.parquet")
    found = compared(tmp_path / "pairs")
    assert found.retrieval is not None
    assert (found.retrieval.images, found.retrieval.captions) == (COUNT, 2 * COUNT)
    assert found.images.classes is None
    assert said(found.notes, "read from its only split, 'train'")


def test_captions_beside_labels(compared: Compare, tmp_path: Path) -> None:
    """The test split is read; the label column is no caption, and some images have none."""
    table = rows("text") | {"label": ["cat", "dog"] * (COUNT // 2)}
    table["text"] = [TEXTS[0], None, *TEXTS[2:]]
    (tmp_path / "pairs").mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table(table), tmp_path / "pairs" / f"{split}.parquet")
    found = compared(tmp_path / "pairs")
    assert found.retrieval is not None
    assert found.retrieval.images == COUNT - 1
    assert found.images.classes == 2
    assert said(found.notes, "5 of 6 images have captions")


@pytest.mark.parametrize(("name", "ending"), [("00000.tar", ".txt"), ("pets-test-000000.tar", ".json")])
def test_archives_of_a_webdataset(compared: Compare, tmp_path: Path, name: str, ending: str) -> None:
    (tmp_path / "pairs").mkdir()
    archive(tmp_path / "pairs" / name, ".png", ending, count=COUNT)
    found = compared(tmp_path / "pairs")
    assert found.retrieval is not None
    assert (found.retrieval.images, found.retrieval.captions) == (COUNT, COUNT)


def test_a_folder_that_datasets_saved(compared: Compare, tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(rows("captions"))
    datasets.DatasetDict(test=made).save_to_disk(str(tmp_path / "saved"))
    found = compared(tmp_path / "saved")
    assert found.retrieval is not None
    assert found.retrieval.captions == 2 * COUNT


def test_files_of_captions_are_not_passed_over(compared: Compare, tmp_path: Path) -> None:
    """They were read; a license was not."""
    root = put(tmp_path / "pairs", "{}.png*6")
    write(root / "LICENSE.md")
    for i in range(COUNT):
        write(root / f"{i}.txt", f"picture {i}")
    found = compared(root)
    assert found.retrieval is not None
    assert found.images.passed == ((".", ".md", 1),)
    for i in range(COUNT):
        (root / f"{i}.txt").unlink()
    write(root / "metadata.csv", "file_name,text\n" + "".join(f"{i}.png,picture {i}\n" for i in range(COUNT)))
    assert compared(root).images.passed == ((".", ".md", 1),)
