from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from clipdrift.data.catalog import CATALOG, DEFAULT_PROMPTS, CatalogRow, readable

ROWS = list(CATALOG.values())
SIZES = {"eurosat": 10, "pets": 37, "cifar100": 100, "cifar10": 10, "flowers102": 102}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_keeps_the_contract(row: CatalogRow) -> None:
    assert CATALOG[row.name] is row
    owner, _, name = row.hub.partition("/")
    assert owner
    assert name
    assert "/" not in name
    assert row.image_column
    assert row.label_column
    assert row.train_split != row.test_split
    assert row.note
    assert row.reference
    assert "\n" not in row.note
    assert row.prompts
    assert len(set(row.prompts)) == len(row.prompts)
    assert all(prompt.count("{}") == 1 and prompt.replace("{}", "").count("{") == 0 for prompt in row.prompts)
    assert row.classes is not None
    assert len(set(row.classes)) == len(row.classes) == SIZES[row.name]
    assert all("_" not in name and name == name.strip() and name == readable(name) for name in row.classes)
    if row.labels is not None:
        assert len(set(row.labels)) == len(row.labels) == len(row.classes)


def test_hub_ids_are_distinct() -> None:
    assert len({row.hub for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", ["cifar100", "cifar10", "flowers102"])
def test_published_transfer_prompt(name: str) -> None:
    assert CATALOG[name].prompts[0] == "a photo of a {}" == DEFAULT_PROMPTS[0]


def test_flowers_are_named_by_their_number_and_not_by_their_position() -> None:
    row = CATALOG["flowers102"]
    assert row.labels is not None
    assert row.classes is not None
    name = dict(zip(row.labels, row.classes, strict=True))
    # Oxford's own numbers of a few unmistakable flowers.
    assert name["1"] == "pink primrose"
    assert name["2"] == "hard-leaved pocket orchid"
    assert name["54"] == "sunflower"
    assert name["74"] == "rose"
    assert name["102"] == "blackberry lily"
    assert row.labels[:6] == ("1", "10", "100", "101", "102", "11")  # the hub card's order


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aquarium_fish", "aquarium fish"),
        ("AnnualCrop", "annual crop"),
        ("HerbaceousVegetation", "herbaceous vegetation"),
        ("Abyssinian", "Abyssinian"),
        ("Egyptian_Mau", "Egyptian Mau"),
        ("parking lot", "parking lot"),
        ("hard-leaved pocket orchid", "hard-leaved pocket orchid"),
        ("BMW", "BMW"),
        ("iPhone", "iPhone"),
        ("__odd__name_", "odd name"),
        ("737-200", "737-200"),
    ],
)
def test_readable(name: str, expected: str) -> None:
    assert readable(name) == expected
    assert readable(expected) == expected


def test_listing_loads_nothing_heavy(run_python: Callable[..., subprocess.Popen[str]]) -> None:
    code = (
        "import sys; import clipdrift.data.catalog; "
        "print([m for m in ('torch', 'datasets', 'transformers', 'PIL', 'pyarrow') if m in sys.modules])"
    )
    out, errors = run_python(code).communicate()
    assert out.strip() == "[]", errors
