"""The demo: what a newcomer sees first must be complete, true, and show what the project is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clipdrift.data.worlds import WORLDS
from clipdrift.reporting import drawing, report
from clipdrift.runs.store import Store
from clipdrift.study.demo import STUDY, Demo, run_demo
from clipdrift.study.engines.jobs import SilentWatcher
from clipdrift.study.folder import read_manifest
from clipdrift.study.frames import cells_frame
from clipdrift.study.plan import Study, load_study
from page_reading import Page


def small() -> Study:
    """The demo's own study on a handful of images: one epoch, two rates, one seed."""
    return load_study(
        STUDY,
        [
            "seeds=[42]",
            "axes.optim.learning_rate=[3e-5, 1e-3]",
            "optim.epochs=1",
            "data.train_per_class=4",
            "data.validation_per_class=2",
            "data.probe_per_class=2",
            'data.transfer=[{name="objects-100", per_class=1}]',
        ],
    )


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Few pictures in the demo's worlds."""
    for name, train, test in (("terrain-10", 8, 5), ("objects-100", 1, 1)):
        patch.setitem(WORLDS, name, replace(WORLDS[name], train=train, test=test))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[tuple[Path, Demo]]:
    """A small demo and its folder."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield out, run_demo(out, shared_cache, "cpu", SilentWatcher(), small())


def test_the_demo_leaves_records(shown: tuple[Path, Demo]) -> None:
    """All that it names is there, and the records are those of its folder."""
    out, demo = shown
    assert [outcome.ending for outcome in demo.outcomes] == ["done"] * 4
    assert set(demo.runs["run"]) == {folder.path.name for folder in Store(out).runs()}
    assert read_manifest(out).keys == tuple(demo.runs["run"])
    assert all((out / run / "maps.npz").is_file() for run in demo.runs["run"])


def test_both_methods_start_from_the_same_backbone(shown: tuple[Path, Demo]) -> None:
    """Side by side is a comparison only if everything else is equal."""
    out, demo = shown
    records = [Store(out).folder(run).record() for run in demo.runs["run"]]
    by = {(r.config.method.name, r.config.optim.learning_rate): r for r in records}
    full, lora = (by[method, 1e-3] for method in ("full_ft", "lora"))
    assert full.backbone == lora.backbone
    assert (full.config.data, full.config.optim, full.config.seed) == (
        lora.config.data,
        lora.config.optim,
        lora.config.seed,
    )


def test_the_report_of_the_demo_says_what_the_command_prints(
    shown: tuple[Path, Demo], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command prints and what the page says must not differ."""
    monkeypatch.setattr(drawing, "FIGURES", {"matched_rates": drawing.FIGURES["matched_rates"]})
    from clipdrift.cli.light_study import results

    out, demo = shown
    results(out)
    said = capsys.readouterr().out
    page = Page.of(report(out).page.read_text(encoding="utf-8"))
    for run in demo.runs.to_dict("records"):
        row = next(e for e in page.elements if e["data-row"] == f"runs.csv:{run['run']}")
        texts = [e.text for e in page.elements if e.tag == "td" and e.inside[-1] is row]
        for text in (f"{run['accuracy']:.1f}", f"{run['retention_objects-100']:.1f}"):
            assert text in texts
            assert text in said


def test_the_demo_takes_finished_runs_as_they_are(shown: tuple[Path, Demo], shared_cache: Path) -> None:
    """Called again it only draws."""
    out, demo = shown
    before = {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}
    again = run_demo(out, shared_cache, "cpu", SilentWatcher(), small())
    assert all(outcome.known for outcome in again.outcomes)
    pd.testing.assert_frame_equal(again.runs, demo.runs)
    assert before == {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    """From no effect to destruction: and at the same rate LoRA keeps more than full fine-tuning."""
    demo = run_demo(tmp_path, tmp_path / "cache", "cpu", SilentWatcher())
    assert [outcome.ending for outcome in demo.outcomes] == ["done"] * 16
    cells = cells_frame(demo.runs).set_index(["method", "learning_rate"])
    kept, cka = cells["retention_objects-100"], cells["cka"]
    rates = sorted(demo.runs["learning_rate"].unique())
    assert kept["full_ft", rates[0]] > 95
    assert kept["lora"].min() > 90
    assert kept["full_ft", rates[-1]] < 5
    assert all(kept["lora", rate] >= kept["full_ft", rate] for rate in rates)
    assert list(cka["full_ft"].sort_index(ascending=False)) == sorted(cka["full_ft"])
    assert cells.loc[("full_ft", rates[-2]), "accuracy"] > cells.loc[("full_ft", rates[0]), "accuracy"] + 20
    assert kept["lora", 1e-3] >= kept["full_ft", 1e-3] + 20
