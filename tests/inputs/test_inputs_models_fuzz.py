"""Random oddities of a model folder: the command ends in 0 or in one line with exit status 2."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipdrift.cli import main

WEIGHTS = "model.safetensors"


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with contextlib.suppress(OSError, SafetensorError):  # an oddity before this one has taken the file
            save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def _text(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        if (folder / name).is_file():
            (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def _setting(key: str, value: object) -> Callable[[Path], None]:
    def change(content: bytes) -> bytes:
        try:
            return json.dumps(json.loads(content) | {key: value}).encode()
        except ValueError:
            return content

    return _text("config.json", change)


def _sharded(folder: Path) -> None:
    (folder / WEIGHTS).unlink(missing_ok=True)
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"logit_scale": "gone.safetensors"}}')


FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", WEIGHTS)
ODDITIES: list[Callable[[Path], None]] = [
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
    _setting("model_type", "bert"),
    _setting("model_type", None),
    _setting("vision_config", {"image_size": 12}),
    _setting("vision_config", 3),
    _setting("text_config", None),
    _setting("architectures", ["CLIPForImageClassification"]),
    _setting("architectures", 7),
    _sharded,
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


def _check(base: Path, images: Path, chosen: list[int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(base, Path(place) / "given"))
        for index in chosen:
            ODDITIES[index](folder)
        out, err = io.StringIO(), io.StringIO()
        arguments = ["compare", str(base), str(folder), "--images", str(images), "--cache", f"{place}/cache"]
        silenced = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with silenced[0], silenced[1], pytest.raises(SystemExit) as ended:
            main(arguments)
    said = err.getvalue()
    assert ended.value.code in (0, None, 2), said
    assert "Traceback" not in said
    if ended.value.code == 2:
        assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, said


CHOICES = st.lists(st.integers(0, len(ODDITIES) - 1), min_size=1, max_size=3, unique=True)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
@given(chosen=CHOICES)
def test_an_odd_model_folder_ends_in_a_result_or_one_line(
    tiny_clip_dir: Path, images: Path, chosen: list[int]
) -> None:
    _check(tiny_clip_dir, images, chosen)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, database=None, suppress_health_check=QUIET)
@given(chosen=CHOICES)
def test_many_odd_model_folders(tiny_clip_dir: Path, images: Path, chosen: list[int]) -> None:
    _check(tiny_clip_dir, images, chosen)
