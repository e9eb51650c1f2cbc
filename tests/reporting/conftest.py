"""One generated study and its report, for all tests of reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clipdrift.figures.registry import FIGURES
from clipdrift.reporting import Report, drawing, report
from clipdrift.study.plan import QUESTIONS
from clipdrift.study.tables import Tables
from few_draws import few_draws
from generated import generated_study

SOME = ("matched_rates", "frontier", "attention", "interpolation")
"""The last cannot be drawn: there are no paths."""


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with few_draws():
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets, both methods, two rates, two seeds; one diverged, one failed."""
    folder = tmp_path_factory.mktemp("study")
    generated_study(folder, rates=(1e-6, 1e-5), seeds=(7, 11), diverged=1, failed=1, epochs=3, maps=6)
    return folder


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """Four runs: both methods at two rates, one seed."""
    generated_study(tmp_path / "little", targets=("pets",), rates=(1e-6, 5e-5), seeds=(7,), epochs=2)
    return tmp_path / "little"


@pytest.fixture(scope="session")
def reported(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Its report, beside the published values, with some of the figures: all have tests of their own."""
    with few_draws(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "FIGURES", {name: FIGURES[name] for name in SOME})
        return report(study, tmp_path_factory.mktemp("report"), published=True)


@pytest.fixture(scope="session")
def tables(study: Path) -> Tables:
    """Its tables, with all questions answered."""
    found = Tables.of(study)
    with few_draws():
        found.ask(QUESTIONS)
    return found
