"""Dividing pictures with captions: by image, identical ones together, by the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdrift.data.decoding import digest_of
from clipdrift.data.errors import DataError
from clipdrift.data.pair_splits import PairDivision, divide_pairs, pixel_groups
from clipdrift.data.parts import ANY, TEST, TRAIN, VALIDATION, part_of

SETS = ("train", "validation", "probe", "test")


def sets(division: PairDivision) -> dict[str, list[int]]:
    return {name: getattr(division, name).tolist() for name in SETS}


def divided(
    parts: dict[int, int], groups: list[int] | None = None, seed: int = 0, **asked: int
) -> PairDivision:
    part = np.repeat(np.array(list(parts), dtype=np.int8), list(parts.values()))
    numbers = np.arange(len(part)) if groups is None else np.array(groups)
    return divide_pairs(part, numbers, seed=seed, **asked)


def test_defaults_without_splits() -> None:
    division = divided({ANY: 3000})
    assert {name: len(own) for name, own in sets(division).items()} == {
        "train": 2200, "validation": 300, "probe": 200, "test": 300
    }  # fmt: skip
    assert division.notes == ("the data name no test images: 300 of 3000 are held out to test",)
    assert all(getattr(division, name).dtype == np.int64 for name in SETS)


def test_the_datas_own_splits() -> None:
    division = divided({TRAIN: 100, VALIDATION: 7, TEST: 9, ANY: 20})
    assert division.validation.tolist() == list(range(100, 107))
    assert division.test.tolist() == list(range(107, 116))
    assert len(division.probe) == 12
    assert sorted([*division.train, *division.probe]) == [*range(100), *range(116, 136)]
    assert division.notes == ()


def test_validation_without_test() -> None:
    """The data's own validation images validate; test images come from those that train."""
    division = divided({TRAIN: 50, VALIDATION: 10})
    assert division.validation.tolist() == list(range(50, 60))
    assert len(division.test) == 5
    assert division.test.max() < 50
    (note,) = division.notes
    assert note.endswith("5 of 50 are held out to test; the data's own validation images validate")


