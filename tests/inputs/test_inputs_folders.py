"""Folders as people have them: which of their sub-folders are classes, and what is said of the rest."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_inputs import images, opened, picture, put, said, write

from clipdrift.config.named import DataSet
from clipdrift.data import decode
from clipdrift.data.errors import DataError
from clipdrift.data.folders import all_images, class_level
from clipdrift.data.sources import open_source
from clipdrift.data.tree import read_tree

TWO = ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("cat/2020/{}.png*4", "cat/2021/{}.png*4", "dog/2020/{}.png*4", "dog/2021/{}.png*4"), {}),  # years
        (("cat/2020-05/{}.png*4", "dog/20200517/{}.png*4"), {}),
        (("cat/images/{}.png*4", "dog/images/{}.png*4"), {}),
        (("train/cat/images/{}.png*4", "train/dog/images/{}.png*4", "test/cat/images/{}.png*4",
          "test/dog/images/{}.png*4"), {}),  # as Tiny ImageNet
        (("cat/{}.png*4", "cat/more/{}.png*4", "dog/{}.png*4"), {}),
        (("pets/cat/{}.png*4", "pets/dog/{}.png*4"), {}),  # unpacked into a folder of its own
        (("a/b/train/cat/{}.png*4", "a/b/train/dog/{}.png*4", "a/b/test/cat/{}.png*4",
          "a/b/test/dog/{}.png*4"), {}),
        (("images/cat/{}.png*4", "images/dog/{}.png*4", "annotations/{}.png*4"), {}),
        (("Training/cat/{}.png*4", "Training/dog/{}.png*4", "Testing/cat/{}.png*4",
          "Testing/dog/{}.png*4"), {}),
        (("seg_train/seg_train/cat/{}.png*4", "seg_train/seg_train/dog/{}.png*4",
          "seg_test/seg_test/cat/{}.png*4", "seg_test/seg_test/dog/{}.png*4",
          "seg_pred/seg_pred/{}.png*3"), {}),
        (("cat/train/{}.png*4", "cat/test/{}.png*2", "dog/train/{}.png*4", "dog/test/{}.png*2"), {}),
        (("images/cat/{}.png*4", "images/dog/{}.png*4", "masks/cat/{}.png*4", "masks/dog/{}.png*4"), {}),
        (("pets/images/cat/{}.png*4", "pets/images/dog/{}.png*4"), {}),
        (("cat/fold1/{}.png*4", "cat/fold2/{}.png*4", "dog/fold1/{}.png*4", "dog/fold2/{}.png*4"), {}),
        (("cat/x/{}.png*4", "cat/y/{}.png*4", "dog/x/{}.png*4", "dog/y/{}.png*4",
          "elk/x/{}.png*4", "elk/y/{}.png*4"),
         {"classes": (*TWO, "elk")}),
    ],
)  # fmt: skip
def test_the_class_folders_are_found(tmp_path: Path, names: tuple[str, ...], options: dict[str, Any]) -> None:
    """At whatever depth, and every image is of the class on its path."""
    source = opened(put(tmp_path, *names), **options)
    assert source.classes == options.get("classes", TWO)
    for name, files in images(source).items():
        assert files
        assert all(f"/{name}/" in file for file in files)


def test_splits_inside_class_folders_are_kept_apart(tmp_path: Path) -> None:
    put(tmp_path, "cat/train/{}.png*4", "cat/test/{}.png*2", "dog/train/{}.png*4", "dog/test/{}.png*2")
    source = opened(tmp_path)
    assert source.test is not None
    assert [Path(source.test.where(i)).parent.name for i in range(len(source.test))] == ["test"] * 4
    assert said(source.notes, "splits are read inside the class folders")
    put(tmp_path, "elk/{}.png*3")
    with pytest.raises(DataError, match="some class folders are divided into splits and others not"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("train/{}.png*4", "test/{}.png*4"),
        ("train/{}.png*4", "val/{}.png*4", "test/{}.png*4"),
        ("images/{}.png*4", "masks/{}.png*4"),
        ("train/images/{}.png*4", "train/masks/{}.png*4", "test/images/{}.png*4", "test/masks/{}.png*4"),
        ("seg_train/{}.png*4", "seg_test/{}.png*4"),
        ("Train/{}.png*4", "TEST/{}.png*4", "cat/{}.png*4"),
        ("train_images/{}.png*4", "test_images/{}.png*4"),
        ("fold1/{}.png*4", "fold2/{}.png*4"),
        ("train/{}.png*4", "test1/{}.png*4"),
        ("train2017/{}.png*4", "val2017/{}.png*4"),
        ("coco_train_2014/{}.png*4", "coco_val_2014/{}.png*4"),
        ("train_1/{}.png*4", "train_2/{}.png*4", "cat/{}.png*4"),
        ("x_part_1/{}.png*4", "x_part_2/{}.png*4"),
        ("HAM10000_images_part_1/{}.png*4", "HAM10000_images_part_2/{}.png*4", "masks/{}.png*4"),
        ("photos fold a/{}.png*4", "photos fold b/{}.png*4"),
        ("images_001/images/{}.png*4", "images_002/images/{}.png*4"),
        ("train/shard-0/{}.png*4", "train/shard-1/{}.png*4", "test/{}.png*4"),
        ("masks/{}.png*4", "pictures of cats/{}.png*4"),
        ("{}.png*4",),
    ],
)
def test_splits_and_helper_folders_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Without labels such a folder is refused, and told what it lacks."""
    with pytest.raises(DataError, match=r"<class>/") as error:
        opened(put(tmp_path, *names))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test1"), ("train2017", "test2017"), ("Train_1", "test-1"), ("seg_train1", "test2_images")],
)
def test_a_split_may_have_a_number(tmp_path: Path, train: str, test: str) -> None:
    for split in (train, test):
        put(tmp_path, f"{split}/cat/{{}}.png*4", f"{split}/dog/{{}}.png*4")
    source = opened(tmp_path)
    assert source.classes == TWO
    assert source.test is not None
    assert all(f"/{test}/" in source.test.where(i) for i in range(len(source.test)))
    assert said(source.notes, f"{test!r} is taken for the test split")


