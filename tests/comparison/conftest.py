"""Shared by the tests of comparing: a tuned model, adapters made outside the project, runs, pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

from clipdrift.comparison import Comparison
from clipdrift.comparison.compare import compare
from clipdrift.model.clip import Clip, load
from clipdrift.runs.store import RunFolder
from small_runs import Lab, picture


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's caches."""
    import datasets.config

    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(base / "comparing-cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", base / "comparing-datasets")


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Twenty pictures of three kinds, of the tiny model's own size."""
    return [picture(i % 3, i) for i in range(20)]


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """(7, 3, 16, 16) floats, for tests that need no pictures."""
    return torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def tuned_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP with its image tower and projection changed, as a plain folder."""
    return outside.tuned_copy(tiny_clip_dir, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.fixture(scope="session")
def changed(
    tiny_clip_dir: Path, tuned_dir: Path, photos: list[Image.Image], pictures: Path, tmp_path_factory: object
) -> Comparison:
    """The tiny CLIP against the tuned one, with everything switched on; read by many tests."""
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    place = tmp_path_factory.mktemp("changed")
    return compare(tiny_clip_dir, tuned_dir, photos, transfer=f"colours={pictures}", cache=place)


@pytest.fixture(scope="session")
def clip_of() -> Callable[[Path], Clip]:
    """``clip_of(folder)``: loaded once for all tests, none of which may change it."""
    return cache(load)


@pytest.fixture(scope="session")
def beside(
    tiny_clip_dir: Path, clip_of: Callable[[Path], Clip], against: Callable[..., Comparison]
) -> Callable[..., Comparison]:
    """As :func:`against`, quicker: folders of models are loaded once, and flow and spectra are left out."""

    def make(tuned: Any, base: Any = tiny_clip_dir, **options: Any) -> Comparison:
        loaded = [clip_of(side) if isinstance(side, Path) else side for side in (tuned, base)]
        return against(*loaded, **{"flow": False, "spectrum": False, **options})

    return make


@pytest.fixture(scope="session")
def against(
    tiny_clip_dir: Path, pixels: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Comparison]:
    """``against(tuned, base=..., images=..., **options)``: the tiny CLIP, or another BASE, against something,
    on seven preprocessed images unless on others. What is between two folders is done once."""
    done: dict[str, Comparison] = {}
    place = tmp_path_factory.mktemp("against")

    def make(tuned: Any, base: Any = tiny_clip_dir, images: Any = pixels, **options: Any) -> Comparison:
        work = partial(compare, base, tuned, images, **{"cache": place, **options})
        if images is not pixels or not (isinstance(base, Path) and isinstance(tuned, Path)):
            return work()
        key = repr((base, tuned, options))
        if key not in done:
            done[key] = work()
        return done[key]

    return make


@pytest.fixture(scope="session")
def adapters(
    tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], outside.Adapter]:
    """``adapters("whole")``: one of ``outside.ADAPTERS``, made once."""
    made: dict[str, outside.Adapter] = {}

    def make(kind: str) -> outside.Adapter:
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            model = outside.peft_model(tiny_clip_dir, **outside.ADAPTERS[kind])
            model.save_pretrained(str(place / "adapter"))
            made[kind] = outside.Adapter(
                place / "adapter", outside.merged(model, place / "merged", like=tiny_clip_dir)
            )
        return made[kind]

    return make


@pytest.fixture(scope="session")
def runs(lab: Lab) -> Callable[[str], RunFolder]:
    """``runs("lora")``: a finished run of one epoch, made once for each method."""
    made: dict[str, RunFolder] = {}

    def make(method: str) -> RunFolder:
        if method not in made:
            made[method] = lab.run(lab.config(method, optim={"epochs": 1}))[1]
        return made[method]

    return make


def randomise(model: nn.Module) -> None:
    """Weights large enough that attention is uneven, as in a trained model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)


@pytest.fixture(scope="session")
def siglip_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP of the tiny CLIP's sizes, with its tokenizer."""
    tokenizer = load(tiny_clip_dir).tokenizer
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 4})
    )
    randomise(model)
    folder = tmp_path_factory.mktemp("siglip") / "siglip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
