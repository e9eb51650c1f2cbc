"""Shared by the tests of repairing: tuned models, adapters made with plain peft, finished runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import repair_models

from clipdrift.config import ModelConfig
from clipdrift.model.clip import Clip, load
from clipdrift.runs.store import RunFolder
from small_runs import Lab


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's caches."""
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(tmp_path_factory.getbasetemp() / "repair-cache"))


@pytest.fixture(scope="module", autouse=True)
def _all_is_measurable() -> Iterator[None]:
    """Tiny random backbones are hardly above chance; what is kept of that is looked at all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipdrift.outcomes.chance.LEVEL", 1.1)
        yield


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of models are read from disk once for all tests, as long as their files stay the same."""
    for place in ("comparison.models", "training.preparation", "adapt.saved"):
        monkeypatch.setattr(f"clipdrift.{place}.load", _load)


def _load(model: Any, donor: Clip | None = None) -> Clip:
    config = model if isinstance(model, ModelConfig) else ModelConfig.model_validate(str(model))
    if config.path is None or not (Path(config.path) / "tokenizer_config.json").exists():
        return load(config, donor)
    changed = max(file.stat().st_mtime_ns for file in Path(config.path).iterdir())
    clip = _from_disk(config, changed)
    return copy.deepcopy(clip, {id(clip.tokenizer): clip.tokenizer})


@cache
def _from_disk(config: ModelConfig, _changed: int) -> Clip:
    return load(config)


@pytest.fixture(scope="session")
def tuned_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP with image tower and projection changed."""
    return repair_models.tuned(tiny_clip_dir, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.fixture(scope="session")
def tuned_texts_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP with everything changed, the text tower too."""
    return repair_models.tuned(tiny_clip_dir, tmp_path_factory.mktemp("tuned") / "texts", texts=True)


@pytest.fixture(scope="session")
def adapters(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``adapters("lora")``: the folder of one of ``repair_models.ADAPTERS``, made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = repair_models.adapter(tiny_clip_dir, tmp_path_factory.mktemp("adapter") / kind, kind)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def runs(lab: Lab) -> Callable[[str], RunFolder]:
    """``runs("lora")``: a finished run, made once for each method."""
    made: dict[str, RunFolder] = {}
    rates: dict[str, Any] = {"lora": {"learning_rate": 0.02}, "dora": {"learning_rate": 0.02}}
    rates["flyp"] = {"epochs": 2}

    def make(method: str) -> RunFolder:
        if method not in made:
            optim = {"epochs": 1, **rates.get(method, {})}
            made[method] = lab.run(lab.config(method, optim=optim))[1]
        return made[method]

    return make
