"""Tables of a study, computed on first use and cached."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from clipdrift.analysis import questions as analysis
from clipdrift.analysis.elsewhere import read_runs
from clipdrift.analysis.runs import AnalyseError, plain, prepared
from clipdrift.outcomes.chance import measurable
from clipdrift.outcomes.columns import chance_p_of, columns_of, outcome, retention_of
from clipdrift.outcomes.places import place_names
from clipdrift.outcomes.statuses import DONE
from clipdrift.repair import Repaired
from clipdrift.repair.result import FILE, read_repaired
from clipdrift.runs.layout import CONFIG, MAPS
from clipdrift.runs.maps import Maps, read_maps
from clipdrift.runs.record import OPTIONS
from clipdrift.runs.states import read_state
from clipdrift.study.errors import ResultsError
from clipdrift.study.folder import MANIFEST, Manifest, read_manifest
from clipdrift.study.frames import (
    RecordDict,
    blocks_frame,
    cells_frame,
    history_blocks_frame,
    history_frame,
    records_in,
    runs_frame,
)
from clipdrift.study.watched import WatchedRuns, watched_runs

PATHS = "paths.csv"
"""In a study's folder: what lies between backbone and adapted models."""
PATH = "path"
"""In a run's folder: the same of this run, as ``clipdrift interpolate`` leaves it."""


