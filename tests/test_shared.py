"""What runs share is computed once, the same to the bit, and anew when anything that it rests on changes."""

from __future__ import annotations

import multiprocessing
import shutil
import time
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import clipdrift.training.abilities as testing_abilities
import clipdrift.training.backbone_cache as sharing
import clipdrift.training.observer as observing
from clipdrift.data.deck import Prepared
from clipdrift.measures import read_internals
from clipdrift.measures.packing import pack, unpack
from clipdrift.model.clip import Clip
from clipdrift.model.towers import tower_of
from clipdrift.runs.kept import DamagedFileError, keep, read_kept
from clipdrift.runs.reporter import Silent
from clipdrift.training.backbone_cache import BackboneCache, ingredients, weights_hash
from small_runs import Lab

CPU = torch.device("cpu")


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def counted(values: list[int], number: float = 1.5) -> Any:
    def make() -> float:
        values.append(1)
        return number

    return make


def test_a_number_is_computed_once_and_exactly(tiny_clip: Clip, tmp_path: Path) -> None:
    times: list[int] = []
    backbone_cache = BackboneCache.of(tmp_path, tiny_clip, CPU, Silent())
    value = 0.1 + 0.2  # no short decimal
    assert [backbone_cache.number("x", ["a"], counted(times, value)) for _ in range(3)] == [value] * 3
    assert len(times) == 1
    backbone_cache.number("x", ["b"], counted(times))
    backbone_cache.number("y", ["a"], counted(times))
    assert len(times) == 3


def test_other_weights_texts_or_threads_share_nothing(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = BackboneCache.of(tmp_path, tiny_clip, CPU, Silent()).content
    assert BackboneCache.of(tmp_path / "elsewhere", tiny_clip, CPU, Silent()).content == first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert BackboneCache.of(tmp_path, tiny_clip, CPU, Silent()).content != first
    monkeypatch.undo()
    with torch.no_grad():
        next(iter(tiny_clip.model.parameters())).view(-1)[0].add_(1e-6)
    assert BackboneCache.of(tmp_path, tiny_clip, CPU, Silent()).content != first


def test_every_weight_counts(tiny_clip: Clip) -> None:
    found = {weights_hash(tiny_clip)}
    for parameter in tiny_clip.model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1].add_(1)
        found.add(weights_hash(tiny_clip))
    assert len(found) == 1 + len(list(tiny_clip.model.parameters()))


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: b"", lambda raw: b"x" * len(raw)])
def test_a_damaged_file_is_said_and_made_anew(tiny_clip: Clip, tmp_path: Path, damage: Any) -> None:
    times: list[int] = []
    heard = Heard()
    backbone_cache = BackboneCache.of(tmp_path, tiny_clip, CPU, heard)
    backbone_cache.number("x", [], counted(times))
    (path,) = tmp_path.rglob("*.kept")
    path.write_bytes(damage(path.read_bytes()))
    assert backbone_cache.number("x", [], counted(times)) == 1.5
    assert len(times) == 2
    assert any("damaged" in text and path.name in text for text in heard.said)
    assert backbone_cache.number("x", [], counted(times)) == 1.5
    assert len(times) == 2


