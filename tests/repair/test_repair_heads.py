"""A head on the way: one that began as the class texts moves along, a linear one stays and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from repair_models import between, merged, plain
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from clipdrift import interpolate, mix, rewind
from clipdrift.adapt import ZeroShotHead, load_head
from clipdrift.model.clip import Clip
from clipdrift.repair import Repaired, RepairError
from clipdrift.repair.opening import open_context
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import RunFolder
from clipdrift.study.engines.jobs import StudyJob, StudyOptions
from clipdrift.sweeping.mixes import read_mixes
from clipdrift.sweeping.mixing import Mixer
from clipdrift.training.preparation import RunInputs, prepare, resolve
from small_runs import CLASSES, Lab

Runs = Callable[[str], RunFolder]
ON: dict[str, Any] = {"device": "cpu", "transfer": []}


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has tests of its own."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)


@pytest.fixture(scope="session")
def begun(lab: Lab) -> Runs:
    """``begun("lora")``: a finished run whose head began as the class texts."""
    made: dict[str, RunFolder] = {}

    def make(method: str) -> RunFolder:
        if method not in made:
            optim = {"epochs": 1, "learning_rate": 0.02 if method == "lora" else 1e-3}
            made[method] = lab.run(lab.config(method, head="zero_shot", optim=optim))[1]
        return made[method]

    return make


@pytest.fixture(scope="session")
def walked(begun: Runs, lab: Lab) -> Callable[[str], Repaired]:
    made: dict[str, Repaired] = {}

    def make(method: str) -> Repaired:
        if method not in made:
            made[method] = interpolate(begun(method).path, alphas=[0, 0.5, 1, 1.5], cache=lab.cache, **ON)
        return made[method]

    return make


def inputs_of(run: RunFolder, lab: Lab) -> RunInputs:
    return prepare(resolve(run.record().config), lab.cache, torch.device("cpu"), Silent())


def texts_head(clip: Clip) -> Tensor:
    """(C, E) unit class texts times the logit scale, by transformers alone."""
    texts = [f"a photo of a {name}" for name in CLASSES]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = clip.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        return normalize(found, dim=-1) * clip.model.logit_scale.exp()


@torch.no_grad()
def percent(model: Any, weight: Tensor, bias: Tensor, inputs: RunInputs) -> float:
    """Accuracy on the validation images by transformers' tower and two matrices."""
    images = inputs.validation.images(slice(None))
    embedding = normalize(model.eval().get_image_features(pixel_values=images).pooler_output, dim=-1)
    right = (embedding @ weight.T + bias).argmax(-1) == torch.from_numpy(inputs.validation.labels)
    return 100 * float(right.double().mean())


@pytest.mark.parametrize("method", ["full_ft", "lora"])
def test_the_head_moves_from_the_backbones_texts_to_the_tuned_one(
    begun: Runs, walked: Callable[[str], Repaired], lab: Lab, tiny_clip_dir: Path, method: str
) -> None:
    """At 0 the backbone's zero-shot accuracy on the target, at 1 the record's; also between and beyond."""
    folder, found = begun(method).path, walked(method)
    inputs, best = inputs_of(begun(method), lab), begun(method).record().best
    assert best is not None
    assert found.steps[2].accuracy == pytest.approx(best.validation_accuracy)
    first, head = texts_head(inputs.clip), load_file(folder / "model" / "head.safetensors")
    tuned = merged(tiny_clip_dir, folder / "model") if method == "lora" else plain(folder / "model")
    last, bias = head["zero_shot.weight"], head["zero_shot.bias"]
    assert (last - first).abs().max() > 1e-4
    for step in found.steps:
        alpha = step.alpha or 0.0
        model = between(plain(tiny_clip_dir), tuned, alpha)
        wanted = percent(model, (1 - alpha) * first + alpha * last, alpha * bias, inputs)
        assert step.accuracy == pytest.approx(wanted), alpha
    assert "The head moves along, from the backbone's class texts (a photo of a {})" in " ".join(found.notes)


def test_before_its_first_step_a_run_is_the_zero_shot_classifier(
    begun: Runs, walked: Callable[[str], Repaired], lab: Lab
) -> None:
    """Accuracy and every logit on the way's beginning, whatever the seed; the record says the prompts."""
    inputs = inputs_of(begun("full_ft"), lab)
    none = torch.zeros(len(CLASSES))
    wanted = percent(inputs.clip.model, texts_head(inputs.clip), none, inputs)
    assert [walked(method).steps[0].accuracy for method in ("full_ft", "lora")] == [pytest.approx(wanted)] * 2
    context = open_context(begun("full_ft").path, None, {"cache": lab.cache, "device": "cpu", "transfer": []})
    context.measurer.endpoints.put(0)
    head: Any = context.measurer.head
    torch.testing.assert_close(head.zero_shot.weight.data, texts_head(inputs.clip), rtol=1e-5, atol=1e-6)
    assert not head.zero_shot.bias.any()
    assert begun("full_ft").record().target.prompts == ("a photo of a {}",)
    assert begun("full_ft").record().config.head == "zero_shot"