class Tables:
    """A study's tables. Nothing is read before it is asked for; nothing is computed twice.

    Made by :meth:`of`, :meth:`from_csv` or :meth:`open`.

    Attributes:
        folder: where the runs are; None for a table made elsewhere.
        manifest: the study's plan, where there is one.
        problems: records that could not be read, one line each.
        notes: how a table made elsewhere was read, one line each.
        watched: what monitors' logs say along depth and training, where the runs are of such.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        folder: Path | None = None,
        manifest: Manifest | None = None,
        problems: Iterable[str] = (),
        notes: Iterable[str] = (),
        watched: WatchedRuns | None = None,
    ) -> None:
        self._frame = frame
        self.folder, self.manifest = folder, manifest
        self.problems, self.notes, self.watched = tuple(problems), tuple(notes), watched
        self._of_measure: dict[str, pd.DataFrame] = {}
        self._answers: dict[str, pd.DataFrame] = {}

    @classmethod
    def of(cls, folder: str | Path) -> Tables:
        """The tables of a study's folder, of any folder of runs, or of one of monitors' folders.

        Raises:
            ResultsError: no finished run there.
        """
        root, problems = Path(folder), list[str]()
        manifest = read_manifest(root) if (root / MANIFEST).is_file() else None
        keys, labels = (manifest.keys, manifest.labels) if manifest else (None, None)
        frame = runs_frame(records_in(root, keys, problems.append), labels)
        if frame.empty and (watched := watched_runs(root)) is not None:
            return cls(watched.runs, notes=watched.notes, watched=watched)
        if frame.empty:
            why = f" ({problems[0]})" if problems else ""
            raise ResultsError(f"{root}: no finished run here{why}; `clipdrift study run NAME --out {root}`")
        return cls(frame, root, manifest, problems)

    @classmethod
    def from_csv(cls, path: str | Path) -> Tables:
        """A table of runs made elsewhere, with those columns of ``runs_frame`` that it has.

        Raises:
            ResultsError: cannot be read, or lacks ``target``, ``method`` or ``learning_rate``; what
                :func:`clipdrift.analysis.elsewhere.read_runs` refuses.
        """
        try:
            frame, notes = read_runs(path)
        except AnalyseError as error:
            raise ResultsError(str(error)) from None
        named = "run" in frame
        frame["run"] = frame["run"].map(str) if named else [f"run {i}" for i in range(1, len(frame) + 1)]
        return cls(frame, notes=notes)

    @classmethod
    def open(cls, place: str | Path) -> Tables:
        """:meth:`of` a folder, :meth:`from_csv` of a file."""
        return cls.from_csv(place) if Path(place).is_file() else cls.of(place)

    def only(self, target: str) -> Tables:
        """The tables of one target's runs.

        Raises:
            ResultsError: no run has this target.
        """
        kept = self._frame.loc[self._frame["target"] == target, "run"]
        if kept.empty:
            names = ", ".join(map(str, dict.fromkeys(self._frame["target"])))
            raise ResultsError(f"no run has the target {target}; there are {names}")
        return self.keep(kept)

    def keep(self, runs: Iterable[str]) -> Tables:
        """The tables of some runs, by their names; what else there is is not looked at."""
        kept = self._frame[self._frame["run"].isin(set(runs))]
        about = self.folder, self.manifest, self.problems, self.notes, self.watched
        return Tables(kept.reset_index(drop=True), *about)

    @cached_property
    def prepared(self) -> pd.DataFrame:
        """The runs as analysis reads them: see :func:`clipdrift.analysis.runs.prepared`."""
        return prepared(self._frame)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: the columns of ``runs_frame``, and of a table made elsewhere no results of runs
        that are not finished; and also

        - ``place``: the target, and the backbone where there are several;
        - ``variant``: the method and the options that vary, as analysis names it;
        - ``plain``: no penalty, and the options that most of the method's runs have in this place.
        """
        runs = self._frame.copy()
        if self.folder is None:  # ours have no results to blank
            results = set(runs.select_dtypes("number").columns) - {"learning_rate", "seed", *OPTIONS}
            runs.loc[runs["status"] != DONE, sorted(results)] = np.nan
        runs["place"] = place_names(runs)
        named = self.prepared.set_index("run")["variant"]
        known = runs["run"].map(named).astype(object)  # of none where no run is finished
        runs["variant"] = known.where(known.notna(), runs["method"].astype(object))
        runs["plain"] = plain(runs)
        return runs

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per cell, as ``cells_frame`` has it; empty where runs have no cell."""
        return cells_frame(self._frame) if "cell" in self._frame else pd.DataFrame()

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """``run, measure, block, value, drift`` at the chosen epoch; of watched trainings at last."""
        return blocks_frame(self.records()) if self.watched is None else self._own(self.watched.blocks)

    @cached_property
    def backbone_blocks(self) -> pd.DataFrame:
        """The same of the backbone (no drift): a run of each place stands for all."""
        first = set(self.runs.drop_duplicates("place")["run"])
        return blocks_frame((r for r in self.records() if r["key"] in first), "backbone")

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per run and look at the model during training; of watched trainings without ``epoch``."""
        return history_frame(self.records()) if self.watched is None else self._own(self.watched.history)

    def history_blocks(self, measure: str) -> pd.DataFrame:
        """``run, epoch, step, block, value, drift`` of one measure during training; likewise."""
        if self.watched is not None:
            every = self.watched.history_blocks
            return self._own(every[every["measure"] == measure].drop(columns="measure"))
        if measure not in self._of_measure:
            self._of_measure[measure] = history_blocks_frame(self.records(), measure)
        return self._of_measure[measure]

    def _own(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["run"].isin(self._frame["run"])].reset_index(drop=True)

    @cached_property
    def paths(self) -> pd.DataFrame:
        """``run, alpha, accuracy, retention_<set>`` of the ways between backbone and adapted models.

        From what ``clipdrift interpolate DIR/RUN --out DIR/RUN/path`` left for any of the runs, and from a
        ``paths.csv`` with these columns in the study's folder.
        """
        found = [pd.DataFrame(columns=["run", "alpha"])]
        if self.folder is not None:
            if (self.folder / PATHS).is_file():
                found.append(pd.read_csv(self.folder / PATHS, dtype={"run": str}))
            for run in self._frame["run"]:
                if (self.folder / str(run) / PATH / FILE).is_file():
                    found.append(_path(str(run), read_repaired(self.folder / str(run) / PATH)))
        whole = pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
        for column in columns_of("retention", whole):
            if (p := chance_p_of(outcome(column).transfer)) in self._frame:
                known = whole["run"].map(self._frame.set_index("run")[p])
                whole.loc[~known.map(measurable), column] = np.nan
        return whole[whole["run"].isin(self._frame["run"])].reset_index(drop=True)

    @cached_property
    def ends(self) -> Mapping[str, int]:
        """Count how many planned runs ended how; without a plan, of the runs in the table."""
        if self.manifest is None or self.folder is None:
            return Counter(str(s) for s in self._frame["status"])
        here = set(self._frame["run"])
        every = set(self._frame["target"])
        counts: Counter[str] = Counter()
        for key in self.manifest.keys:
            if key in here or _target(self.folder / key) in (None, *every):
                counts[read_state(self.folder / key).kind] += 1
        return counts

    def maps(self, run: str) -> Maps | None:
        """Attention of some probe images, backbone and adapted; None where the run kept none."""
        file = self.folder / run / MAPS if self.folder else None
        if file is None or not file.is_file():
            return None
        try:
            return read_maps(file)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ResultsError(f"{file}: damaged ({error}); delete it, or repeat the run") from None

    def rows(self, question: str) -> pd.DataFrame:
        """The analysis' answer to one question, one row per test.

        Raises:
            AnalyseError: no such question.
        """
        self.ask([question])
        return self._answers[question]

    def ask(self, questions: Iterable[str]) -> None:
        """Have several questions answered.

        Raises:
            AnalyseError: no such question.
        """
        asked = [question for question in questions if question not in self._answers]
        if not asked:
            return
        blocks = history = paths = None
        if self.folder is not None or self.watched is not None:
            by_block = {"depth", "methods", "penalties", "options"}
            blocks = self.blocks if by_block & set(asked) else None
            history = self.history if {"onset", "convergence"} & set(asked) else None
            paths = self.paths if "interpolation" in asked else None
        given = analysis.QuestionTables(self.prepared, blocks, history, paths)
        self._answers |= analysis.answered(given, asked)

    def answer(self, question: str, rows: pd.DataFrame) -> None:
        """Take the analysis' answer to a question from somewhere else."""
        self._answers[question] = rows

    def records(self) -> Iterator[RecordDict]:
        """Every finished run's record, read anew each time: thousands need no memory between."""
        if self.folder is None:
            return iter(())
        return records_in(self.folder, list(self._frame["run"]))


def _path(run: str, walked: Repaired) -> pd.DataFrame:
    """The settings of an interpolation; of another kind of repair none."""
    rows = []
    for step in walked.steps if walked.kind == "interpolate" else ():
        kept = {retention_of(name): tested.retention for name, tested in step.transfer.items()}
        rows.append({"run": run, "alpha": step.alpha, "accuracy": step.accuracy, **kept})
    return pd.DataFrame(rows)


def _target(folder: Path) -> str | None:
    """Target of an unfinished run; None where it has not begun."""
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["data"]["target"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
