"""Soups and Model Stock of finished runs, held against plain arithmetic on what plain libraries load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repair_models import merged, plain
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer

from clipdrift import mix
from clipdrift.cli.show_mixed import mixed_report
from clipdrift.comparison.compare import compare
from clipdrift.mixing import read_mixed
from clipdrift.mixing.looks import FILE as LOOKS
from clipdrift.repair import RepairError
from clipdrift.repair.step_measurer import StepComparer
from clipdrift.runs.layout import RECORD
from clipdrift.runs.store import RunFolder
from commands import fails, runner
from small_runs import Lab

Runs = Callable[[str], RunFolder]
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is drawn once, on the command line."""
    if "say" not in request.fixturenames:
        monkeypatch.setattr("clipdrift.figures.mixed.write_mixed", lambda _, file: file)


@pytest.fixture(scope="session")
def three(runs: Runs, lab: Lab) -> list[Path]:
    """Two fully fine-tuned runs that differ in their seed, and one with LoRA."""
    other = lab.run(lab.config("full_ft", seed=7, optim={"epochs": 1}))[1]
    return [runs("full_ft").path, other.path, runs("lora").path]


@pytest.fixture
def asked(lab: Lab) -> dict[str, Any]:
    return {"cache": lab.cache, "device": "cpu"}


def states(base: Path, folders: list[Path]) -> list[State]:
    """By transformers and peft alone."""
    saved = [folder / "model" for folder in folders]
    whole = [merged(base, at) if (at / "adapter_config.json").is_file() else plain(at) for at in saved]
    return [model.state_dict() for model in whole]


def heads(folders: list[Path]) -> list[State]:
    return [load_file(folder / "model" / "head.safetensors") for folder in folders]


def stock_by_hand(start: Any, ends: list[Any]) -> Any:
    """``t mean + (1 - t) W_0`` of one tensor, with numpy."""
    steps = [(end - start).ravel() for end in ends]
    mean = np.mean(ends, axis=0)
    if any(not step.any() for step in steps):
        return start
    cosine = np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in combinations(steps, 2)])
    count = len(ends)
    ratio = max(0.0, count * cosine / (1 + (count - 1) * cosine)) if cosine > 0 else 0.0
    return ratio * mean + (1 - ratio) * start


