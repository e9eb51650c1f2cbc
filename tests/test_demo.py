"""The demo: what a newcomer sees first must be complete, true, and show what the project is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipdrift.data.worlds import WORLDS
from clipdrift.demo import PANELS, STUDY, Demo, last_block_attention, run_demo
from clipdrift.engines.jobs import Unwatched
from clipdrift.frame import cells_frame
from clipdrift.model.clip import load
from clipdrift.record import Record
from clipdrift.reporter import Silent
from clipdrift.stage import prepare
from clipdrift.store import Store
from clipdrift.studied import read_manifest
from clipdrift.study import Study, load_study


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
        yield out, run_demo(out, shared_cache, "cpu", Unwatched(), small())


def test_the_demo_leaves_records_pictures_and_a_page(shown: tuple[Path, Demo]) -> None:
    """All that it names is there, and the records are those of its folder."""
    out, demo = shown
    assert [outcome.ending for outcome in demo.outcomes] == ["done"] * 4
    assert set(demo.runs["run"]) == {folder.path.name for folder in Store(out).runs()}
    assert read_manifest(out).keys == tuple(demo.runs["run"])
    assert set(demo.records) == {"full_ft", "lora"}
    assert demo.page == out / "index.html"
    assert len(demo.pictures) == 3


def test_both_methods_start_from_the_same_backbone(shown: tuple[Path, Demo]) -> None:
    """Side by side is a comparison only if everything else is equal."""
    full, lora = (shown[1].records[method] for method in ("full_ft", "lora"))
    assert full.backbone == lora.backbone
    assert full.config.optim.learning_rate == 1e-3
    assert (full.config.data, full.config.optim, full.config.seed) == (
        lora.config.data,
        lora.config.optim,
        lora.config.seed,
    )


def test_pictures_open_and_are_not_blank(shown: tuple[Path, Demo]) -> None:
    """A figure of empty axes would be saved just as happily."""
    for path in shown[1].pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 300
            assert picture.convert("RGB").getcolors(50) is None  # more than fifty colours
            ink = np.asarray(picture.convert("L")) < 250
        assert 0.02 < ink.mean() < 0.98
        # something is drawn in every quarter of the width
        assert all(quarter.mean() > 0.005 for quarter in np.array_split(ink, 4, axis=1))


def test_the_page_shows_the_pictures_and_every_number(shown: tuple[Path, Demo]) -> None:
    """Each number of the page is one of the records', cell by cell."""
    out, demo = shown
    page = demo.page.read_text(encoding="utf-8")
    for picture in demo.pictures:
        assert f'src="{picture.name}"' in page
        assert (out / picture.name).is_file()
    found = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", page)]
    wanted = []
    for run in demo.runs["run"]:
        record = Store(out).folder(run).record()
        best = record.best
        assert best is not None
        assert best.test_accuracy is not None
        kept, entropy = best.transfer["objects-100"].retention, best.measures["entropy"].drift
        assert kept is not None
        assert entropy is not None
        numbers = [f"{best.test_accuracy:.1f}", f"{kept:.1f}", f"{best.measures['cka'].mean:.3f}"]
        numbers.append(f"{entropy:+.1f}")
        wanted.append([record.config.method.name, f"{record.config.optim.learning_rate:g}", "1", *numbers])
    assert found == wanted
    assert all(f"<th>{title}</th>" in page for _, title in PANELS)


def test_the_command_prints_the_same_numbers(
    shown: tuple[Path, Demo], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command prints and what the page says must not differ."""
    from rich.console import Console

    from clipdrift.cli.light_study import results
    from clipdrift.cli.show import comparison_table

    out, demo = shown
    results(out)
    Console(width=200).print(comparison_table(demo.records))
    said = capsys.readouterr().out
    page = demo.page.read_text(encoding="utf-8")
    for text in re.findall(r"<td>([^<]*)</td>", page):
        assert text.replace(" ± ", " ±") in said
    for record in demo.records.values():
        assert f"{record.model.trained:,}" in said


def test_attention_maps_are_distributions(
    shown: tuple[Path, Demo], shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn as attention sums to one over the patches of each image."""
    config = shown[1].records["full_ft"].config
    probe = prepare(config, shared_cache, torch.device("cpu"), Silent()).probe
    maps = last_block_attention(load("clipdrift/mini"), probe)
    assert maps.shape == (len(probe), 7, 7)
    assert np.allclose(maps.sum((1, 2)), 1)
    assert (maps >= 0).all()
    assert maps.std() > 0


def test_the_demo_takes_finished_runs_as_they_are(shown: tuple[Path, Demo], shared_cache: Path) -> None:
    """Called again it only draws."""
    out, demo = shown
    before = {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}
    again = run_demo(out, shared_cache, "cpu", Unwatched(), small())
    assert all(outcome.known for outcome in again.outcomes)
    pd.testing.assert_frame_equal(again.runs, demo.runs)
    assert before == {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}


def retention(record: Record) -> float:
    assert record.best is not None
    found = record.best.transfer["objects-100"].retention
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    """From no effect to destruction: and at the same rate LoRA keeps more than full fine-tuning."""
    demo = run_demo(tmp_path, tmp_path / "cache", "cpu", Unwatched())
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
    assert retention(demo.records["lora"]) >= retention(demo.records["full_ft"]) + 20