def test_a_class_may_be_one_part_of_many(tmp_path: Path) -> None:
    """One name with a number, beside others: nothing differs from it in its number alone."""
    source = opened(put(tmp_path, "spare_part_1/{}.png*4", "cat/{}.png*4", "trainer2/{}.png*4"))
    assert source.classes == ("cat", "spare part 1", "trainer2")
    assert said(source.notes, "'spare_part_1' is taken for a class")


def test_a_class_may_be_called_as_a_split_and_is_said(tmp_path: Path) -> None:
    source = opened(put(tmp_path, "train/{}.png*4", "boat/{}.png*4", "bullet_train/{}.png*4"))
    assert source.classes == ("boat", "bullet train", "train")
    assert said(source.notes, "'train' is taken for a class")


@pytest.mark.parametrize("names", [
    ("fold1/cat/{}.png*3", "fold1/dog/{}.png*3", "fold2/cat/{}.png*3", "fold2/dog/{}.png*3"),
    ("hospital a/cat/{}.png*3", "hospital a/dog/{}.png*3", "hospital b/cat/{}.png*3",
     "hospital b/dog/{}.png*3"),
    ("a/0/{}.png*3", "a/1/{}.png*3", "b/0/{}.png*3", "b/1/{}.png*3"),
    ("amazon/images/cat/{}.png*3", "amazon/images/dog/{}.png*3", "dslr/images/cat/{}.png*3",
     "dslr/images/dog/{}.png*3"),  # as Office-31
    ("amazon/cat/{}.png*3", "amazon/dog/{}.png*3", "amazon/elk/{}.png*3", "dslr/cat/{}.png*3",
     "dslr/dog/{}.png*3"),  # one of them lacks a class
    ("art/train/cat/{}.png*3", "art/train/dog/{}.png*3", "art/test/cat/{}.png*3", "art/test/dog/{}.png*3",
     "photo a/train/cat/{}.png*3", "photo a/train/dog/{}.png*3", "photo a/test/cat/{}.png*3",
     "photo a/test/dog/{}.png*3"),
])  # fmt: skip
def test_two_levels_that_could_both_be_classes_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="train_split"):
        opened(put(tmp_path, *names))


CUB = ("001.Albatross", "002.Cardinal")


