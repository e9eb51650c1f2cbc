"""Walking a run and a pair: what is measured at each alpha, which one is chosen, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repair_models import between, embedding, merged, peft_model, plain, same, state_copy

from clipdrift import interpolate
from clipdrift.adapt import load_head
from clipdrift.comparison.compare import compare
from clipdrift.comparison.models import PairError
from clipdrift.config import ConfigError
from clipdrift.measures import zero_shot_accuracy
from clipdrift.repair import Repaired, RepairError
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import RunFolder
from clipdrift.training.preparation import prepare, resolve
from clipdrift.training.runner import run
from small_runs import CLASSES, Lab, picture

Runs = Callable[[str], RunFolder]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has tests of its own."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)


@pytest.fixture(scope="session")
def walked(runs: Runs, lab: Lab) -> Callable[[str], Repaired]:
    """``walked("lora")``: a run of that method at alpha 0, 0.5 and 1, done once."""
    made: dict[str, Repaired] = {}

    def make(method: str) -> Repaired:
        if method not in made:
            made[method] = interpolate(runs(method).path, alphas="0:1:0.5", cache=lab.cache, device="cpu")
        return made[method]

    return make


@pytest.fixture(scope="session")
def pair(tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, lab: Lab) -> Repaired:
    """The tiny CLIP to the tuned one, on the folder of pictures."""
    return interpolate(
        tiny_clip_dir,
        tuned_dir,
        images=pictures / "test",
        transfer=f"colours={pictures}",
        alphas=[0, 0.5, 1],
        cache=lab.cache,
        device="cpu",
    )


@pytest.mark.parametrize("method", ["full_ft", "lora"])
def test_at_alpha_1_a_run_is_what_its_record_says(
    walked: Callable[[str], Repaired], runs: Runs, method: str
) -> None:
    """The saved weights are those of the chosen epoch: every number of the record comes back."""
    step, best = walked(method).steps[-1], runs(method).record().best
    assert best is not None
    assert step.alpha == 1
    assert step.accuracy == pytest.approx(best.validation_accuracy)
    for name, values in best.measures.items():
        if name in step.measures:
            assert step.value(name) == pytest.approx(values.mean, rel=1e-4, abs=1e-6), name
    assert {
        "entropy",
        "cka",
        "embedding_drift",
        "weight_drift",
    } <= step.measures.keys() & best.measures.keys()
    assert step.transfer["objects-100"].accuracy == pytest.approx(best.transfer["objects-100"].accuracy)


@pytest.mark.parametrize("method", ["full_ft", "lora"])
def test_at_alpha_0_a_run_is_its_backbone(walked: Callable[[str], Repaired], runs: Runs, method: str) -> None:
    """No drift at all, all of the zero-shot ability, and the backbone's own values."""
    found, record = walked(method), runs(method).record()
    step = found.steps[0]
    assert step.value("cka") == pytest.approx(1)
    assert step.value("weight_drift") == 0
    assert step.value("embedding_drift") == pytest.approx(0, abs=1e-7)
    assert step.measures["entropy"].drift == 0
    assert step.value("entropy") == pytest.approx(record.backbone.measures["entropy"].mean)
    assert step.retention() == 100
    assert found.transfer["objects-100"].before == record.backbone.zero_shot["objects-100"]
    assert step.accuracy is not None
    assert found.chosen is None
    assert all(s.test_accuracy is None for s in found.steps)


def test_between_the_ends_are_the_numbers_of_a_comparison(
    pair: Repaired, tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, lab: Lab
) -> None:
    """A model mixed by plain arithmetic, compared with the backbone by `compare`, gives the same numbers."""
    mixed = between(plain(tiny_clip_dir), plain(tuned_dir), 0.5)
    wanted = compare(
        tiny_clip_dir,
        mixed,
        pictures / "test",
        transfer=f"colours={pictures}",
        cache=lab.cache,
        device="cpu",
        flow=False,
        spectrum=False,
    )
    step = pair.steps[1]
    for name, values in wanted.measures.items():
        value = values.after if values.value is None else values.value
        assert step.value(name) == pytest.approx(value, rel=1e-4, abs=1e-6), name
    row = wanted.transfer["colours"]
    assert step.transfer["colours"].accuracy == pytest.approx(row.after)
    assert pair.transfer["colours"].before == pytest.approx(row.before)
    assert (pair.images.count, pair.accuracy_of) == (27, "")


