"""The page of a study: one HTML file with everything inside. Arranges what a report found."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from clipdrift.pages.compare import environment_of, part
from clipdrift.runs.files import write_text

RATED = ("matched_rates", "representation_sweep")
TRADED = ("frontier", "choosing")
PREDICTING = ("predictors", "drift_zero_shot")
DEEP = ("rate_blocks", "block_drift")
FIRST = (*RATED, *TRADED, *PREDICTING, *DEEP, "statistics")
"""Figures with a section of their own; the others stand together."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A figure of the page: a PNG, or why it was not drawn."""

    name: str
    title: str
    text: str
    file: Path | None
    reason: str = ""

    @property
    def uri(self) -> str:
        assert self.file is not None
        return f"data:image/png;base64,{base64.b64encode(self.file.read_bytes()).decode()}"


@dataclass(frozen=True, eq=False)
class StudyPage:
    """Contents of the page.

    Attributes:
        title: of the study. facts: what was fine-tuned on what, one line each.
        sentences: lists of words and cells, with whether tests tell (None: nothing was tested).
        notes: what must be known before anything is read.
        cells, runs: the printed tables. tests: those of the questions.
        published: ours beside the published values.
        figures: by name.
        advice: sentences of :mod:`clipdrift.advice`, headed by target. settings: the table that they cite.
        courses: what the page draws of each run: see :mod:`clipdrift.reporting.courses`.
        viewer: attention of some runs, as :func:`clipdrift.pages.viewer.pack_runs` packs it; said: of it.
        environment: names and values, with the number of runs that share them.
        commands: how to do it again.
        files: names of the tables beside the page.
    """

    title: str
    facts: Sequence[str]
    sentences: Sequence[Any]
    notes: Sequence[str]
    cells: Any
    runs: Any
    tests: Sequence[Any]
    published: Any | None
    figures: Mapping[str, Shown]
    advice: Sequence[Any]
    settings: Any | None
    courses: Mapping[str, Any]
    viewer: dict[str, Any] | None
    said: Sequence[str]
    environment: Sequence[tuple[int, Sequence[tuple[str, str]]]]
    commands: Sequence[str]
    files: Sequence[str] = field(default_factory=tuple)

    def some(self, names: Sequence[str]) -> list[Shown]:
        return [self.figures[name] for name in names if name in self.figures]

    @property
    def headed(self) -> list[tuple[str, list[Any]]]:
        """The sentences by heading, in their order."""
        return _by_heading(self.sentences)

    @property
    def advised(self) -> list[tuple[str, list[Any]]]:
        """The advice by target."""
        return _by_heading(self.advice)

    @property
    def others(self) -> list[Shown]:
        return [shown for name, shown in self.figures.items() if name not in FIRST]


def _by_heading(sentences: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    return [(head, list(part)) for head, part in itertools.groupby(sentences, lambda s: str(s.heading))]


_EARLY = 'document.documentElement.className = "scripted";'
"""Runs before the tables are read, so that those of other questions are never laid out."""


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_study_page(page: StudyPage, path: Path) -> Path:
    """Write the page: one file that loads nothing, works offline, in a narrow window and in print."""
    environment = environment_of()
    script = Markup(part(environment, "viewer.js") + part(environment, "study.js"))
    text = environment.get_template("study.html.j2").render(
        page=page,
        css=Markup(part(environment, "compare.css") + part(environment, "study.css")),
        script=script,
        script_hash=_hash(script),
        early=Markup(_EARLY),
        early_hash=_hash(_EARLY),
        rated=RATED,
        traded=TRADED,
        predicting=PREDICTING,
        deep=DEEP,
    )
    write_text(path, text)
    return path
