"""The demo: what a newcomer sees first must be complete, true, and show what the project is about."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipdrift.demo as demonstration
from clipdrift.config import RunConfig
from clipdrift.data.worlds import WORLDS
from clipdrift.demo import METHODS, Demo, demo_config, last_block_attention, run_demo
from clipdrift.model.clip import load
from clipdrift.record import Record, Values
from clipdrift.reporter import Silent
from clipdrift.stage import pick_device, prepare, resolve
from clipdrift.store import Store


def small(config: RunConfig) -> RunConfig:
    """The demo's own configuration on a handful of images, one epoch."""
    data = config.data.model_copy(
        update={
            "train_per_class": 4,
            "validation_per_class": 2,
            "probe_per_class": 2,
            "transfer": tuple(t.model_copy(update={"per_class": 1}) for t in config.data.transfer),
        }
    )
    optim = config.optim.model_copy(update={"epochs": 1})
    return config.model_copy(update={"data": data, "optim": optim})


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def shrink(patch: pytest.MonkeyPatch) -> None:
    """The demo at a size for tests: few pictures in its worlds, few of them used."""
    patch.setattr(demonstration, "demo_config", lambda method: small(demo_config(method)))
    for name, train, test in (("terrain-10", 8, 5), ("objects-100", 1, 1)):
        patch.setitem(WORLDS, name, replace(WORLDS[name], train=train, test=test))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[Path, Demo]:
    """A small demo and its folder."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return out, run_demo(out, shared_cache, "cpu", Silent())


def test_the_demo_leaves_records_pictures_and_a_page(shown: tuple[Path, Demo]) -> None:
    """All that it names is there, and the records are those of its folder."""
    out, demo = shown
    assert tuple(demo.records) == METHODS
    assert {r.key for r in demo.records.values()} == {folder.path.name for folder in Store(out).runs()}
    assert all(r.status == "done" for r in demo.records.values())
    assert demo.page == out / "index.html"
    assert len(demo.pictures) == 2


def test_both_methods_start_from_the_same_backbone(shown: tuple[Path, Demo]) -> None:
    """Side by side is a comparison only if everything else is equal."""
    full, lora = (shown[1].records[m] for m in METHODS)
    assert full.backbone == lora.backbone
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
            assert min(picture.size) >= 400
            assert picture.convert("RGB").getcolors(50) is None  # more than fifty colours
            ink = np.asarray(picture.convert("L")) < 250
        assert 0.02 < ink.mean() < 0.98
        # something is drawn in every quarter of the width
        assert all(quarter.mean() > 0.005 for quarter in np.array_split(ink, 4, axis=1))


def cells(page: str) -> dict[str, list[str]]:
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", page)
    return {label: re.findall(r"<td>(.*?)</td>", rest) for label, rest in rows}


def test_the_page_shows_the_pictures_and_every_number(shown: tuple[Path, Demo]) -> None:
    """Each number of the page is one of the records', and each of the table's is on the page."""
    out, demo = shown
    page = demo.page.read_text(encoding="utf-8")
    for picture in demo.pictures:
        assert f'src="{picture.name}"' in page
        assert (out / picture.name).is_file()
    table = cells(page)
    best = [r.best for r in demo.records.values()]
    assert all(best)
    first = demo.records["full_ft"]

    def column(read: Any, form: str = ".3f") -> list[str]:
        found = [read(b) for b in best]
        return [said(v) if isinstance(v, Values) else format(v, form) for v in found]

    def said(values: Values) -> str:
        """In percent, but where the backbone's value is zero in the measure's own unit."""
        change = f"{values.drift:+.3g}" if values.absolute else f"{values.drift:+.1f} %"
        return f"{values.mean:.3f}  {change}"

    wanted: dict[str, list[str]] = {
        "trained parameters": ["", *(f"{r.model.trained:,}" for r in demo.records.values())],
        "accuracy on the target (test), %": ["", *column(lambda b: b.test_accuracy, ".1f")],
        "zero-shot on objects-100, %": [
            f"{first.backbone.zero_shot['objects-100']:.1f}",
            *column(lambda b: b.transfer["objects-100"].accuracy, ".1f"),
        ],
        "retention on objects-100, %": [
            "100.0",
            *column(lambda b: b.transfer["objects-100"].retention, ".1f"),
        ],
        "cka": ["1.000", *column(lambda b: b.measures["cka"].mean)],
        "embedding_drift": ["0.000", *column(lambda b: b.measures["embedding_drift"].mean)],
    }
    for name, values in first.backbone.measures.items():
        unit = f", {first.units[name]}" if first.units[name] else ""
        wanted[name + unit] = [f"{values.mean:.3f}", *column(lambda b, n=name: b.measures[n])]
    assert {label: table[label] for label in wanted} == wanted


def test_the_terminals_table_holds_the_same_numbers(
    shown: tuple[Path, Demo], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command prints and what the page says must not differ."""
    from rich.console import Console

    from clipdrift.cli.show import comparison_table

    Console(width=200).print(comparison_table(shown[1].records))
    said = capsys.readouterr().out
    for label, values in cells(shown[1].page.read_text(encoding="utf-8")).items():
        for value in values:
            assert value in said, f"{label}: {value}"
    for record in shown[1].records.values():
        assert f"{record.model.trained:,}" in said


def test_attention_maps_are_distributions(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn as attention sums to one over the patches of each image."""
    shrink(monkeypatch)
    config = resolve(small(demo_config("full_ft")))
    probe = prepare(config, shared_cache, pick_device("cpu"), Silent()).probe
    maps = last_block_attention(load("clipdrift/mini"), probe)
    assert maps.shape == (len(probe), 7, 7)
    assert np.allclose(maps.sum((1, 2)), 1)
    assert (maps >= 0).all()
    assert maps.std() > 0


def test_the_demo_takes_finished_runs_as_they_are(
    shown: tuple[Path, Demo], shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again it only draws."""
    out, demo = shown
    shrink(monkeypatch)
    before = {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}
    again = run_demo(out, shared_cache, "cpu", Silent())
    assert again.records == demo.records
    assert before == {f.path: (f.path / "record.json").stat().st_mtime_ns for f in Store(out).runs()}


def target_accuracy(record: Record) -> float:
    assert record.best is not None
    assert record.best.test_accuracy is not None
    return record.best.test_accuracy


def retention(record: Record) -> float:
    assert record.best is not None
    found = record.best.transfer["objects-100"].retention
    assert found is not None
    return found


@pytest.mark.slow
def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    """Full fine-tuning learns the target and loses the rest; at the same rate LoRA keeps more."""
    records = run_demo(tmp_path, tmp_path / "cache", "cpu", Silent()).records
    full, lora = records["full_ft"], records["lora"]
    assert full.backbone.zero_shot["objects-100"] > 85
    assert target_accuracy(full) >= 80
    assert retention(full) < 60
    assert retention(lora) >= retention(full) + 20
    assert full.best is not None
    assert lora.best is not None
    assert full.best.measures["cka"].mean < lora.best.measures["cka"].mean
    drifts = [b.measures["entropy"].drift for b in (full.best, lora.best)]
    assert None not in drifts
    assert abs(drifts[0] or 0) > abs(drifts[1] or 0)
