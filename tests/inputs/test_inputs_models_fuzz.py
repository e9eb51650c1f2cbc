"""Random oddities of a model folder: the command ends in 0 or in one line with exit status 2."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from searching import RANDOM, say, spend

from small_runs import toml

WEIGHTS = "model.safetensors"


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with contextlib.suppress(OSError, SafetensorError):  # an oddity before this one has taken the file
            save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def _some(part: str, factor: float) -> Callable[[Path], None]:
    """Weights with ``part`` in their name times a factor."""
    return _weights(lambda w: {n: t * factor if part in n else t for n, t in w.items()})


def _text(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        if (folder / name).is_file():
            (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def _setting(key: str, value: object) -> Callable[[Path], None]:
    def change(content: bytes) -> bytes:
        try:
            return json.dumps(json.loads(content) | {key: value}).encode()
        except (ValueError, TypeError):  # an oddity before this one
            return content

    return _text("config.json", change)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _a_file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def _sharded(folder: Path) -> None:
    (folder / WEIGHTS).unlink(missing_ok=True)
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"logit_scale": "gone.safetensors"}}')


FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", WEIGHTS)


def _one_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if (weight := weights.get("text_model.encoder.layers.1.mlp.fc2.weight")) is not None and weight.ndim == 2:
        weight[0, 0] = float("nan")
    return weights


_BROKEN = _weights(_one_nan)
ODDITIES: list[Callable[[Path], object]] = [
    *(_text(name, lambda content: content[: len(content) // 2]) for name in FILES),
    *(_text(name, lambda content: b"\xef\xbb\xbf" + content) for name in FILES),
    *(_text(name, lambda _: b"[]") for name in FILES),
    *((lambda folder, name=name: (folder / name).unlink(missing_ok=True)) for name in FILES),
    *(_weights(lambda w, p=p: {p + n: t for n, t in w.items()}) for p in ("module.", "_orig_mod.", "odd.")),  # type: ignore[misc]
    *(_weights(lambda w, d=d: {n: t.to(d) for n, t in w.items()}) for d in (torch.float16, torch.bfloat16)),  # type: ignore[misc]
    _weights(lambda w: {n: t * float("nan") for n, t in w.items()}),
    _weights(lambda w: {n: t[..., :1].clone() if t.ndim else t for n, t in w.items()}),
    _weights(lambda w: w | {"extra": torch.zeros(1)}),
    _weights(lambda _: {}),
    *(_weights(lambda w, f=f: {n: t * f for n, t in w.items()}) for f in (0.0, 1e-30, 1e30, -1.0)),  # type: ignore[misc]
    *(_some("layers.1.mlp.fc2.weight", f) for f in (0.0, 1e30, 3e38)),
    *(_some("post_layernorm", f) for f in (0.0, 1e30)),
    *(_some("projection", f) for f in (0.0, 1e38)),
    *(_some("logit_scale", f) for f in (0.0, 100.0, -100.0)),
    _some("embeddings", 0.0),
    _setting("model_type", "bert"),
    _setting("model_type", None),
    _setting("vision_config", {"image_size": 12}),
    _setting("vision_config", 3),
    _setting("text_config", None),
    _setting("architectures", ["CLIPForImageClassification"]),
    _setting("architectures", 7),
    _sharded,
    _BROKEN,
    *(_text(name, lambda content: content.decode("utf-8", "replace").encode("utf-16")) for name in FILES[:4]),
    _emptied,
    _a_file_instead,
    lambda folder: shutil.rmtree(folder),
    lambda folder: (folder / "pytorch_model.bin").write_bytes(b"x" * 100),
    lambda folder: (folder / WEIGHTS).rename(folder / "weights.pt") if (folder / WEIGHTS).is_file() else None,
]


COMMANDS = ("compare", "base", "train", "interpolate", "rewind", "soften")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six pictures."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            noise = np.random.default_rng([i, len(name)]).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _check(base: Path, images: Path, cache: Path, chosen: list[int], command: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(base, Path(place) / "given"))
        for index in chosen:
            with contextlib.suppress(OSError):  # an oddity before this one has taken the folder
                ODDITIES[index](folder)
        given = ["--images", images, "--cache", cache, "--device", "cpu"]
        if command == "train":
            data: dict[str, Any] = {
                "target": {"name": "pets", "path": str(images)},
                "transfer": [],
                "probe_per_class": 2,
            }
            content = {
                "model": {"name": "given", "path": str(folder)},
                "data": data | {"validation_per_class": 1},
            }
            more = {"method": {"name": "full_ft"}, "optim": {"epochs": 1, "batch_size": 4}}
            file = Path(place) / "run.toml"
            file.write_text(toml(content | more))
            return say("train", file, "--out", Path(place) / "runs", "--cache", cache, "--device", "cpu")
        if command == "base":
            return say("compare", folder, base, "--transfer", f"pets={images}", *given)
        if command == "compare":
            return say("compare", base, folder, "--transfer", f"pets={images}", *given)
        return say(command, base, folder, *REPAIRS[command], *given)


REPAIRS = {"interpolate": ["--alphas", "0,0.5,1"], "rewind": ["--sweep"], "soften": ["--scale", "0,0.5"]}
DRAWN: dict[str, Any] = {
    "chosen": st.lists(st.integers(0, len(ODDITIES) - 1), min_size=1, max_size=3, unique=True),
    "command": st.sampled_from(COMMANDS),
}


def test_an_odd_model_folder_ends_in_a_result_or_one_line(
    tiny_clip_dir: Path, images: Path, cache: Path
) -> None:
    assert spend(4, lambda **drawn: _check(tiny_clip_dir, images, cache, **drawn), **DRAWN) >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_odd_model_folders(tiny_clip_dir: Path, images: Path, cache: Path) -> None:
    spend(300, lambda **drawn: _check(tiny_clip_dir, images, cache, **drawn), start=RANDOM, **DRAWN)


SIDES = {"base": "BASE", "train": "backbone"}


@pytest.mark.parametrize("command", COMMANDS)
def test_broken_weights_are_told_by_side_and_name(
    tiny_clip_dir: Path, images: Path, cache: Path, command: str
) -> None:
    """Whatever reads a model refuses it, also where it would not use the tensor."""
    name = "text_model.encoder.layers.1.mlp.fc2.weight"
    broken = ODDITIES.index(_BROKEN)
    told = _check(tiny_clip_dir, images, cache, [broken], command)
    assert told.startswith(f"error: {SIDES.get(command, 'TUNED')} ")
    assert f"{name} (1 nan of 2048 values)" in told