def test_a_saved_mix_has_its_own_head(
    begun: Runs, lab: Lab, tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Half of both ends, and it says its classes: the mix is walked again as one of a pair."""
    folder = begun("lora").path
    found = interpolate(folder, alphas=[0, 1], save_at=0.5, out=tmp_path / "mix", cache=lab.cache, **ON)
    head = load_head(tmp_path / "mix/model")
    tuned = load_head(folder / "model")
    assert isinstance(head, ZeroShotHead)
    assert isinstance(tuned, ZeroShotHead)
    assert (head.classes, head.prompts) == (CLASSES, ("a photo of a {}",))
    first = texts_head(inputs_of(begun("lora"), lab).clip)
    half = (first + tuned.zero_shot.weight.data) / 2
    torch.testing.assert_close(head.zero_shot.weight.data, half, rtol=1e-5, atol=1e-6)
    again = interpolate(
        tiny_clip_dir,
        tmp_path / "mix/model",
        images=str(pictures / "test"),
        alphas=[0, 1],
        cache=lab.cache,
        device="cpu",
    )
    assert again.steps[1].accuracy == pytest.approx(found.steps[1].test_accuracy)
    assert "taken to have the classes" not in " ".join(again.notes)


def test_a_head_that_does_not_say_its_classes_is_not_moved(
    begun: Runs, lab: Lab, tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Written again by another tool: beside a model it is refused, in a run its record knows them."""
    interpolate(begun("lora").path, alphas=[0, 1], save_at=1, out=tmp_path / "mix", cache=lab.cache, **ON)
    file = tmp_path / "mix/model/head.safetensors"
    save_file(load_file(file), file)
    with pytest.raises(RepairError, match="began as class texts and does not say which"):
        interpolate(tiny_clip_dir, file.parent, images=str(pictures / "test"), cache=lab.cache, device="cpu")


def test_rewound_blocks_keep_the_head_unless_it_is_named(begun: Runs, lab: Lab) -> None:
    """With everything put back the zero-shot classifier is there."""
    folder, everything = begun("full_ft").path, ("stem", "final", "projection")
    kept = rewind(folder, blocks="1..", also=everything, cache=lab.cache, **ON)
    back = rewind(folder, blocks="1..", also=(*everything, "head"), cache=lab.cache, **ON)
    inputs = inputs_of(begun("full_ft"), lab)
    head = load_file(folder / "model" / "head.safetensors")
    tuned = percent(inputs.clip.model, head["zero_shot.weight"], head["zero_shot.bias"], inputs)
    none = torch.zeros(len(CLASSES))
    assert kept.steps[1].accuracy == pytest.approx(tuned)
    assert back.steps[1].accuracy == pytest.approx(
        percent(inputs.clip.model, texts_head(inputs.clip), none, inputs)
    )
    assert "blocks 1..2, stem, final, projection, head back" in back.steps[1].label


def test_a_linear_head_stays_and_says_what_to_use_instead(runs: Runs, lab: Lab) -> None:
    """In one sentence; not of flyp's class texts, which follow their tower."""
    found = interpolate(runs("full_ft").path, alphas=[1], cache=lab.cache, **ON)
    (said,) = (note for note in found.notes if "The head is linear" in note)
    assert "towards alpha 0" in said
    assert "head = 'zero_shot'" in said
    assert said.count(".") == 1
    other = interpolate(runs("flyp").path, alphas=[1], cache=lab.cache, **ON)
    assert "head" not in " ".join(other.notes)
    with pytest.raises(RepairError, match=r"--also head: .* has no head that began as the class texts"):
        rewind(runs("full_ft").path, blocks="1..", also=["head"], cache=lab.cache, **ON)


def test_a_sweeps_mixes_move_the_head(
    begun: Runs, walked: Callable[[str], Repaired], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first mix that is looked at, alpha 0.5, has the accuracy of the path there."""
    run = begun("lora")
    job = StudyJob(run.record().config, "lora", "axes")
    steps = iter([10, None])
    monkeypatch.setattr("clipdrift.sweeping.mixing.next_step", lambda *_: next(steps))
    monkeypatch.setattr("clipdrift.sweeping.mixing.sets_of", lambda *_: ("objects-100",))
    Mixer(keep=90)(job, StudyOptions(out=run.path.parent, cache=lab.cache, device="cpu"), Silent())
    (look,) = read_mixes(run.path)
    (run.path / "mixes.json").unlink()
    assert look.alpha == 0.5
    assert look.accuracy == walked("lora").steps[1].accuracy


def test_runs_that_began_as_class_texts_are_mixed(
    begun: Runs, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their soup has the mean of their heads, which is one that acts on normalised embeddings."""
    monkeypatch.setattr("clipdrift.figures.mixed.write_mixed", lambda _, file: file)
    folders = [begun(method).path for method in ("full_ft", "lora")]
    found = mix(*folders, take="uniform", out=tmp_path, cache=lab.cache, device="cpu")
    head, heads = load_head(tmp_path / "model"), [load_head(folder / "model") for folder in folders]
    assert isinstance(head, ZeroShotHead)
    assert head.classes == CLASSES
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(tensor, sum(one.state_dict()[name] for one in heads) / 2)
    soup, model = found.mixes["uniform"], plain(tmp_path / "model")
    weight, bias = head.zero_shot.weight.data, head.zero_shot.bias.data
    wanted = percent(model, weight, bias, inputs_of(begun("full_ft"), lab))
    assert soup.step.accuracy == pytest.approx(wanted)
