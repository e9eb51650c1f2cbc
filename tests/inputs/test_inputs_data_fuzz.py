"""Random odd inputs: each command ends in 0, or in one line with exit status 2; splits are never classes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from odd_folders import FOLDER_PARTS, HELPERS, SPLITS, Part, configurations, write_parts
from safetensors.torch import load_file, save_file
from searching import RANDOM, say, spend

from clipdrift.config.named import DataSet
from clipdrift.data.catalog import readable
from clipdrift.data.errors import DataError
from clipdrift.data.pairs import open_pairs
from clipdrift.data.sources import open_source
from clipdrift.errors import ClipdriftError
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import questions_tables
from clipdrift.study.tables import Tables
from small_runs import toml

NO_CLASSES = {form.lower() for name in (*SPLITS, *HELPERS) for form in (name, readable(name))}
COMMANDS = ("compare", "page", "transfer", "train", "train", "interpolate")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "fuzz-datasets"
    )
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(tmp_path_factory.getbasetemp() / "fuzz-cache"))


@contextlib.contextmanager
def folder_of(parts: list[Part]) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="odd"))
    try:
        yield write_parts(place / "given", parts)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run_file(place: Path, model: Path, data: Path) -> Path:
    content: dict[str, Any] = {
        "model": {"name": "tiny", "path": str(model)},
        "data": {"target": {"name": "given", "path": str(data)}, "transfer": []},
        "method": {"name": "linear_probe"},
        "optim": {"epochs": 1, "batch_size": 8},
    }
    content["data"] |= {"validation_per_class": 1, "probe_per_class": 2}
    file = place / "run.toml"
    file.write_text(toml(content))
    return file


def check_folder(parts: list[Part], command: str, model: Path, other: Path) -> None:
    with folder_of(parts) as folder:
        with contextlib.suppress(DataError):
            source = open_source(DataSet(name="given", path=str(folder)), image_size=16)
            assert not {name.lower() for name in source.own_names or source.classes} <= NO_CLASSES
            for images in (source.train, source.test):
                assert images is not None
                images.fingerprint()
                read = {images.where(i) for i in range(len(images))}
                assert not {name.replace("_mask.png", ".png") for name in read if "_mask" in name} & read
        with contextlib.suppress(DataError):
            assert all(open_pairs(DataSet(name="given", path=str(folder))).captions)
        place = folder.parent
        common = ("--cache", place / "cache", "--skip-bad-images")
        if command == "compare":
            say("compare", model, model, "--images", folder, "--no-flow", "--no-spectra", *common)
        elif command == "page":
            say("compare", model, model, "--images", folder, "--out", place / "out", *common)
        elif command == "transfer":
            few = ("--images", "objects-100", "--limit", 4, "--no-flow", "--no-spectra")
            say("compare", model, model, *few, "--transfer", f"given={folder}", *common)
        elif command == "interpolate":
            say("interpolate", model, other, "--images", folder, "--alphas", "0,1", *common)
        else:
            file = run_file(place, model, folder)
            say("train", file, "--out", place / "runs", "--cache", place / "cache", "--skip-bad-images")


def check_configuration(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "run.toml"
        file.write_bytes(content)
        say("train", file, "--show-config")


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["full_ft", "lora", "", "nan"]),
        st.sampled_from(["1e-4", "0.001", "0", "-1", "x", "", "inf"]),
        st.sampled_from(["1", "2", "x", ""]),
        st.sampled_from(["done", "FINISHED", "crashed", "", "nan"]),
        st.sampled_from(["80", "0.8", "x", "", "-5", "1e9"]),
        st.sampled_from(["90", "0", "", "nan", "x"]),
    ),
    max_size=8,
)


def check_runs(rows: list[tuple[str, ...]]) -> None:
    """All that a report says, without its figures, which take longer than everything else."""
    header = "method,learning_rate,seed,status,accuracy,retention_cifar100"
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "runs.csv"
        file.write_text("\n".join([header, *(",".join(row) for row in rows)]))
        try:
            tables = Tables.open(file)
            summary(tables, questions_tables(tables))
        except ClipdriftError:
            pass


FOLDERS: dict[str, Any] = {"parts": FOLDER_PARTS, "command": st.sampled_from(COMMANDS)}


@pytest.fixture(scope="module")
def models(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A backbone, and another whose weights lie beside its own."""
    other = Path(shutil.copytree(tiny_clip_dir, tmp_path_factory.mktemp("other") / "tuned"))
    weights = load_file(other / "model.safetensors")
    moved = {name: weight * 1.01 for name, weight in weights.items()}
    save_file(moved, other / "model.safetensors", metadata={"format": "pt"})
    return {"model": tiny_clip_dir, "other": other}


def test_odd_folders_end_in_a_result_or_one_line(models: dict[str, Any]) -> None:
    seen = spend(5, lambda **drawn: check_folder(**drawn, **models), **FOLDERS)
    assert seen >= 10


def test_odd_configurations_end_in_a_result_or_one_line() -> None:
    assert spend(2, check_configuration, content=configurations()) >= 10


def test_odd_tables_of_runs_end_in_a_result_or_one_line() -> None:
    assert spend(3, check_runs, rows=ROWS) >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_odd_folders(models: dict[str, Any]) -> None:
    spend(420, lambda **drawn: check_folder(**drawn, **models), start=RANDOM, **FOLDERS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_odd_configurations_and_tables_of_runs() -> None:
    spend(60, check_configuration, start=RANDOM, content=configurations())
    spend(120, check_runs, start=RANDOM, rows=ROWS)