@pytest.mark.parametrize("top", ["", "CUB_200_2011/"])
def test_cub_as_unpacked(tmp_path: Path, top: str) -> None:
    """Class folders among much else, divided by the set's own list."""
    put(tmp_path, *(f"{top}images/{name}/{name}_{{}}.png*5" for name in CUB))
    files = [f"{name}/{name}_{i}.png" for name in CUB for i in range(5)]
    write(tmp_path / top / "images.txt", "".join(f"{i} {file}\n" for i, file in enumerate(files, 1)))
    write(tmp_path / top / "train_test_split.txt", "".join(f"{i} {i % 2}\n" for i in range(1, 11)))
    for name in ("classes.txt", "image_class_labels.txt", "parts/parts.txt", "attributes/attributes.txt"):
        write(tmp_path / top / name, "1 x\n")
    write(tmp_path / "attributes.txt")
    source = opened(tmp_path)
    assert source.classes == ("Albatross", "Cardinal")
    assert source.test is not None
    assert [Path(source.test.where(i)).name for i in range(5)] == [
        Path(file).name for i, file in enumerate(files, 1) if i % 2 == 0
    ]
    assert said(source.notes, "divided as train_test_split.txt says")
    assert sum(one.count for one in source.passed) == 5
    put(tmp_path, f"{top}images/{CUB[0]}/more.png")
    source = opened(tmp_path)
    assert said(source.notes, "train_test_split.txt does not name all images")
    assert source.test is not None
    assert len(source.test) == 2


def test_lists_of_splits_that_are_not_used_are_said(tmp_path: Path) -> None:
    """As DTD's: ten divisions, of which none is the set's own."""
    put(tmp_path, "dtd/images/banded/{}.png*5", "dtd/images/dotted/{}.png*5")
    for name in ("train1.txt", "test1.txt", "test2.txt", "labels_joint_anno.txt"):
        write(tmp_path / "dtd" / "labels" / name, "banded/0.png\n")
    write(tmp_path / "dtd" / "imdb" / "imdb.mat")
    source = opened(tmp_path)
    assert source.classes == ("banded", "dotted")
    assert said(source.notes, "lists of splits (dtd/labels/test1.txt, dtd/labels/test2.txt) are not used")
    assert sum(one.count for one in source.passed) == 5


def test_one_of_several_domains_is_named_to_be_given_alone(tmp_path: Path) -> None:
    for domain in ("amazon", "dslr"):
        put(tmp_path, f"{domain}/images/cat/{{}}.png*3", f"{domain}/images/dog/{{}}.png*3")
    with pytest.raises(DataError, match=r"give .*/amazon/images alone if they are the classes") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    assert opened(tmp_path / "amazon" / "images").classes == TWO


@pytest.mark.parametrize("inner", ["pets", "images", "train"])
def test_a_set_in_itself_is_passed_over(tmp_path: Path, inner: str) -> None:
    """The classes beside it are read, its images neither trained on nor tested."""
    put(tmp_path, "cat/{}.png*5", "dog/{}.png*5", f"{inner}/cat/{{}}.png*5", f"{inner}/dog/{{}}.png*5")
    if inner == "train":  # a split before all else, which is not there twice
        with pytest.raises(DataError, match="no split 'test'"):
            opened(tmp_path)
        return
    source = opened(tmp_path)
    assert source.classes == TWO
    assert said(source.notes, f"{inner} holds folders of the same names", "a copy: 10 images")
    assert sum(one.count for one in source.passed) == 10
    put(tmp_path, f"{inner}/elk/{{}}.png*5", "elk/{}.png*5", "fox/{}.png*5")  # one class less in the copy
    assert opened(tmp_path).classes == ("cat", "dog", "elk", "fox")


def test_a_split_in_itself_is_passed_over(tmp_path: Path) -> None:
    for split in ("train", "test", "train/train", "pets/train", "pets/test"):
        put(tmp_path, f"{split}/cat/{{}}.png*3", f"{split}/dog/{{}}.png*3")
    source = opened(tmp_path)
    assert source.classes == TWO
    assert sum(map(len, images(source).values())) == 12
    assert sum(one.count for one in source.passed) == 18