def test_the_uniform_soup_is_the_mean_of_the_state_dicts(
    three: list[Path], tiny_clip_dir: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    """An adapter among them is merged; the head too is the mean; what was measured is what was saved."""
    found = mix(*three, take="uniform", out=tmp_path, **asked)
    saved, several = plain(tmp_path / "model").state_dict(), states(tiny_clip_dir, three)
    for name, weight in saved.items():
        mean = np.mean([state[name].double().numpy() for state in several], axis=0)
        np.testing.assert_allclose(weight.numpy(), mean, atol=1e-7, rtol=1e-6)
    for name, weight in load_file(tmp_path / "model" / "head.safetensors").items():
        mean = np.mean([head[name].double().numpy() for head in heads(three)], axis=0)
        np.testing.assert_allclose(weight.numpy(), mean, atol=1e-7)
    assert found.mixes["uniform"].runs == (1, 2, 3)
    pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    drift = compare(
        tiny_clip_dir, tmp_path / "model", pixels, flow=False, spectrum=False, shown=0, device="cpu"
    )
    step = found.mixes["uniform"].step
    assert step.value("weight_drift") == pytest.approx(drift.measures["weight_drift"].value, rel=1e-5)
    assert step.test_accuracy is not None
    assert "1 of the 3 runs are adapters" in " ".join(found.notes)
    told = json.loads((tmp_path / "model" / "repair.json").read_text())
    assert (told["mix"], told["tuned"]) == ("uniform", [str(folder) for folder in three])
    assert read_mixed(tmp_path).mixes == found.mixes


@pytest.mark.parametrize("count", [2, 3])
def test_model_stock_is_what_numpy_computes(
    three: list[Path], tiny_clip_dir: Path, asked: dict[str, Any], tmp_path: Path, count: int
) -> None:
    """In every tensor, from the angles between what the runs added; the backbone's where one did not move."""
    chosen = three[:count]
    found = mix(*chosen, take="stock", out=tmp_path, transfer=[], **asked)
    saved, several = plain(tmp_path / "model").state_dict(), states(tiny_clip_dir, chosen)
    before = plain(tiny_clip_dir).state_dict()
    away = 0
    for name, weight in saved.items():
        wanted = stock_by_hand(
            before[name].double().numpy(), [state[name].double().numpy() for state in several]
        )
        np.testing.assert_allclose(weight.numpy(), wanted, atol=2e-6)
        away += not torch.equal(weight, before[name])
    assert away >= 4
    ratios = [row.ratio for row in found.ratios]
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert max(ratios) > 0
    kept = sum(ratio == 0 for ratio in ratios)
    assert any(f"backbone's values in {kept} of {len(ratios)} tensors" in note for note in found.notes) == (
        kept > 0
    )


def test_each_run_alone_is_its_record(three: list[Path], tiny_clip_dir: Path, asked: dict[str, Any]) -> None:
    """Accuracy, retention, test accuracy; the backbone has no head, and the cosines are numpy's."""
    found = mix(*three, **asked)
    for run, folder in zip(found.runs, three, strict=True):
        record = RunFolder(folder).record()
        assert record.best is not None
        assert run.step.accuracy == pytest.approx(record.best.validation_accuracy)
        assert run.step.transfer == record.best.transfer
        assert run.step.test_accuracy == record.best.test_accuracy
        assert run.step.value("cka") == pytest.approx(record.best.measures["cka"].mean, abs=1e-5)
        assert run.label.endswith(f"seed {record.config.seed}")
    assert found.backbone.accuracy is None
    assert found.backbone.value("weight_drift") == 0
    before, several = plain(tiny_clip_dir).state_dict(), states(tiny_clip_dir, three)
    for pair in found.cosines:
        for block, value in enumerate((pair.value, *pair.blocks)):
            part = f"vision_model.encoder.layers.{block - 1}." if block else ("vision_model.", "visual_proj")
            sides = [
                np.concatenate(
                    [(state[n] - before[n]).double().numpy().ravel() for n in before if n.startswith(part)]
                )
                for state in (several[pair.one - 1], several[pair.other - 1])
            ]
            cosine = sides[0] @ sides[1] / (np.linalg.norm(sides[0]) * np.linalg.norm(sides[1]))
            assert value == pytest.approx(cosine, abs=1e-5)
    frame = found.to_frame(blocks=True)
    rows = frame.query("measure == 'task_vector_cosine' and block.isna()")
    assert rows["value"].tolist() == [pair.value for pair in found.cosines]
    assert set(frame["model"]) == set(found.steps)


def test_the_greedy_soup_takes_what_does_not_lower_accuracy(three: list[Path], asked: dict[str, Any]) -> None:
    """Each try by its own soup: that of all that stayed before, and the one that is tried."""
    found = mix(*three, transfer=[], **asked)
    alone = {run.number: run.step.accuracy for run in found.runs}
    order = [row.run for row in found.greedy]
    assert order == sorted(alone, key=lambda number: -(alone[number] or 0))
    inside, best = [order[0]], alone[order[0]]
    for row in found.greedy[1:]:
        soup = mix(*(three[n - 1] for n in sorted([*inside, row.run])), transfer=[], **asked)
        assert row.accuracy == soup.mixes["uniform"].step.accuracy
        assert row.stays == (row.accuracy >= best)  # type: ignore[operator]
        if row.stays:
            inside, best = [*inside, row.run], row.accuracy
    assert found.mixes["greedy"].runs == tuple(sorted(inside))
    assert found.mixes["greedy"].step.accuracy == best


def test_an_interrupted_mix_goes_on(
    three: list[Path], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked at is not looked at again, and the result is the same; then the looks are gone."""
    looked: list[str] = []
    original, most = StepComparer.look, [3]

    def look(self: StepComparer, label: str, **setting: Any) -> Any:
        if len(looked) == most[0]:
            raise KeyboardInterrupt
        looked.append(label)
        return original(self, label, **setting)

    monkeypatch.setattr(StepComparer, "look", look)
    with pytest.raises(KeyboardInterrupt):
        mix(*three[:2], out=tmp_path, transfer=[], **asked)
    assert (tmp_path / LOOKS).is_file()
    first, looked[:], most[0] = list(looked), [], 99
    found = mix(*three[:2], out=tmp_path, transfer=[], **asked)
    assert first == list(found.steps)[:3]
    assert not set(first) & set(looked)
    assert not (tmp_path / LOOKS).exists()
    monkeypatch.undo()
    whole = mix(*three[:2], transfer=[], **asked)
    assert [step.accuracy for step in whole.steps.values()] == [s.accuracy for s in found.steps.values()]


def test_a_result_that_is_there_is_kept(three: list[Path], asked: dict[str, Any], tmp_path: Path) -> None:
    """Unless it is to be replaced."""
    (tmp_path / "mixed.json").write_text("{}")
    with pytest.raises(
        RepairError, match=r"mixed.json: is there already; choose another --out, or say --force"
    ):
        mix(*three[:2], out=tmp_path, **asked)
    assert (tmp_path / "mixed.json").read_text() == "{}"


# --- what cannot be mixed


@pytest.fixture(scope="session")
def elsewhere(lab: Lab) -> RunFolder:
    """A run whose validation images are others."""
    return lab.run(lab.config("last_blocks", data={"seed": 5}, optim={"epochs": 1}))[1]


def test_runs_that_share_too_little_are_refused(
    three: list[Path], runs: Runs, elsewhere: RunFolder, tmp_path: Path
) -> None:
    """In one line each, before anything is loaded."""
    with pytest.raises(RepairError, match="1 run: a mix needs at least two"):
        mix(three[0])
    with pytest.raises(RepairError, match="named twice"):
        mix(three[0], three[0] / "model")
    with pytest.raises(RepairError, match="trains the head alone"):
        mix(three[0], runs("linear_probe").path)
    with pytest.raises(RepairError, match="the head of one is its class texts"):
        mix(three[0], runs("flyp").path)
    with pytest.raises(RepairError, match=r"their validation images differ .* trained on what would choose"):
        mix(three[0], elsewhere.path)
    with pytest.raises(RepairError, match=r"their backbones are .* with different weights"):
        mix(three[0], _altered(three[1], tmp_path / "a", ("config", "model", "fingerprint"), "f" * 64))
    with pytest.raises(RepairError, match="their heads know other classes"):
        mix(three[0], _altered(three[1], tmp_path / "b", ("target", "classes"), ["x", "y", "z"]))
    with pytest.raises(RepairError, match="--images is not for runs"):
        mix(*three, images="somewhere")
    with pytest.raises(RepairError, match="--keep needs a transfer set"):
        mix(*three, keep=90, transfer=[])


def _altered(run: Path, to: Path, place: tuple[str, ...], value: Any) -> Path:
    """A copy of a run whose record says something else."""
    to.mkdir()
    record = json.loads((run / RECORD).read_text())
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (to / RECORD).write_text(json.dumps(record))
    (to / "model").symlink_to(run / "model")
    return to


# --- the command


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lab: Lab) -> Iterator[Any]:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(lab.cache))
    return runner(capsys)  # type: ignore[return-value]


def test_the_command_says_what_it_found(say: Any, three: list[Path], tmp_path: Path) -> None:
    """A row for each model, files, a model that loads; what nothing keeps ends with 1, nothing saved."""
    said = say("mix", *three[:2], "--out", tmp_path, "--keep", "1")
    assert (said.code, said.err) == (0, "")
    found = read_mixed(tmp_path)
    for label, step in found.steps.items():
        row = next(line for line in said.out.splitlines() if line.startswith(f"{label} "))
        assert f"{step.value('cka'):.3f}" in row
        assert step.accuracy is None or f"{step.accuracy:.1f} %" in row
    for line in found.summary().splitlines():
        assert line in said.out
    narrow = Console(width=72, record=True, file=StringIO())
    narrow.print(mixed_report(found))
    assert "…" not in narrow.export_text()  # labels are folded, numbers are never cut
    assert f"model     {tmp_path / 'model'}" in said.out
    assert (tmp_path / "mixed.png").read_bytes().startswith(b"\x89PNG")
    plain(tmp_path / "model")
    said = say("mix", *three[:2], "--keep", "1000", "--out", tmp_path / "none")
    assert said.code == 1
    assert "No mix keeps 1000 % of the zero-shot accuracy on every transfer set" in said.out
    assert not (tmp_path / "none" / "model").exists()


def test_mistakes_are_one_line(say: Any, three: list[Path]) -> None:
    """With exit status 2."""
    assert "--take best: legal are uniform, greedy, stock" in fails(say("mix", *three, "--take", "best"))
    assert "give --keep too" in fails(say("mix", *three, "--keep-on", "objects-100"))
    assert "--keep -1: write a percentage above 0" in fails(say("mix", *three, "--keep", "-1"))
    assert "no/where: no run; give the folders of finished runs" in fails(say("mix", three[0], "no/where"))
    assert "--keep-on elsewhere: not tested" in fails(
        say("mix", *three, "--keep", "90", "--keep-on", "elsewhere")
    )


def test_a_head_that_is_the_class_texts_follows_the_mixed_text_tower(
    runs: Runs, lab: Lab, asked: dict[str, Any], tmp_path: Path
) -> None:
    """Of flyp: unit text features of the saved model, by its own tokenizer and transformers alone."""
    other = lab.run(lab.config("flyp", seed=7, optim={"epochs": 1}))[1]
    record = other.record()
    mix(runs("flyp").path, other.path, take="uniform", out=tmp_path, transfer=[], **asked)
    saved = tmp_path / "model"
    texts = [record.target.prompts[0].format(name) for name in record.target.classes]
    tokens = AutoTokenizer.from_pretrained(saved)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        features = plain(saved).get_text_features(**tokens).pooler_output
    head = load_file(saved / "head.safetensors")["weight"]
    torch.testing.assert_close(head, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=1e-4)
    own = load_file(other.path / "model" / "head.safetensors")["weight"]
    assert not torch.allclose(head, own, atol=1e-4)