def test_the_head_stays_and_meets_moved_embeddings(
    walked: Callable[[str], Repaired], runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """Test accuracy at the saved alpha, by transformers, peft and the head's two matrices alone."""
    folder = runs("lora").path
    found = interpolate(
        folder, alphas=[0, 1], save_at=0.5, out=tmp_path / "out", transfer=[], cache=lab.cache, device="cpu"
    )
    assert [step.alpha for step in found.steps] == [0, 0.5, 1]
    assert [step.test_accuracy is None for step in found.steps] == [True, False, True]
    assert found.transfer == {}
    middle = walked("lora").steps[1]
    assert found.steps[1].accuracy == middle.accuracy
    labels = [label for label in range(len(CLASSES)) for _ in range(9)]
    pixels = np.stack([np.asarray(picture(label, i % 9 + 1000)) for i, label in enumerate(labels)])
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    images = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    model = between(plain(tiny_clip_dir), merged(tiny_clip_dir, folder / "model"), 0.5)
    head = load_head(folder / "model")
    with torch.no_grad():
        right = (head(embedding(model, images)).argmax(-1) == torch.tensor(labels)).double().mean()
    assert found.steps[1].test_accuracy == pytest.approx(100 * float(right))


def test_the_largest_alpha_that_keeps_is_chosen(
    walked: Callable[[str], Repaired], runs: Runs, lab: Lab
) -> None:
    """A bound between the CKA of 0.5 and 1 chooses 0.5, and nothing is saved without a place for it."""
    values = [step.value("cka") for step in walked("full_ft").steps]
    assert values[0] > values[1] > values[2]
    bound = (values[1] + values[2]) / 2
    found = interpolate(
        runs("full_ft").path, alphas="0:1:0.5", keep_cka=bound, cache=lab.cache, transfer=[], device="cpu"
    )
    assert found.chosen_step is not None
    assert found.chosen_step.alpha == 0.5
    assert "largest of the grid" in found.reason
    assert (found.saved, found.chosen_step.test_accuracy, found.failed) == (None, None, False)


def test_flyps_head_follows_its_text_tower(runs: Runs, lab: Lab, tiny_clip_dir: Path) -> None:
    """It is the class texts: at alpha 0 those of the backbone, so accuracy is its zero-shot accuracy."""
    found = interpolate(runs("flyp").path, alphas=[0, 1], cache=lab.cache, device="cpu", transfer=[])
    best = runs("flyp").record().best
    assert best is not None
    assert found.steps[1].accuracy == pytest.approx(best.validation_accuracy)
    # the same classes and prompt, on the images of both parts: the text tower alone decides
    validation = found.steps[0].accuracy
    inputs = prepare(resolve(runs("flyp").record().config), lab.cache, torch.device("cpu"), Silent())
    texts = [inputs.target.prompts[0].format(name) for name in inputs.target.classes]
    features = torch.nn.functional.normalize(inputs.clip.texts(texts), dim=-1)
    wanted = zero_shot_accuracy(inputs.clip.model, features, inputs.validation)
    assert validation == pytest.approx(wanted)
    assert validation != found.steps[1].accuracy


def test_models_in_memory_and_tensors(tiny_clip_dir: Path, tuned_dir: Path, lab: Lab) -> None:
    """As in a notebook; both models are afterwards what they were."""
    base, tuned = plain(tiny_clip_dir), peft_model(tiny_clip_dir)
    kept = [state_copy(model) for model in (base, tuned)]
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = interpolate(base, tuned, images=images, alphas=[0, 0.5, 1])
    assert [same(state_copy(m), state) for m, state in zip((base, tuned), kept, strict=True)] == [True, True]
    assert found.steps[0].value("cka") == pytest.approx(1)
    assert found.steps[2].value("embedding_drift") > 1e-4
    assert "merged weights are moved" in " ".join(found.notes)
    assert "Only 8 images" in " ".join(found.notes)


def test_beyond_the_adapted_model_is_named(tiny_clip_dir: Path, tuned_dir: Path) -> None:
    """1.5 is allowed where it is asked for, and said."""
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = interpolate(plain(tiny_clip_dir), plain(tuned_dir), images=images, alphas=1.5)
    assert found.steps[0].alpha == 1.5
    assert "extrapolated" in found.notes[-1]


def test_a_head_beside_a_tuned_model_gives_accuracy(
    runs: Runs, tiny_clip_dir: Path, pictures: Path, lab: Lab
) -> None:
    """A run as one of a pair: its head is tested where the images have its classes, and not otherwise."""
    options: dict[str, Any] = {"alphas": [1], "cache": lab.cache, "device": "cpu"}
    found = interpolate(tiny_clip_dir, runs("lora").path, images=str(pictures / "test"), **options)
    best = runs("lora").record().best
    assert best is not None
    assert found.steps[0].accuracy == pytest.approx(best.test_accuracy)
    assert f"27 images of {pictures / 'test'}" == found.accuracy_of
    other = interpolate(tiny_clip_dir, runs("lora").path, images="objects-100", limit=20, **options)
    assert other.steps[0].accuracy is None
    assert "The head beside TUNED knows 3 classes" in " ".join(other.notes)


# --- what is refused


def test_a_linear_probe_has_nothing_to_interpolate(runs: Runs) -> None:
    """Its backbone is its adapted model: told before anything is loaded."""
    with pytest.raises(RepairError, match="linear_probe trains the head alone: both towers are"):
        interpolate(runs("linear_probe").path)


def test_a_run_that_has_not_finished_or_diverged_is_refused(runs: Runs, lab: Lab, tmp_path: Path) -> None:
    """Each by its own name."""
    folder = RunFolder(tmp_path / "begun")
    folder.begin(lab.config())
    with pytest.raises(RepairError, match=r"begun: a run that has not finished; it has no weights yet"):
        interpolate(folder.path)
    broken = lab.config(optim={"learning_rate": 1e30, "epochs": 3})
    _, diverged = run(broken, tmp_path, cache=lab.cache, device="cpu")
    with pytest.raises(RepairError, match="the run ended as diverged; there is nothing to repair"):
        interpolate(diverged.path)
    _, bare = run(lab.config(optim={"epochs": 1}), tmp_path, cache=lab.cache, device="cpu", save=False)
    with pytest.raises(RepairError, match="the run saved no weights; run it again"):
        interpolate(bare.path)


def test_a_run_whose_backbone_has_changed_is_refused(lab: Lab, tmp_path: Path) -> None:
    """A full model would load all the same, and the path would start at another model."""
    moved = Path(shutil.copytree(lab.model, tmp_path / "moved"))
    config = Lab(moved, lab.pictures, lab.cache, lab.tmp).config(optim={"epochs": 1})
    _, folder = lab.run(config)
    changed = plain(moved)
    with torch.no_grad():
        changed.visual_projection.weight.mul_(2)
    changed.save_pretrained(moved)
    with pytest.raises(RepairError, match="the files of its backbone are no longer those"):
        interpolate(folder.path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": "terrain-10"}, "--images is for a pair of models"),
        ({"limit": 10}, "--limit is for a pair of models"),
        ({"any_base": True}, "--any-base is for a pair of models"),
        ({"save_at": 0.5}, "--save-at needs --out"),
        ({"save_at": 0.5, "keep_cka": 0.9}, "--save-at and --keep-cka contradict each other"),
        ({"keep_retention": "cifar10=90"}, "--keep-retention cifar10: not tested; there are objects-100"),
        ({"keep_retention": 90, "transfer": []}, "--keep-retention needs a transfer set"),
        ({"alphas": "1:0:0.1"}, "the step must be above 0"),
    ],
)
def test_contradicting_wishes_are_refused(runs: Runs, lab: Lab, options: dict[str, Any], said: str) -> None:
    """In one line that names the flag."""
    with pytest.raises(RepairError, match=said):
        interpolate(runs("full_ft").path, cache=lab.cache, **options)


def test_pairs_are_refused_as_in_compare(tiny_clip_dir: Path, tuned_dir: Path, tmp_path: Path) -> None:
    """No images, no run, no difference, a misspelt set."""
    with pytest.raises(RepairError, match="two models need images"):
        interpolate(tiny_clip_dir, tuned_dir)
    with pytest.raises(RepairError, match=r"no run; give the folder of a run \(runs/<key>\), or two models"):
        interpolate(tiny_clip_dir)
    with pytest.raises(RepairError, match="one model in memory is no run"):
        interpolate(plain(tiny_clip_dir))
    images = torch.randn(8, 3, 16, 16)
    with pytest.raises(RepairError, match="has the very weights of"):
        interpolate(plain(tiny_clip_dir), plain(tiny_clip_dir), images=images)
    with pytest.raises((ConfigError, PairError), match="twice"):
        interpolate(tiny_clip_dir, tuned_dir, images=images, transfer=["cifar10", "cifar10"])
