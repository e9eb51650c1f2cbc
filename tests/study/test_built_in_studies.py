"""Every built-in study, shrunk: each kind of run in it at least once, to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipdrift.data.worlds import WORLDS
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import SilentWatcher, StudyOptions, jobs_of, manifest_of
from clipdrift.study.folder import write_study_manifest
from clipdrift.study.frames import blocks_frame, cells_frame, records_in, runs_frame
from clipdrift.study.plan import load_study

SHRUNK = [
    "model.name=clipdrift/mini",
    'data.transfer=[{name="objects-100", per_class=1}]',
    "optim.epochs=1",
    "optim.batch_size=8",
    "data.train_per_class=2",
    "data.probe_per_class=1",
]
STRICT = "data.validation_per_class=1"


CASES = {
    "quickstart": (["seeds=[42]", STRICT], 8),
    "exploratory": (["axes.method.frozen_blocks=[1, 2, 3]", "data.target=terrain-10"], 21),
    "matched": (["seeds=[7]", "data.target=terrain-10", "axes.optim.learning_rate=[1e-5, 1e-3]"], 4),
    "strict": (["seeds=[7]", "data.target=terrain-10", STRICT], 22),
    "backbones": (["seeds=[7]", "data.target=terrain-10", STRICT], 6),
    "multi-seed": (["seeds=[7]", "data.target=terrain-10"], 6),
    "photographs": (
        ["seeds=[7]", "axes.optim.learning_rate=[3e-4]", "data.target=terrain-10", STRICT],
        20,
    ),
    "which-method": (["seeds=[7]", "axes.optim.learning_rate=[1e-3]", STRICT], 26),
}
"""What a study is changed by, and how many runs are left with what falls together."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_a_shrunk_study_runs_to_its_end(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for world, train, test in (("terrain-10", 6, 2), ("emblems-37", 6, 1), ("objects-100", 1, 1)):
        monkeypatch.setitem(WORLDS, world, replace(WORLDS[world], train=train, test=test))  # type: ignore[arg-type]
    own, count = CASES[name]
    study = load_study(name, [*SHRUNK, *own])
    jobs, out = jobs_of(study), tmp_path_factory.mktemp(name)
    assert len(jobs) + study.dropped == len(
        load_study(name, [s for s in own if s.startswith(("seeds", "axes"))]).runs
    )
    assert len(jobs) <= count
    write_study_manifest(out, manifest_of(study, jobs))
    how = StudyOptions(out=out, cache=Path(tmp_path_factory.getbasetemp()) / "cache", device="cpu")
    outcomes = run_here(jobs, how, SilentWatcher())
    assert {outcome.ending for outcome in outcomes} <= {"done", "diverged"}, outcomes
    assert sum(outcome.ending == "done" for outcome in outcomes) >= len(outcomes) - 2
    frame = runs_frame(records_in(out, [job.key for job in jobs]))
    assert len(frame) == len(jobs)
    assert set(frame["method"]) == {job.config.method.name for job in jobs}
    assert len(cells_frame(frame)) == frame["cell"].nunique() == len(jobs)
    assert set(blocks_frame(records_in(out))["run"]) <= set(frame["run"])
    done = frame[frame["status"] == "done"]
    assert done[["accuracy", "cka", "entropy_drift", "retention_objects-100"]].notna().all(axis=None)
