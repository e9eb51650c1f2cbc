from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipdrift.data.errors import DataError
from clipdrift.data.splits import Division, balanced, balanced_subsets, divide, without

RNG = np.random.default_rng(5)
COUNTS = (40, 90, 65, 200)
TRAIN = RNG.permutation(np.repeat(np.arange(4), COUNTS))
TEST = RNG.permutation(np.repeat(np.arange(4), 60))


def strict(**options: Any) -> Division:
    return divide(TRAIN, TEST, protocol="strict", **{"seed": 0, "probe_per_class": 10} | options)


def per_class(labels: np.ndarray, indices: np.ndarray) -> list[int]:
    counts: list[int] = np.bincount(labels[indices], minlength=4).tolist()
    return counts


def test_strict_is_disjoint_stratified_and_complete() -> None:
    division = strict()
    parts = (division.train, division.validation, division.probe)
    joined = np.concatenate(parts)
    assert len(np.unique(joined)) == len(joined) == len(TRAIN)
    assert per_class(TRAIN, division.probe) == [10] * 4
    assert per_class(TRAIN, division.validation) == [count // 10 for count in COUNTS]
    assert per_class(TRAIN, division.train) == [count - count // 10 - 10 for count in COUNTS]
    assert division.test.tolist() == list(range(len(TEST)))
    assert (division.validation_from, division.probe_from) == ("train", "train")
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in (*parts, division.test))


def test_strict_numbers_as_asked() -> None:
    division = strict(train_per_class=16, validation_per_class=3, probe_per_class=2)
    assert per_class(TRAIN, division.train) == [16] * 4
    assert per_class(TRAIN, division.validation) == [3] * 4
    assert per_class(TRAIN, division.probe) == [2] * 4


def test_fewer_training_images_move_nothing_else_and_are_nested() -> None:
    few, more, all_left = strict(train_per_class=5), strict(train_per_class=20), strict()
    for other in (more, all_left):
        assert np.array_equal(few.validation, other.validation)
        assert np.array_equal(few.probe, other.probe)
    assert set(few.train) < set(more.train) < set(all_left.train)


def test_another_class_count_does_not_move_the_probe() -> None:
    assert np.array_equal(strict(validation_per_class=2).probe, strict(validation_per_class=7).probe)
    without_last = TRAIN[TRAIN < 3]
    division = divide(without_last, TEST, protocol="strict", seed=0, probe_per_class=10)
    positions = np.flatnonzero(TRAIN < 3)
    kept = positions[division.probe]
    assert kept.tolist() == [i for i in strict().probe if TRAIN[i] < 3]


def test_only_the_data_seed_decides() -> None:
    np.random.seed(1)
    first = strict()
    np.random.seed(2)
    again = strict()
    other = strict(seed=1)
    assert np.array_equal(first.train, again.train)
    assert np.array_equal(first.probe, again.probe)
    assert not np.array_equal(first.probe, other.probe)


def test_defaults() -> None:
    labels = np.repeat(np.arange(10), 100)
    division = divide(labels, labels, protocol="strict", seed=0)
    assert len(division.probe) == 200
    assert len(division.validation) == 100
    assert len(division.train) == 700
    small = np.repeat(np.arange(67), 9)  # 200 / 67 rounded up is 3; a tenth of 9 is none, but one at least
    division = divide(small, small, protocol="strict", seed=0)
    assert len(division.probe) == 201
    assert len(division.validation) == 67


def test_too_few_images_are_named() -> None:
    with pytest.raises(
        DataError, match=r"class 0 \(cat\) has 40 training images; 44 are needed: 20 to probe, 4"
    ):
        strict(train_per_class=20, probe_per_class=20, classes=("cat", "dog", "emu", "fox"))
    with pytest.raises(DataError, match=r"class 1 has no images in the training split"):
        divide([0, 0, 2, 2], [0, 1], protocol="strict", seed=0)
    with pytest.raises(DataError, match=r"class 2 \(emu\) has no images"):
        divide([0, 1], [0, 1], protocol="strict", seed=0, classes=("cat", "dog", "emu"))
    with pytest.raises(DataError, match="no images in the training split"):
        divide(np.array([], dtype=int), TEST, protocol="strict", seed=0)


def test_labels_must_be_integers() -> None:
    with pytest.raises(ValueError, match="list of integers"):
        divide([0.5, 1.0], TEST, protocol="strict", seed=0)


def test_published() -> None:
    division = divide(TRAIN, TEST, protocol="published", seed=0)
    assert division.train.tolist() == list(range(len(TRAIN)))
    assert division.validation.tolist() == division.test.tolist() == list(range(len(TEST)))
    assert (division.validation_from, division.probe_from) == ("test", "test")
    assert per_class(TEST, division.probe) == [50] * 4
    assert np.array_equal(division.probe, balanced_subsets(TEST, 1, 200, 0)[0])
    limited = divide(TRAIN, TEST, protocol="published", seed=0, train_per_class=7, probe_per_class=5)
    assert per_class(TRAIN, limited.train) == [7] * 4
    assert per_class(TEST, limited.probe) == [5] * 4


def test_published_probe_is_200_where_classes_do_not_divide_it() -> None:
    labels = np.repeat(np.arange(37), 20)
    probe = divide(labels, labels, protocol="published", seed=0).probe
    counts = np.bincount(labels[probe])
    assert len(probe) == 200
    assert counts.min() == 5
    assert counts.max() == 6


def test_published_with_too_small_a_test_split() -> None:
    labels = np.repeat(np.arange(37), 3)
    with pytest.raises(DataError, match="set `probe_per_class` lower"):
        divide(labels, labels, protocol="published", seed=0)


def test_balanced_is_nested_and_seeded() -> None:
    few, more = balanced(TRAIN, 4, 0), balanced(TRAIN, 30, 0)
    assert per_class(TRAIN, few) == [4] * 4
    assert set(few) < set(more)
    assert not np.array_equal(few, balanced(TRAIN, 4, 1))
    with pytest.raises(DataError, match=r"class 0 has 40 images, 41 are asked for"):
        balanced(TRAIN, 41, 0)


def test_what_is_left_out_and_what_is_left_are_the_whole() -> None:
    chosen, left = balanced(TRAIN, 4, 7), without(TRAIN, 4, 7)
    assert sorted([*chosen, *left]) == list(range(len(TRAIN)))
    with pytest.raises(DataError, match=r"class 0 has 40 images, and as many are left out"):
        without(TRAIN, 40, 7)


def test_subsets_are_disjoint_and_balanced() -> None:
    subsets = balanced_subsets(TRAIN, 4, 38, 3)
    joined = np.concatenate(subsets)
    assert len(np.unique(joined)) == len(joined) == 4 * 38
    for subset in subsets:
        counts = np.bincount(TRAIN[subset], minlength=4)
        assert counts.sum() == 38
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(subsets[0], balanced_subsets(TRAIN, 1, 38, 3)[0])
    with pytest.raises(DataError, match=r"class 0 has 40 images, 5 probe set\(s\) of 40 need 50"):
        balanced_subsets(TRAIN, 5, 40, 3)


def test_choice_is_uniform_over_a_class() -> None:
    """Positive control: no position in the data is favoured."""
    labels = np.zeros(20, dtype=int)
    hits = np.zeros(20)
    for seed in range(400):
        hits[balanced(labels, 5, seed)] += 1
    assert abs(hits - 100).max() < 45  # five standard deviations