@pytest.mark.parametrize("mask", [
    "{}/{{}}_mask.png*3", "{}/{{}}_mask_1.jpg*3", "{}/{{}}-Segmentation.png*3", "{}/masks/{{}}.png*3",
    "{}/ground_truth/a/{{}}.png*3",
])  # fmt: skip
def test_masks_are_not_trained_on(tmp_path: Path, mask: str) -> None:
    """Neither files called after an image nor folders of them beside it; they are counted."""
    for name in TWO:
        put(tmp_path, f"{name}/{{}}.png*3", mask.format(name))
    source = opened(tmp_path)
    assert sum(map(len, images(source).values())) == 6
    assert said(source.notes, "6 files were not read", "(masks)")
    assert len(all_images(read_tree(tmp_path))) == 6


def test_masks_beside_a_folder_of_images(tmp_path: Path) -> None:
    """In each class, and in each class of each split."""
    for split in ("train", "test"):
        for name in TWO:
            put(tmp_path, f"{split}/{name}/images/{{}}.png*3", f"{split}/{name}/masks/{{}}.png*3")
    source = opened(tmp_path)
    assert all("/images/" in file for files in images(source).values() for file in files)
    assert sum(one.count for one in source.passed if one.ending == ".png (masks)") == 12
    tested = open_source(DataSet(name="mine", path=str(tmp_path)), image_size=56, parts=("test",))
    assert tested.passed == source.passed
    assert len(all_images(read_tree(tmp_path))) == 12


def test_what_is_called_a_mask_and_is_of_no_image_is_read(tmp_path: Path) -> None:
    source = opened(put(tmp_path, "mask/{}_mask.png*4", "no_mask/{}.png*4", "scarf/{}.png*4"))
    assert sum(map(len, images(source).values())) == 12
    assert len(all_images(read_tree(tmp_path))) == 12


def test_what_is_passed_over_is_counted_by_ending_and_place(tmp_path: Path) -> None:
    put(tmp_path, "cat/{}.png*6", "dog/{}.png*6", "cat/{}.HEIC*3")
    put(tmp_path, "dog/more/{}.heic*2", "val/cat/{}.png*5")
    for name in ("cat/notes.txt", "README.md", ".hidden/x.jpg", "cat/LICENSE"):
        write(tmp_path / name)
    (tmp_path / "val").rename(tmp_path / "dog" / "val")  # below a class: read with it
    source = opened(tmp_path)
    counted = {(one.place, one.ending): one.count for one in source.passed}
    assert counted == {
        ("cat", ".heic"): 3, ("dog/more", ".heic"): 2, ("cat", ".txt"): 1, (".", ".md"): 1,
        (".", "hidden"): 1, ("cat", "without ending"): 1,
    }  # fmt: skip
    assert said(source.notes, "9 files were not read", "5 .heic in cat, dog/more (pip install pillow-heif")


