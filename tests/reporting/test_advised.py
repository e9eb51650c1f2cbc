"""The advice of a report: the same as the command's, each number a cell of its table."""

from __future__ import annotations

from urllib.parse import unquote

import pandas as pd
import pytest

import clipdrift
from clipdrift.analysis.runs import prepared
from clipdrift.pages.cells import PageCell
from clipdrift.reporting.advised import advice_sentences, advice_table
from clipdrift.reporting.printed import KEY
from clipdrift.study.tables import Tables

LEVELS = {("lora", 1e-4): (70.0, 95.0), ("lora", 1e-3): (80.0, 91.0), ("full_ft", 1e-4): (85.0, 50.0)}


def tables(**columns: object) -> Tables:
    rows = [
        {"run": f"{target}{method}{rate}{seed}", "target": target, "backbone": "", "method": method,
         "learning_rate": rate, "seed": seed, "status": "done", "accuracy": gained + 0.3 * seed,
         "retention_cifar100": kept - 0.5 * seed**2}
        for target in ("birds", "pets") for (method, rate), (gained, kept) in LEVELS.items()
        for seed in (0, 1, 2)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).assign(**columns)  # type: ignore[arg-type]
    assert len(prepared(frame))
    return Tables(frame)


def test_every_number_of_a_sentence_is_a_cell_of_the_table() -> None:
    advice = clipdrift.advise(tables())
    table = advice_table(advice)
    assert table is not None
    rows = table.frame.set_index(KEY)
    sentences = advice_sentences(advice, table)
    cells = [part for s in sentences for part in s.parts if isinstance(part, PageCell)]
    assert len(cells) > 10
    for cell in cells:
        key, column = cell.key.removeprefix("advice.csv:").rsplit("/", 1)
        assert rows.loc[unquote(key), column] == cell.value
        assert float(cell.text.replace("−", "-").lstrip("< ")) == pytest.approx(cell.value, abs=0.051)


def test_the_report_says_what_the_command_says() -> None:
    advice = clipdrift.advise(tables())
    said = [s.text for s in advice_sentences(advice, advice_table(advice)) if s.heading == "birds"]
    command = advice.summary()[: len(said)]
    assert said[0] == "To" + command[0].removeprefix("birds: to")
    assert said[1:] == command[1:]


def test_the_table_has_every_setting_once_and_names_its_part() -> None:
    table = advice_table(clipdrift.advise(tables()))
    assert table is not None
    assert len(table.frame) == 2 * len(LEVELS)
    assert table.frame[KEY].is_unique
    roles = table.frame.set_index("setting")["role"]
    assert set(roles["lora at 1e-3"]) == {"best, frontier"}
    assert set(roles["full_ft at 1e-4"]) == {"most accurate, frontier"}


def test_where_nothing_can_be_advised_it_says_why() -> None:
    """A backbone at chance: no table, and sentences without numbers of their own."""
    advice = clipdrift.advise(tables(backbone_chance_p_cifar100=0.5))
    assert advice_table(advice) is None
    said = [s.text for s in advice_sentences(advice, None)]
    assert said[0] == "Nothing can be advised."
    assert "not above chance" in said[1]
