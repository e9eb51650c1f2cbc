"""Several backbones, targets and transfer sets: every section and figure, once for each place."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

import generated
from clipdrift.cli.light_study import cells_table as study_table
from clipdrift.figures.registry import FIGURES, draw
from clipdrift.outcomes.chance import NOT_MEASURABLE
from clipdrift.reporting import Report, drawing, report
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import cells_table, questions_tables
from clipdrift.study.plan import QUESTIONS
from clipdrift.study.tables import Tables
from few_draws import few_draws

MODELS = ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16")
PLACES = tuple(f"{target}, {model.split('/')[1]}" for target in ("eurosat", "pets") for model in MODELS)
SETS = ("cifar100", "cifar10", "flowers102")
OPTIONS = ("penalties", "frozen_blocks", "lora_targets", "lora_ranks", "weight_decay")
"""Figures of runs that this study has none of."""
OVERALL = ("measures", "predictors", "attention")
"""Figures over all cells, and the one that shows an example, which its note names."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    generated.generated_study(
        folder, models=MODELS, rates=(1e-6, 5e-5), seeds=(7, 11), epochs=3, blocks=6, maps=2, paths=True
    )
    return folder


@pytest.fixture(scope="module")
def places(study: Path) -> Tables:
    found = Tables.of(study)
    with few_draws():
        found.ask(QUESTIONS)
    return found


@pytest.fixture(scope="module")
def reported(study: Path, places: Tables, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The whole report, with the figures that are made from rows of tests; these are computed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tables, "open", lambda folder: places)
        patch.setattr(drawing, "FIGURES", {name: FIGURES[name] for name in ("statistics",)})
        return report(study, tmp_path_factory.mktemp("report"))


def texts(figure: Figure) -> list[str]:
    found = [part.get_suptitle() for part in figure.subfigs]
    found += [entry.get_text() for legend in figure.legends for entry in legend.get_texts()]
    for axis in figure.axes:
        found += [axis.get_title(loc=side) for side in ("left", "center", "right")]
        found += [axis.get_ylabel(), *(tick.get_text() for tick in axis.get_yticklabels())]
    return found


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in OPTIONS])
def test_every_figure_shows_every_place(name: str, places: Tables) -> None:
    said = "\n".join(texts(draw(name, places)))
    assert [place for place in PLACES if place not in said and name not in OVERALL] == []


def test_the_figure_of_statistics_has_each_test_once_for_each_place(places: Tables) -> None:
    figure = draw("statistics", places)
    lines = Counter(tick.get_text() for tick in figure.axes[0].get_yticklabels())
    signals, methods = ("entropy", "1 − CKA"), ("full_ft", "lora")
    assert lines == Counter(f"{s}, {place}, {m}" for s in signals for place in PLACES for m in methods)
    effects = Counter(tick.get_text() for tick in figure.axes[1].get_yticklabels())
    outcomes = ("entropy", "1 − CKA", "weight drift", "accuracy", "retention cifar100")
    assert effects == Counter(f"{outcome}, {place}" for outcome in outcomes for place in PLACES)


def test_every_section_has_its_sentences_for_every_place(reported: Report) -> None:
    """What is said of a place is said once: by matching and outcome, and by method and signal."""
    sentences = reported.sentences
    assert len(set(sentences)) == len(sentences)
    for place in PLACES:
        here = [text for text in sentences if text.startswith(f"{place}")]
        assert len([text for text in here if "at the same rate and seed" in text]) == 2  # kept, accuracy
        assert len([text for text in here if "at the same weight drift" in text]) <= 2
        for method in ("full_ft", "lora"):
            rate = [text for text in here if text.startswith(f"{place}, {method}: ")]
            assert len(rate) == 2
            assert all("rate" in text for text in rate)
        assert len([text for text in here if "picking by it alone" in text]) == 1
    page = reported.page.read_text(encoding="utf-8")
    headings = re.findall(r"<h3[^>]*>(.*?)</h3>", page)
    for heading in ("Methods", "Learning rate and drift", "What goes with what is kept", "Choosing a run"):
        assert headings.count(heading) == 1
    assert reported.undrawn == {}


def test_a_place_has_one_name_everywhere(places: Tables) -> None:
    """In runs, cells and every row of tests; the keys tell target and backbone apart."""
    assert set(places.runs["place"]) == set(places.prepared["place"]) == set(PLACES)
    for question in QUESTIONS:
        rows = places.rows(question)
        named = rows[rows["place"] != ""]
        assert set(named["place"]) <= set(PLACES)
        short = named["backbone"].str.split("/").str[1]
        assert (named["place"] == named["target"] + ", " + short).all()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """One place, three transfer sets; on the last the backbone is right as often as guessing is."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(generated.ZERO_SHOT, "flowers102", 100 / 20)
        generated.generated_study(
            folder, targets=("pets",), transfer=SETS, rates=(1e-6, 5e-5), seeds=(7, 11), epochs=3, blocks=6,
            paths=True,
        )  # fmt: skip
    return Tables.of(folder)


def test_every_transfer_set_has_its_rows_and_panels(sets: Tables) -> None:
    measured, asked = SETS[:2], questions_tables(sets)
    for question in ("predictors", "choosing", "methods"):
        kept = {f"retention_{name}" for name in measured}
        assert kept <= set(sets.rows(question)["outcome"])
    sentences = [sentence.text for sentence in summary(sets, asked)]
    for name in measured:
        about = [text for text in sentences if re.search(rf"zero-shot accuracy on {name}\b", text)]
        assert len([text for text in about if "declared signal" in text or "cannot be told" in text]) == 1
        assert len([text for text in about if "at the same rate and seed" in text]) == 1
    for figure in ("frontier", "choosing", "drift_zero_shot", "matched_rates", "interpolation"):
        axes = draw(figure, sets).axes
        said = "\n".join([axis.get_ylabel() + axis.get_xlabel() for axis in axes])
        assert all(f"retention {name}, %" in said for name in measured), figure
        assert "retention flowers102" not in said


def test_where_the_backbone_guesses_retention_is_not_measurable(sets: Tables) -> None:
    """Said with its count, shown in the tables, left out of all statistics; accuracy itself stays."""
    sentences = [sentence.text for sentence in summary(sets, questions_tables(sets))]
    assert sentences[1] == (
        "What is kept of flowers102 is not measurable in 8 of 8 runs: the backbone's zero-shot accuracy "
        "there, 5.0 %, is not above chance (exact binomial test). The statistics leave it out."
    )
    assert sets.runs["zero_shot_flowers102"].notna().all()
    assert not any("retention_flowers102" in set(sets.rows(q)["outcome"]) for q in QUESTIONS)
    cells = cells_table(sets).texts()
    assert set(cells["kept of flowers102, %"]) == {NOT_MEASURABLE}
    assert NOT_MEASURABLE not in set(cells["kept of cifar100, %"])
    console = Console(width=400, file=io.StringIO())
    console.print(study_table(sets.cells))
    assert console.file.getvalue().count(NOT_MEASURABLE) == len(sets.cells)  # type: ignore[attr-defined]
    assert sets.paths["retention_flowers102"].isna().all()
