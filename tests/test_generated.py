"""The generated studies that other tests use are what real studies leave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from clipdrift.runs.maps import read_maps
from clipdrift.runs.record import read_record
from clipdrift.runs.store import Store
from clipdrift.study.folder import read_manifest
from clipdrift.study.frames import records_in, runs_frame
from generated import generated_study


def test_a_generated_study_is_read_as_a_real_one(tmp_path: Path) -> None:
    """Records validate, are marked, agree with their notes, and end as they were asked to."""
    plan = generated_study(
        tmp_path, seeds=(7,), extras=True, diverged=1, failed=1, missing=2, epochs=3, maps=1, paths=True
    )
    assert read_manifest(tmp_path) == plan
    folders = [Store(tmp_path).folder(key) for key in plan.keys]
    kinds = Counter(folder.state().kind for folder in folders)
    assert kinds == {"done": len(plan.runs) - 4, "diverged": 1, "failed": 1, "planned": 2}
    for folder in folders:
        if folder.finished:
            record = read_record(folder.path / "record.json")
            assert record.environment["generated"] is True
            assert record.key == record.config.key
            assert folder.damaged_notes(record) is None
    assert np.allclose(read_maps(folders[0].path / "maps.npz").after.sum(-1), 1, atol=0.01)


def test_the_phenomenon_is_in_the_numbers(tmp_path: Path) -> None:
    """What tests of figures rely on: higher rates lose more, LoRA less, and seeds scatter."""
    generated_study(tmp_path, targets=("pets",), seeds=(7, 11), epochs=2)
    runs = runs_frame(records_in(tmp_path))
    kept = runs.groupby(["method", "learning_rate"])["retention_cifar100"].agg(["mean", "std"])
    assert kept.loc["full_ft", "mean"].is_monotonic_decreasing
    assert (kept.loc["lora", "mean"] > kept.loc["full_ft", "mean"]).all()
    assert (kept["std"] > 0).all()
