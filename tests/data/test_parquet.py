from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_tables import IMAGE, TEXT, local, names

from clipdrift.config.named import DataSet
from clipdrift.data.catalog import CATALOG
from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.sources import open_source


@pytest.mark.parametrize("place", [".", "data", "some-config"])
def test_parquet_in_the_hubs_layouts(tmp_path: Path, make_table: Any, encode: Any, place: str) -> None:
    for shard in range(2):
        file = tmp_path / place / f"train-{shard:05}-of-00002.parquet"
        make_table(file, [0, 1, 2], names("great_white_Shark", "AnnualCrop", "fox"), seed=10 * shard)
    make_table(
        tmp_path / place / "test-00000-of-00001-0a1b2c.parquet",
        [2, 1],
        names("great_white_Shark", "AnnualCrop", "fox"),
    )
    source = local(tmp_path)
    assert source.kind == "parquet"
    assert source.classes == ("great white Shark", "annual crop", "fox")
    assert source.prompts == ("a photo of a {}",)
    assert source.train is not None
    assert source.test is not None
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.test.labels.tolist() == [2, 1]
    assert [source.train.read(i) for i in range(6)] == [encode(seed) for seed in (0, 1, 2, 10, 11, 12)]
    assert source.train.where(4) == "mine train row 4"
    part = source.train.subset([4, 0])
    assert part.labels.tolist() == [1, 0]
    assert part.where(0) == "mine train row 4"
    assert part.read(1) == encode(0)


def test_the_converted_branchs_layout(tmp_path: Path, make_table: Any) -> None:
    for split in ("train", "test"):
        make_table(tmp_path / "default" / split / "0000.parquet", [0, 1], names("a", "b"))
    assert local(tmp_path).classes == ("a", "b")


def test_missing_shard_and_several_configurations(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "a" / "train-00000-of-00002.parquet", [0, 1], names("a", "b"))
    with pytest.raises(DataError, match=r"1 of 2 files of split 'train'"):
        local(tmp_path)
    make_table(tmp_path / "a" / "train-00001-of-00002.parquet", [0, 1], names("a", "b"))
    make_table(tmp_path / "b" / "train-00000-of-00001.parquet", [0, 1], names("a", "b"))
    with pytest.raises(DataError, match=r"several configurations \(a, b\)"):
        local(tmp_path)


def test_missing_split_names_those_there_and_may_be_chosen(tmp_path: Path, make_table: Any) -> None:
    for split in ("train", "validation"):
        make_table(tmp_path / f"{split}.parquet", [0, 1], names("a", "b"))
    with pytest.raises(DataError, match=r"no split 'test'; it has train, validation; set `test_split`"):
        local(tmp_path)
    assert local(tmp_path, test_split="validation").test is not None
    with pytest.raises(DataError, match="both 'train'"):
        local(tmp_path, test_split="train")


def test_a_transfer_set_needs_no_training_split(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "test.parquet", [0, 1], names("a", "b"))
    source = open_source(DataSet(name="x", path=str(tmp_path)), image_size=56, parts=("test",))
    assert source.train is None
    assert source.test is not None
    assert len(source.test) == 2


def test_columns_are_guessed_only_if_there_is_no_choice(
    tmp_path: Path, write_parquet: Any, encode: Any
) -> None:
    picture = [{"bytes": encode(i), "path": None} for i in range(2)]
    columns = {"front": picture, "back": picture[::-1], "fine": [0, 1], "coarse": [1, 0]}
    features = {"front": IMAGE, "back": IMAGE, "fine": names("a", "b"), "coarse": names("c", "d")}
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", columns, features)
    with pytest.raises(DataError, match="it has front, back, fine, coarse; set `image_column`"):
        local(tmp_path)
    with pytest.raises(DataError, match=r"not clear.*set `label_column`"):
        local(tmp_path, image_column="front")
    with pytest.raises(DataError, match="no column 'side'; it has front, back"):
        local(tmp_path, image_column="side", label_column="fine")
    source = local(tmp_path, image_column="back", label_column="coarse")
    assert source.classes == ("c", "d")
    assert source.test is not None
    assert source.test.read(0) == encode(1)


def test_bare_numbers_need_names(tmp_path: Path, make_table: Any) -> None:
    for split in ("train", "test"):
        make_table(tmp_path / f"{split}.parquet", [0, 1, 2], None)
    columns = {"image_column": "picture", "label_column": "kind"}
    with pytest.raises(DataError, match="numbers without names; set `classes`"):
        local(tmp_path, **columns)
    assert local(tmp_path, **columns, classes=("x", "y", "z")).classes == ("x", "y", "z")
    with pytest.raises(DataError, match=r"mine train row 2: label 2 is outside 0\.\.1"):
        local(tmp_path, **columns, classes=("x", "y"))
    # A row's classes serve bare numbers.
    assert local(tmp_path, "cifar10", **columns).classes == CATALOG["cifar10"].classes


