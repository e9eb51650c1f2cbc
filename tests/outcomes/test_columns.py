"""A column's name says its kind, moment, transfer set, unit and direction, whatever the set is called."""

from __future__ import annotations

import pandas as pd
import pytest

from clipdrift.outcomes.columns import columns_of, outcome, retention_of, zero_shot_of
from clipdrift.outcomes.places import Place, place_names, places_of
from clipdrift.outcomes.statuses import status_of


@pytest.mark.parametrize(
    ("column", "kind", "name", "moment", "transfer", "unit", "direction"),
    [
        ("retention_cifar100", "retention", "retention_cifar100", "", "cifar100", "%", 1),
        ("last_retention_my_drift", "retention", "retention_my_drift", "last", "my_drift", "%", 1),
        ("epoch1_zero_shot_last_words", "zero-shot", "zero_shot_last_words", "epoch1", "last_words", "%", 1),
        ("backbone_zero_shot_a", "zero-shot", "zero_shot_a", "backbone", "a", "%", 1),
        ("zero_shot_kl", "drift", "zero_shot_kl", "", "", "", -1),
        ("entropy_drift", "drift", "entropy_drift", "", "", "%", 1),
        ("entropy_magnitude", "magnitude", "entropy_magnitude", "", "", "%", -1),
        ("epoch1_cka_of_last_block", "magnitude", "cka_of_last_block", "epoch1", "", "", 1),
        ("sink_share_drift", "drift", "sink_share_drift", "", "", "%", 0),
        ("validation_accuracy", "accuracy", "validation_accuracy", "", "", "%", 1),
        ("backbone_chance_p_a", "other", "chance_p_a", "backbone", "", "", 0),
        ("entropy", "other", "entropy", "", "", "", 0),
    ],
)
def test_a_column_is_told_by_its_name(
    column: str, kind: str, name: str, moment: str, transfer: str, unit: str, direction: int
) -> None:
    found = outcome(column)
    assert (found.kind, found.name, found.moment, found.transfer) == (kind, name, moment, transfer)
    assert (found.unit, found.direction, found.column) == (unit, direction, column)


def test_columns_of_a_set_are_made_as_they_are_read() -> None:
    assert (
        outcome(retention_of("my_drift")).transfer == outcome(zero_shot_of("my_drift")).transfer == "my_drift"
    )
    assert columns_of("retention", ["last_retention_a", "retention_a", "retention_b_sd", "a"]) == [
        "retention_a",
        "retention_b_sd",
    ]


def frame(*backbones: object) -> pd.DataFrame:
    return pd.DataFrame({"target": "pets", "backbone": list(backbones)})


def test_places_are_named_by_what_tells_them_apart() -> None:
    """One backbone goes without saying; of several the last part, unless two end alike."""
    assert set(place_names(frame("a/b16", "a/b16"))) == {"pets"}
    assert list(place_names(frame("a/b16", "a/b32"))) == ["pets, b16", "pets, b32"]
    assert list(place_names(frame("one/b16", "two/b16"))) == ["pets, one/b16", "pets, two/b16"]
    assert list(place_names(frame("a/b16", None))) == ["pets, b16", "pets"]
    runs = frame("a/b16", "a/b32")
    places = places_of(runs.assign(place=place_names(runs)))
    assert list(places.values())[1] == Place("pets", "a/b32", "pets, b32")
    assert str(places["pets, b16"]) == "pets, b16"


@pytest.mark.parametrize("word", ["done", "Finished", "FINISHED", " completed ", "success", "SUCCESS"])
def test_words_that_count(word: str) -> None:
    assert status_of(word) == "done"


@pytest.mark.parametrize(
    ("word", "said"),
    [("crashed", "crashed"), ("KILLED", "KILLED"), ("Diverged", "diverged"), ("unfinished", "unfinished"),
     ("", "without status"), ("  ", "without status"), (float("nan"), "without status"),
     (None, "without status"),
     (pd.NaT, "without status"), (True, "True")],
)  # fmt: skip
def test_every_other_word_is_kept_and_counts_not(word: object, said: str) -> None:
    assert status_of(word) == said