def test_each_ingredient_changes_the_key(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a kept result rests on: weights, preprocessing, code, libraries, extensions, processor."""
    package = Path(sharing.__file__).parents[1]
    copy = tmp_path / "clipdrift"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    first = ingredients(tiny_clip, CPU)
    assert sharing._code(copy) == first["code"]

    def changed() -> set[str]:
        now = ingredients(tiny_clip, CPU)
        return {name for name in first if now[name] != first[name]}

    assert changed() == set()
    for library in ("torch", "transformers", "numpy", "pillow"):
        with monkeypatch.context() as patch:
            patch.setattr(
                sharing, "version", lambda name, other=library: "0" if name == other else version(name)
            )
            assert changed() == {"libraries"}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        assert changed() == {"processor"}
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_extensions", lambda: {"mine": "pkg 1.0"})
        assert changed() == {"extensions"}
    with torch.no_grad():
        next(iter(tiny_clip.model.parameters())).view(-1)[0].add_(1e-6)
    assert changed() == {"weights"}
    # every file that training can import counts, those of data/ and of rooms to come among them
    for name in (
        "data/decode.py",
        "measures/drift.py",
        "formulas/weights.py",
        "model/trace.py",
        "listing.py",
        "new.py",
    ):
        file = copy / name
        kept = file.read_bytes() if file.exists() else b""
        file.write_bytes(kept + b"# other\n")
        sharing._code.cache_clear()
        assert sharing._code(copy) != first["code"], name
        file.write_bytes(kept) if kept else file.unlink()
    (copy / "cli" / "show.py").write_text("# other")
    sharing._code.cache_clear()
    assert sharing._code(copy) == first["code"]


def test_what_training_imports_is_in_the_key() -> None:
    """The rooms that are left out are those that the layers put above training."""
    layers = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    order = layers["tool"]["importlinter"]["contracts"][0]["layers"]
    above = {room.strip() for line in order[: order.index("training")] for room in line.split("|")}
    assert above - sharing._ABOVE == set()
    below = {room.strip() for line in order[order.index("training") :] for room in line.split("|")}
    assert sharing._ABOVE & below <= {"analysis"}  # beside training: it loads no model


def test_one_flipped_byte_in_any_kept_file_is_said_and_changes_no_number(lab: Lab) -> None:
    config, own = lab.config("full_ft"), replace(lab, cache=lab.tmp())
    first = own.run(config)[0]
    kept = sorted((own.cache / "shared").glob("*.kept"))
    assert len(kept) >= 3  # measurement, texts, zero-shot
    for path in kept:
        raw = bytearray(path.read_bytes())
        raw[len(raw) * 2 // 3] ^= 1
        path.write_bytes(raw)
    heard = Heard()
    assert own.run(config, reporter=heard)[0].without_times() == first.without_times()
    for path in kept:
        assert any(
            path.name in text and "damaged" in text and "computed again" in text for text in heard.said
        )
        read_kept(path)  # made again


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"", lambda raw: raw[1:]]
)
def test_a_kept_file_is_read_as_it_was_written_or_not_at_all(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "a" / "x.kept"
    keep(path, b"content\nof two lines")
    assert read_kept(path) == b"content\nof two lines"
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    with pytest.raises(DamagedFileError, match=r"x\.kept: damaged"):
        read_kept(path)
    for position in range(len(raw)):
        flipped = bytearray(raw)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            read_kept(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_kept(path)


def test_an_error_leaves_nothing_behind(tiny_clip: Clip, tmp_path: Path) -> None:
    times: list[int] = []
    backbone_cache = BackboneCache.of(tmp_path, tiny_clip, CPU, Silent())

    def broken() -> float:
        raise ValueError("no number")

    with pytest.raises(ValueError, match="no number"):
        backbone_cache.number("x", [], broken)
    assert backbone_cache.number("x", [], counted(times)) == 1.5
    assert len(times) == 1


def _slowly(folder: Path, log: Path) -> None:
    def make() -> float:
        with log.open("a") as stream:
            stream.write("made\n")
        time.sleep(0.5)
        return 2.0

    assert BackboneCache(folder, "one backbone", Silent()).number("x", [], make) == 2.0


def test_of_several_processes_one_computes_and_the_others_wait(tmp_path: Path) -> None:
    fresh = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [fresh.Process(target=_slowly, args=(tmp_path / "shared", log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "made\n"


@pytest.mark.parametrize("flow", [False, True])
def test_packed_internals_are_the_same_bits(tiny_clip: Clip, flow: bool) -> None:
    images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first = read_internals(tiny_clip.model, Prepared(images, CPU), flow=flow, detail=flow)
    again = unpack(pack(first), tower_of(tiny_clip.model).reader)
    assert again.measures == first.measures  # in order, too
    assert list(again.detail) == list(first.detail)
    for part in ("attention", "heads", "whole", "detail"):
        one, other = getattr(first, part), getattr(again, part)
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() and one[name].dtype == other[name].dtype for name in one)
    assert torch.equal(torch.stack(list(again.states)), torch.stack(list(first.states)))
    assert torch.equal(again.embedding, first.embedding)


def test_the_second_run_measures_no_backbone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its record is the same to the bit as with a cache of its own."""
    calls = {"read": 0, "zero_shot": 0}
    read, zero_shot = observing.read_internals, testing_abilities._zero_shot

    def reading(*args: Any, **kwargs: Any) -> Any:
        calls["read"] += 1
        return read(*args, **kwargs)

    def testing(*args: Any, **kwargs: Any) -> Any:
        calls["zero_shot"] += 1
        return zero_shot(*args, **kwargs)

    monkeypatch.setattr(observing, "read_internals", reading)
    monkeypatch.setattr(testing_abilities, "_zero_shot", testing)
    config, own = lab.config("full_ft"), replace(lab, cache=lab.tmp())
    first = own.run(config)[0]
    alone = dict(calls)
    calls.update(read=0, zero_shot=0)
    second = own.run(config)[0]
    assert second.without_times() == first.without_times()
    assert calls["read"] == alone["read"] - 1
    assert calls["zero_shot"] < alone["zero_shot"]
    other = replace(lab, cache=lab.tmp()).run(config)[0]
    assert other.without_times() == first.without_times()