def test_hidden_test_labels(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "train.parquet", [0, 1], names("a", "b"))
    make_table(tmp_path / "test.parquet", [-1, -1], names("a", "b"))
    with pytest.raises(DataError, match=r"label -1 is outside.*hidden test split"):
        local(tmp_path)


def test_text_labels_are_sorted_into_classes(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "train.parquet", ["zebra", "ant", "ant"], TEXT)
    make_table(tmp_path / "test.parquet", ["ant", "zebra"], TEXT)
    source = local(tmp_path, label_column="kind")
    assert source.classes == ("ant", "zebra")
    assert source.train is not None
    assert source.train.labels.tolist() == [1, 0, 0]
    make_table(tmp_path / "test.parquet", ["ant", "yak"], TEXT)
    with pytest.raises(DataError, match=r"different classes.*only in train: zebra; only in test: yak"):
        local(tmp_path, label_column="kind")


def test_useless_labels(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "train.parquet", [0.5, 1.0], {"dtype": "float64", "_type": "Value"})
    make_table(tmp_path / "test.parquet", [0.5, 1.0], {"dtype": "float64", "_type": "Value"})
    with pytest.raises(DataError, match=r"train row 0: label 0.5 in column 'kind' is neither"):
        local(tmp_path, label_column="kind")


def test_an_empty_cell_is_a_bad_image(tmp_path: Path, write_parquet: Any, encode: Any) -> None:
    cells = [{"bytes": encode(0), "path": None}, None]
    for split in ("train", "test"):
        write_parquet(
            tmp_path / f"{split}.parquet", {"i": cells, "l": [0, 1]}, {"i": IMAGE, "l": names("a", "b")}
        )
    source = local(tmp_path)
    assert source.train is not None
    with pytest.raises(BadImage, match="mine train row 1"):
        source.train.read(1)
    source.train.fingerprint()


def test_a_broken_parquet_file_is_named(tmp_path: Path, make_table: Any) -> None:
    make_table(tmp_path / "train.parquet", [0, 1], names("a", "b"))
    (tmp_path / "test.parquet").write_bytes((tmp_path / "train.parquet").read_bytes()[:300])
    with pytest.raises(DataError, match=r"split 'test' cannot be read as parquet") as error:
        local(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_rows_columns_and_prompts_serve_a_local_copy_and_the_spec_wins(
    tmp_path: Path, write_parquet: Any, encode: Any
) -> None:
    pictures = [{"bytes": encode(i), "path": None} for i in range(2)]
    features = {"img": IMAGE, "fine_label": names("aquarium_fish", "fox"), "coarse_label": names("c", "d")}
    for split in ("train", "test"):
        columns = {"img": pictures, "fine_label": [0, 1], "coarse_label": [1, 0]}
        write_parquet(tmp_path / f"{split}.parquet", columns, features)
    source = local(tmp_path, "cifar100")
    assert source.classes == ("aquarium fish", "fox")
    assert source.prompts == CATALOG["cifar100"].prompts
    source = local(tmp_path, "cifar100", label_column="coarse_label", prompts=("one {}",), classes=("C", "D"))
    assert source.classes == ("C", "D")
    assert source.prompts == ("one {}",)
    assert source.test is not None
    assert source.test.labels.tolist() == [1, 0]


def test_flower_numbers_become_names_whatever_their_order(
    tmp_path: Path, write_parquet: Any, encode: Any
) -> None:
    row = CATALOG["flowers102"]
    assert row.labels is not None
    picture = [{"bytes": encode(0), "path": None}]
    orders = {"text": list(row.labels), "number": [str(i) for i in range(1, 103)]}
    for order, own in orders.items():
        position = own.index("54")
        for split in ("train", "test"):
            features = {"image": IMAGE, "label": names(*own)}
            write_parquet(
                tmp_path / order / f"{split}.parquet", {"image": picture, "label": [position]}, features
            )
        source = local(tmp_path / order, "flowers102")
        assert source.classes[position] == "sunflower"


def test_eurosats_folder_names_become_clips(image_folder: Any) -> None:
    row = CATALOG["eurosat"]
    assert row.labels is not None
    root = image_folder({f"{split}/{name}": 1 for split in ("train", "test") for name in row.labels})
    assert local(root, "eurosat").classes == row.classes
    assert local(root, "other").classes[:3] == ("annual crop", "Forest", "herbaceous vegetation")