def test_identical_images_of_several_splits_are_left_out_where_they_train() -> None:
    parts = {TRAIN: 60, VALIDATION: 8, TEST: 8}
    groups = list(range(76))
    groups[0] = groups[68]  # trains and tests
    groups[1] = groups[60]  # trains and validates
    groups[61] = groups[2] = groups[69]  # in all three
    division = divided(parts, groups)
    trained = {*division.train.tolist(), *division.probe.tolist()}
    assert trained == set(range(3, 60))
    assert division.validation.tolist() == [60, *range(62, 68)]
    assert division.test.tolist() == list(range(68, 76))
    assert division.notes == (
        "2 training images are identical to test images, left out",
        "1 training images are identical to validation images, left out",
        "1 validation images are identical to test images, left out",
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(20, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    part = rng.choice(draw(st.sampled_from(((3,), (0,), (0, 1), (0, 2), (0, 1, 2, 3)))), n).astype(np.int8)
    return part, rng.integers(0, draw(st.integers(n // 2, 3 * n)), n)


@given(case=cases(), seed=st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_no_image_is_on_two_sides(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    part, groups = case
    try:
        division = divide_pairs(part, groups, seed=seed)
    except DataError:
        return  # too few are left to be apart
    chosen = sets(division)
    everything = [image for own in chosen.values() for image in own]
    assert len(set(everything)) == len(everything)
    assert all(own == sorted(own) for own in chosen.values())
    where: dict[int, str] = {}
    for name, own in chosen.items():
        for image in own:
            assert where.setdefault(int(groups[image]), name) == name
    assert not np.isin(part[division.train], (VALIDATION, TEST)).any()
    assert not np.isin(part[division.probe], (VALIDATION, TEST)).any()
    if (part == TEST).any():
        assert division.test.tolist() == np.flatnonzero(part == TEST).tolist()
    else:
        pool = np.isin(part, (TRAIN, ANY)).sum()
        assert 2 <= len(division.test) <= max(2, pool // 10)
    again = divide_pairs(part, groups, seed=seed)
    assert sets(again) == chosen
    # what the groups are called is of no account, as long as their order is the same
    renamed = divide_pairs(part, 7 * groups + 3, seed=seed)
    assert sets(renamed) == chosen


def test_only_the_seed_decides() -> None:
    np.random.seed(1)
    first = sets(divided({ANY: 100}))
    np.random.seed(2)
    assert sets(divided({ANY: 100})) == first
    other = sets(divided({ANY: 100}, seed=1))
    assert all(other[name] != first[name] for name in SETS)


def test_fewer_images_are_a_part_of_more() -> None:
    """Fewer to train move nothing else; of the data's own test images the same ones come first."""
    whole = divided({TRAIN: 100, TEST: 30})
    few, more = (divided({TRAIN: 100, TEST: 30}, train=n, test=n) for n in (10, 20))
    assert set(few.train) < set(more.train) < set(whole.train)
    assert set(few.test) < set(more.test) < set(whole.test)
    for name in ("validation", "probe"):
        assert sets(few)[name] == sets(more)[name] == sets(whole)[name]
    assert len(few.train) == len(few.test) == 10
    assert set(divided({ANY: 100}, test=5).test) < set(divided({ANY: 100}, test=20).test)


def test_numbers_as_asked() -> None:
    division = divided({ANY: 100}, train=31, validation=7, probe=5, test=11)
    assert [len(own) for own in sets(division).values()] == [31, 7, 5, 11]


def test_ten_images_are_enough() -> None:
    assert [len(own) for own in sets(divided({ANY: 10})).values()] == [2, 2, 4, 2]


def test_identical_images_stay_together_even_if_fewer_are_drawn() -> None:
    """Rows of one image each with one of its five captions: five equal images in a row."""
    division = divided({ANY: 200}, np.repeat(np.arange(40), 5).tolist(), test=13, probe=4 + 1)
    assert len(division.test) == 10
    assert "10 of 13 images to test: identical images stay together" in division.notes
    copies = sum(len(own) for own in sets(division).values()) * 4 // 5
    assert (
        division.notes[-1] == f"{copies} images are identical to another one of the same set, and stay in it"
    )
    assert len({image // 5 for image in division.test}) == 2


@pytest.mark.parametrize(("parts", "asked", "message"), [
    ({ANY: 9}, {}, "9 images that may be trained on; 10 are needed: 2 to test, 2 to validate, 4 to probe"),
    ({VALIDATION: 50, TEST: 50}, {}, "0 images that may be trained on; 6 are needed: 4 to probe, 2 to train"),
    ({ANY: 100}, {"train": 71}, "100 images that may be trained on; 101 are needed"),
    ({ANY: 100}, {"probe": 3}, "3 images to probe; 4 or more are needed"),
    ({ANY: 100, TEST: 1}, {}, "1 images to test; 2 are needed"),
    ({ANY: 100, TEST: 10}, {"test": 11}, "10 images to test; 11 are needed"),
])  # fmt: skip
def test_too_few_images(parts: dict[int, int], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        divided(parts, **asked)
    assert "\n" not in str(error.value)


def test_identical_images_that_leave_too_few() -> None:
    with pytest.raises(
        DataError, match="0 images to validate, as identical ones stay together; 2 are needed"
    ):
        divided({ANY: 20}, [0] * 20)


def test_equal_pixels_have_equal_numbers() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2500, 2, 2, 3), dtype=np.uint8)
    pictures[7] = pictures[2]
    pictures[2400] = pictures[2]
    pictures[5, 1, 1, 2] = pictures[6, 1, 1, 2] ^ 1
    pictures[5].flat[:-1] = pictures[6].flat[:-1]  # all but the last byte
    digests = np.array([int(digest_of(picture.tobytes()), 16) for picture in pictures], np.uint64)
    groups = pixel_groups(digests)
    expected = np.arange(2500)
    expected[[7, 2400]] = 2
    assert np.array_equal(groups, expected)
    assert groups.dtype == np.int64
    assert pixel_groups(digests[:0]).tolist() == []


@pytest.mark.parametrize(("name", "part"), [
    ("train", TRAIN), ("Training", TRAIN), ("train2017", TRAIN), ("seg_train", TRAIN), ("restval", TRAIN),
    ("val", VALIDATION), ("val2014", VALIDATION), ("dev", VALIDATION), ("captions_val2017", VALIDATION),
    ("test", TEST), ("test-images", TEST), ("bullet", None), ("fold1", None), ("7", None), ("", None),
    ("unlabeled", None), ("images", None),
])  # fmt: skip
def test_names_of_parts(name: str, part: Any) -> None:
    assert part_of(name) == part