def test_a_split_that_is_not_asked_for_is_counted(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        put(tmp_path, f"{split}/cat/{{}}.png*3", f"{split}/dog/{{}}.png*3")
    source = opened(tmp_path)
    assert [(one.place, one.ending, one.count) for one in source.passed] == [
        ("val/cat", ".png (images)", 3), ("val/dog", ".png (images)", 3),
    ]  # fmt: skip


def test_files_without_ending_are_tried_by_content(tmp_path: Path) -> None:
    put(tmp_path, "cat/{}*3", "cat/frame.{}*3", "dog/{}.png*4")
    write(tmp_path / "cat" / "Makefile")
    source = opened(tmp_path)
    assert len(images(source)["cat"]) == 6
    assert said(source.notes, "1 without ending in cat")


def test_heic_is_read_where_its_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cat/{}.HEIC*3", "dog/{}.heif*3")
    with pytest.raises(DataError, match=r"3 \.heic in cat \(pip install pillow-heif"):
        opened(tmp_path)
    for room in (decode, __import__("clipdrift.data.tree", fromlist=["tree"])):
        monkeypatch.setattr(room, "heif_installed", lambda: True)
    assert opened(tmp_path).passed == ()


def test_what_systems_leave_behind_is_ignored(tmp_path: Path) -> None:
    put(
        tmp_path, "cat/{}.png*3", "dog/{}.png*3", "__MACOSX/cat/._{}.png*3", "cat/.ipynb_checkpoints/{}.png*2"
    )
    put(tmp_path, "@eaDir/{}.jpg*2", "cat/@eaDir/{}.jpg*2", "cat/._{}.png*2", "lost+found/{}.png*1")
    for name in (".DS_Store", "cat/Thumbs.db", "desktop.ini"):
        write(tmp_path / name)
    source = opened(tmp_path)
    assert source.classes == TWO
    assert sum(map(len, images(source).values())) == 6
    assert (source.notes, source.passed) == ((), ())


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(tmp_path, f"train/{composed}/{{}}.png*3", "train/bar/{}.png*3")
    put(tmp_path, f"test/{decomposed}/{{}}.png*3", "test/bar/{}.png*3")
    source = opened(tmp_path)
    assert source.classes == ("bar", composed)
    put(tmp_path, f"train/{decomposed}/{{}}.png*3")
    with pytest.raises(DataError, match="in different Unicode forms"):
        opened(tmp_path)


def test_file_names_in_another_encoding(tmp_path: Path) -> None:
    """Bytes that are no UTF-8: images are read and shown, a class of such a name is refused."""
    put(tmp_path, "cat/{}.png*3", "dog/{}.png*3")
    with open(os.fsencode(tmp_path / "cat") + b"/caf\xe9.png", "wb") as file:
        file.write(picture())
    files = images(opened(tmp_path))["cat"]
    assert any(file.endswith(r"caf\xe9.png") for file in files)
    os.mkdir(os.fsencode(tmp_path) + b"/\xe9l\xe9phant")
    with open(os.fsencode(tmp_path) + b"/\xe9l\xe9phant/1.png", "wb") as file:
        file.write(picture())
    with pytest.raises(DataError, match="not UTF-8; rename it") as error:
        opened(tmp_path)
    str(error.value).encode()


def test_numbered_folders_are_in_numeric_order(tmp_path: Path) -> None:
    """Names by position mean the numbers; the mapping is said once."""
    put(tmp_path, *(f"{number}/{{}}.png*2" for number in range(12)))
    given = tuple(f"name {letter}" for letter in "abcdefghijkl")
    source = opened(tmp_path, classes=given)
    for number, name in enumerate(given):
        assert all(f"/{number}/" in file for file in images(source)[name])
    assert source.own_names == tuple(map(str, range(12)))
    assert said(source.notes, "2 = name c", "10 = name k")
    put(tmp_path, "07/{}.png*2")
    with pytest.raises(DataError, match=r"'07' and '7' are the same number"):
        opened(tmp_path)


def test_a_catalog_set_in_numbered_folders_has_its_names(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number}/{{}}.png*2" for number in range(10)))
    source = opened(tmp_path, "cifar10")
    assert source.classes[:2] == ("airplane", "automobile")
    assert said(source.notes, "as the catalog names cifar10's: 0 = airplane")


def test_images_without_class_beside_class_folders_are_said(tmp_path: Path) -> None:
    source = opened(put(tmp_path, "cat/{}.png*3", "dog/{}.png*3", "{}.png*2"))
    assert said(source.notes, "2 images beside the class folders have no class")
    assert [(one.place, one.count) for one in source.passed] == [(".", 2)]


def test_the_class_of_images_that_are_only_looked_at(tmp_path: Path) -> None:
    """`--images FOLDER` reads every image; splits, helpers and years are no classes there either."""
    put(tmp_path, "train/cat/2020/{}.png*2", "test/dog/images/{}.png*2", "val/{}.png*1")
    found = all_images(read_tree(tmp_path))
    paths = [Path(found.where(i)) for i in range(len(found))]
    assert class_level(tmp_path, paths) == ["dog", "dog", "cat", "cat", ""]
    assert np.all(found.labels == 0)


def test_a_training_split_alone_can_be_given_instead(tmp_path: Path) -> None:
    """Where nothing has labels to test on, the message says what to give, and that works."""
    put(tmp_path, "train/cat/{}.png*5", "train/dog/{}.png*5")
    with pytest.raises(DataError, match=r"no split 'test'; it has train; .*, or give .*/train alone"):
        opened(tmp_path)
    put(tmp_path, "test/{}.png*3")
    with pytest.raises(DataError, match="give the folder of the training split alone"):
        opened(tmp_path)
    source = opened(tmp_path / "train")
    assert source.classes == TWO
    assert source.test is not None
    assert len(source.test) == 2
