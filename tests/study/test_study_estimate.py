"""What a plan says before it starts is what the runs then are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipdrift.runs.reporter import Silent
from clipdrift.study.engines.estimate import RunEstimate, estimate, size, span
from clipdrift.study.engines.jobs import jobs_of
from clipdrift.study.plan import study_of
from small_runs import Lab, settings, write_folder

METHODS: tuple[Any, ...] = (
    "full_ft",
    "linear_probe",
    {"name": "lora", "rank": 2},
    {"name": "last_blocks", "blocks": 1},
    "flyp",
)


@pytest.fixture(scope="module")
def lab(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("estimates")
    return Lab(
        tiny_clip_dir,
        write_folder(root / "colours"),
        root / "cache",
        lambda: tmp_path_factory.mktemp("runs"),
    )


def test_parameters_and_images_are_those_of_the_runs(lab: Lab) -> None:
    base = settings(lab.model, lab.pictures)
    base["optim"]["epochs"] = 1
    jobs = jobs_of(study_of({"name": "small", "base": base, "axes": {"method": list(METHODS)}}))
    found = estimate(jobs, "cpu", Silent())
    assert found.notes == ()
    for job in jobs:
        record = lab.run(job.config)[0]
        one = found.runs[job.key]
        assert one.trained == record.model.trained, job.label
        assert one.images == record.target.images["train"].count
        assert one.seconds is not None
        assert one.seconds > 0
    assert found.weights == 4 * sum(one.trained or 0 for one in found.runs.values())
    count = (
        sum(i.count for i in record.target.images.values())
        + record.transfer["objects-100"].images["test"].count
    )
    assert found.pixels == 3 * 16**2 * count
    assert "5 runs" not in found.summary
    assert "one after the other" in found.summary


def test_more_epochs_and_looks_take_longer(lab: Lab) -> None:
    base = settings(lab.model, lab.pictures)
    jobs = jobs_of(study_of({"name": "small", "base": base, "axes": {"optim.epochs": [1, 10, 100]}}))
    seconds = [one.seconds for one in estimate(jobs, "cpu", Silent()).runs.values()]
    assert None not in seconds
    assert seconds[2] > 5 * seconds[1] > 5 * seconds[0]  # type: ignore[operator]


def test_a_penalty_is_timed_too(lab: Lab) -> None:
    base = settings(lab.model, lab.pictures)
    jobs = jobs_of(study_of({"name": "small", "base": base, "axes": {"penalty": ["apr", "zero_shot_kl"]}}))
    assert all(one.seconds for one in estimate(jobs, "cpu", Silent()).runs.values())


def test_what_cannot_be_opened_is_said(lab: Lab) -> None:
    """Without a network the plan is printed all the same."""
    base = settings(lab.model, lab.pictures)
    base["model"] = "openai/clip-vit-base-patch32"
    jobs = jobs_of(study_of({"name": "small", "base": base}))
    found = estimate(jobs, "cpu", Silent())
    assert list(found.runs.values()) == [RunEstimate()]
    assert (RunEstimate().trained_text, RunEstimate().time_text) == ("?", "?")
    assert len(found.notes) == 1
    assert "openai/clip-vit-base-patch32" in found.notes[0]
    base = settings(lab.model, "eurosat")
    jobs = jobs_of(study_of({"name": "small", "base": base}))
    found = estimate(jobs, "cpu", Silent())
    assert "eurosat" in found.notes[0]
    assert found.runs[jobs[0].key].seconds is None


def test_times_and_sizes_for_people() -> None:
    assert [span(s) for s in (3, 119, 600, 7200, 36_000)] == ["3 s", "119 s", "10 min", "2.0 h", "10.0 h"]
    assert [size(n) for n in (5, 5_000, 5e6, 5.25e9)] == ["5 B", "5 kB", "5 MB", "5.2 GB"]
