from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tables import local

from clipdrift.config.named import DataSet
from clipdrift.data.catalog import CATALOG
from clipdrift.data.errors import DataError
from clipdrift.data.sources import fingerprint_path, open_source
from clipdrift.data.worlds import WORLDS, generate


def test_fingerprint_follows_content_labels_and_order(image_folder: Any, tmp_path: Path, encode: Any) -> None:
    root = image_folder({"a": 6, "b": 6})
    train = local(root).train
    assert train is not None
    first = train.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    shutil.copytree(root, tmp_path / "copy")
    copied = local(tmp_path / "copy").train
    assert copied is not None
    assert copied.fingerprint() == first
    order = list(range(len(train)))
    assert train.subset(order).fingerprint() == first
    assert train.subset(order[::-1]).fingerprint() != first
    assert train.subset(order[:-1]).fingerprint() != first
    assert type(train)(train.labels[::-1].copy(), train.rows, train.store).fingerprint() != first
    Path(train.where(0)).write_bytes(encode(77))
    assert train.fingerprint() != first


def test_fingerprint_of_a_path(image_folder: Any, tmp_path: Path, encode: Any) -> None:
    root = image_folder({"a": 2, "b": 2})
    first = fingerprint_path(root)
    shutil.copytree(root, tmp_path / "copy")
    assert fingerprint_path(tmp_path / "copy") == first
    (root / ".DS_Store").write_bytes(b"x")
    assert fingerprint_path(root) == first
    (root / "a/im0.png").rename(root / "a/im9.png")
    assert fingerprint_path(root) != first
    (root / "a/im9.png").rename(root / "a/im0.png")
    assert fingerprint_path(root) == first
    (root / "a/im0.png").write_bytes(b"other size")
    assert fingerprint_path(root) != first
    assert fingerprint_path(root / "a/im0.png") != fingerprint_path(root / "a/im1.png")
    (root / "loop").symlink_to(root)
    fingerprint_path(root)
    with pytest.raises(DataError, match="no such folder"):
        fingerprint_path(tmp_path / "nowhere")


def test_a_world() -> None:
    source = open_source(DataSet(name="terrain-10"), image_size=24, train_per_class=3)
    world = WORLDS["terrain-10"]
    assert source.kind == "world"
    assert source.classes == world.classes
    assert source.prompts == world.templates
    assert source.train is not None
    assert source.test is not None
    assert len(source.train) == 3 * len(world.classes)
    assert len(source.test) == world.test * len(world.classes)
    images, labels = generate(world, "train", 3, 24)
    assert np.array_equal(source.train.labels, labels)
    assert all(np.array_equal(source.train.read(i), images[i]) for i in (0, 7, 29))
    assert source.train.where(7) == "terrain-10 train image 7"


def test_a_worlds_fingerprint_is_its_recipe() -> None:
    def train(size: int, per_class: int, name: str = "terrain-10") -> Any:
        return open_source(DataSet(name=name), image_size=size, train_per_class=per_class).train

    first = train(24, 3).fingerprint()
    assert first == train(24, 3).fingerprint() == train(24, 5).subset(range(30)).fingerprint()
    others = [train(24, 4), train(32, 3), train(24, 3).subset(range(29)), train(24, 3, "emblems-37")]
    others.append(open_source(DataSet(name="terrain-10"), image_size=24).test)
    assert len({first, *(other.fingerprint() for other in others)}) == 6


def test_a_world_takes_no_columns() -> None:
    with pytest.raises(DataError, match="`label_column` has no meaning for a generated world"):
        open_source(DataSet(name="terrain-10", label_column="x"), image_size=24)


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"called 'cifar-100'; near: .*cifar100.*clipdrift ls datasets"):
        open_source(DataSet(name="cifar-100"), image_size=56)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/mine").mkdir(parents=True)
    with pytest.raises(DataError, match=r"write \./photos"):
        open_source(DataSet(name="photos"), image_size=56)
    with pytest.raises(DataError, match=r"both a folder here and a hub id.*write \./photos/mine"):
        open_source(DataSet(name="photos/mine"), image_size=56)


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        local(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither parquet files nor images in it"):
        local(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: a file"):
        local(tmp_path / "file")


def test_real_cifar100(shared_data: Path) -> None:
    spec = DataSet(name="cifar100", path=str(shared_data / "cifar100"))
    source = open_source(spec, image_size=224, parts=("test",))
    assert source.classes == CATALOG["cifar100"].classes
    assert source.classes[1] == "aquarium fish"
    assert source.test is not None
    assert np.bincount(source.test.labels).tolist() == [100] * 100
    data = source.test.read(17)
    assert isinstance(data, bytes)
    assert data.startswith(b"\x89PNG")
    assert source.test.where(17) == "cifar100 test row 17"


def test_real_folders(shared_data: Path) -> None:
    source = local(shared_data / "land-use-7")
    assert source.classes[4:] == ("parking lot", "residential", "river or lake")
    assert len(source.classes) == 7
    assert source.train is not None
    assert np.bincount(source.train.labels).tolist() == [320] * 7
    assert source.test is not None
    assert np.bincount(source.test.labels).tolist() == [80] * 7
    pets = local(shared_data / "pets-37", "pets")
    assert pets.classes == CATALOG["pets"].classes
    assert pets.prompts == CATALOG["pets"].prompts
    assert pets.train is not None
    assert len(pets.train) == 259
