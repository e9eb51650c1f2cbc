"""What BASE and TUNED may be: folders, names, runs, adapters, models in memory; all give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from by_hand import worst
from outside import Adapter
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection, SiglipModel

from clipdrift.comparison import Comparison
from clipdrift.comparison.compare import compare
from clipdrift.comparison.measuring import measure
from clipdrift.comparison.models import PairError
from clipdrift.model.clip import MINI, ModelError, load
from clipdrift.runs.store import RunFolder
from small_runs import Lab, config_for


def moved(found: Comparison) -> float:
    value = found.measures["embedding_drift"].value
    assert value is not None
    return value


# --- folders and names


def test_a_folder_as_path_as_text_and_from_here(
    tiny_clip_dir: Path, tuned_dir: Path, against: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a folder is written, it is the same model."""
    monkeypatch.chdir(tuned_dir.parent)
    found = [against(place) for place in (tuned_dir, str(tuned_dir), f"./{tuned_dir.name}", tuned_dir.name)]
    assert all(worst(found[0], other) == 0 for other in found[1:])
    assert moved(found[0]) > 0.01
    first = found[0]
    assert (first.base.name, first.tuned.name) == (str(tiny_clip_dir), str(tuned_dir))
    assert (first.base.kind, first.tuned.kind) == ("model", "model")
    assert first.base.library == first.tuned.library == "transformers CLIPModel"
    assert first.base.fingerprint != first.tuned.fingerprint
    stored = load_file(tiny_clip_dir / "model.safetensors")
    assert first.base.parameters == sum(v.numel() for k, v in stored.items() if outside.of_image(k))
    shape = first.shape
    assert (shape.blocks, shape.heads, shape.width, shape.embedding_width) == (2, 2, 32, 24)
    assert (shape.image_size, shape.grid, shape.patches, shape.reader) == (16, (4, 4), 16, "class token")


def test_the_shipped_model_by_name(pixels: Tensor) -> None:
    """`clipdrift/mini` is a name that needs no network, and its folder is the same model."""
    images = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    found = compare(MINI, str(load(MINI).model.name_or_path), images, flow=False, spectrum=False)
    assert found.base.fingerprint == found.tuned.fingerprint
    assert found.base.fingerprint is not None
    assert moved(found) == pytest.approx(0, abs=1e-12)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """An empty hub cache that is offline: ``hub("lab/tiny", folder)`` lays a folder into it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda name, folder: outside.in_hub_cache(tmp_path / "hub", name, folder)


@pytest.fixture
def on_hub(hub: Callable[[str, Path], None], adapters: Callable[[str], Adapter], tmp_path: Path) -> Any:
    """``on_hub("lab/lora", made_from)``: an adapter in the hub's cache, and its folder."""

    def make(name: str, made_from: str | Path, pickled: bool = False) -> Path:
        folder = outside.copy_folder(adapters("whole").folder, tmp_path / name)
        outside.edit_json(folder / "adapter_config.json", base_model_name_or_path=str(made_from))
        if pickled:
            outside.pickle_weights(folder)
        hub(name, folder)
        return folder

    return make


def test_models_and_adapters_of_the_hub(
    tiny_clip_dir: Path,
    tuned_dir: Path,
    adapters: Callable[[str], Adapter],
    against: Callable[..., Comparison],
    hub: Callable[[str, Path], None],
    on_hub: Any,
    pixels: Tensor,
) -> None:
    """By id, out of the offline cache: a model, an adapter, and an adapter alone, which names its model."""
    hub("lab/tiny", tiny_clip_dir)
    hub("lab/tuned", tuned_dir)
    folder = on_hub("lab/lora", "lab/tiny")
    found = against("lab/tuned", base="lab/tiny")
    assert (found.base.name, found.base.kind, found.base.fingerprint) == ("lab/tiny", "model", None)
    assert worst(found, against(tuned_dir)) == 0
    expected = against(adapters("whole").folder)
    for base, tuned in (("lab/tiny", "lab/lora"), ("lab/tiny", folder), (tiny_clip_dir, "lab/lora")):
        found = against(tuned, base=base)
        assert found.tuned.kind == "adapter"
        assert worst(found, expected) == 0
        assert [note for note in found.notes if "Only" not in note] == []
    whole = measure(outside.load_plain(adapters("whole").merged), pixels, flow=False)
    assert measure("lab/lora", pixels, flow=False).mean("entropy") == pytest.approx(
        whole.mean("entropy"), abs=1e-6
    )


def test_an_adapter_of_another_hub_model_is_refused(
    tiny_clip_dir: Path,
    tuned_dir: Path,
    against: Callable[..., Comparison],
    hub: Callable[[str, Path], None],
    on_hub: Any,
) -> None:
    """By what the adapter says of itself, also where only the owner differs; where nothing tells, a note."""
    hub("lab/tiny", tiny_clip_dir)
    for name, made_from in (("lab/a", "lab/tuned"), ("lab/b", "other/tiny")):
        on_hub(name, made_from)
        with pytest.raises(PairError, match=f"{name}: the adapter was made from {made_from}, not from lab/t"):
            against(name, base="lab/tiny")
    forced = against("lab/a", base="lab/tiny", any_base=True)
    on_hub("lab/c", "lab/tiny")
    assert worst(forced, against("lab/c", base="lab/tiny")) == 0
    on_hub("lab/d", tuned_dir)
    note = against("lab/d", base="lab/tiny").notes[0]
    assert f"made from {tuned_dir}, which cannot be checked against lab/tiny here" in note
    on_hub("lab/e", "lab/tiny", pickled=True)
    with pytest.raises(PairError, match=r"lab/e: an adapter without adapter_model.safetensors; pickled"):
        against("lab/e", base="lab/tiny")


def test_a_name_that_is_nowhere(tiny_clip_dir: Path, against: Callable[..., Comparison], hub: Any) -> None:
    """Offline and not in the cache: the name, and what to check."""
    for options in ({"tuned": "lab/absent"}, {"tuned": tiny_clip_dir, "base": "lab/absent"}):
        with pytest.raises(ModelError, match=r"^lab/absent: not found in the local hub cache and not to be"):
            against(**options)


# --- runs


def test_each_kind_of_run_is_the_model_that_it_left(
    runs: Callable[[str], RunFolder], against: Callable[..., Comparison]
) -> None:
    """Full fine-tuning by transformers, LoRA by peft: the run's folder gives what they load, merged."""
    full, lora, probe = (runs(method).path for method in ("full_ft", "lora", "linear_probe"))
    found = against(full)
    assert found.tuned.kind == "run"
    assert worst(found, against(outside.load_plain(full / "model"))) < 1e-6
    record = runs("full_ft").record()
    assert record.best is not None
    drift = found.measures["weight_drift"].value
    assert drift == pytest.approx(record.best.measures["weight_drift"].mean, rel=1e-6)
    base = outside.load_plain(Path(str(record.config.model.path)))
    merged = PeftModel.from_pretrained(base, str(lora / "model")).merge_and_unload()
    assert worst(against(lora), against(merged)) < 1e-5
    assert moved(against(lora)) > 1e-5
    assert moved(against(probe)) == pytest.approx(0, abs=1e-12)
    assert "same weights" in against(probe).notes[0]


@pytest.mark.parametrize("method", ["full_ft", "lora", "linear_probe"])
def test_the_folder_of_weights_inside_a_run_will_do(
    runs: Callable[[str], RunFolder], against: Callable[..., Comparison], method: str
) -> None:
    """Who looks for the weights finds `model`, and gives that."""
    folder = runs(method).path
    assert worst(against(folder), against(folder / "model")) == 0


def test_runs_of_one_backbone_are_compared(
    runs: Callable[[str], RunFolder], against: Callable[..., Comparison]
) -> None:
    """Run against run, and against the models that they left."""
    full, lora = runs("full_ft").path, runs("lora").path
    found = against(lora, base=full)
    assert moved(found) > 1e-4
    plain = outside.load_plain(full / "model")
    merged = load(runs("lora").record().config.model).model
    merged = PeftModel.from_pretrained(merged, str(lora / "model")).merge_and_unload()
    assert worst(found, against(merged, base=plain)) < 1e-5
    assert [note for note in found.notes if "Only" not in note] == []


def test_a_run_that_went_on_from_a_run(
    lab: Lab, runs: Callable[[str], RunFolder], against: Callable[..., Comparison]
) -> None:
    """The weights of one run are the backbone of the next: each is compared with what it began from."""
    first = runs("full_ft").path
    on = config_for(first / "model", lab.pictures, method="linear_probe", optim={"epochs": 1})
    second = lab.run(on)[1].path
    for base in (first, first / "model"):
        assert moved(against(second, base=base)) == pytest.approx(0, abs=1e-12)


# --- adapters made outside


@pytest.mark.parametrize("kind", list(outside.ADAPTERS))
def test_an_adapter_is_its_merged_model(
    adapters: Callable[[str], Adapter], against: Callable[..., Comparison], pictures: Path, kind: str
) -> None:
    """By plain peft, in every measure, transfer included: the adapter, and what merge_and_unload saves."""
    made, options = adapters(kind), {"transfer": pictures} if kind == "bare" else {}
    found, plain = against(made.folder, **options), against(made.merged, **options)
    assert (found.tuned.kind, plain.tuned.kind) == ("adapter", "model")
    assert moved(found) > 1e-4
    assert worst(found, plain) < 1e-5
    assert found.spectra
    assert [note for note in found.notes if "Only" not in note] == []


def test_an_adapter_of_bare_names_leaves_the_texts(
    adapters: Callable[[str], Adapter], against: Callable[..., Comparison], tiny_clip_dir: Path
) -> None:
    """Made on the image half, its names fit the text tower too, where nothing was learnt."""
    saved = load_file(adapters("bare").folder / "adapter_model.safetensors")
    assert not [name for name in saved if "text_model" in name]
    notes = against(adapters("bare").folder, transfer={"name": "objects-100", "per_class": 1}).notes
    assert not [note for note in notes if "text" in note]


def test_base_is_left_as_it_was_by_an_adapter_on_it(
    tiny_clip_dir: Path, adapters: Callable[[str], Adapter], against: Callable[..., Comparison]
) -> None:
    """peft changes the very model that it is given; a Clip given as BASE is copied before."""
    clip = load(tiny_clip_dir)
    before = {name: (value.data_ptr(), value.clone()) for name, value in clip.model.state_dict().items()}
    found = against(adapters("whole").folder, base=clip)
    after = clip.model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[k].data_ptr() == p and torch.equal(after[k], v) for k, (p, v) in before.items())
    assert worst(found, against(adapters("whole").folder)) == 0


# --- models in memory


def test_models_in_memory_are_what_they_are_on_disk(
    tiny_clip_dir: Path, tuned_dir: Path, against: Callable[..., Comparison]
) -> None:
    """A Clip, a CLIPModel and the image half alone: the same tower, the same numbers."""
    expected = against(tuned_dir)
    for base, tuned in (
        (tiny_clip_dir, load(tuned_dir)),
        (load(tiny_clip_dir), outside.load_plain(tuned_dir)),
        (outside.load_plain(tiny_clip_dir), outside.load_plain(tuned_dir, CLIPVisionModelWithProjection)),
    ):
        found = against(tuned, base=base)
        assert worst(found, expected) < 1e-5  # eager attention and sdpa round differently
        assert found.tuned.kind == "in memory"
    assert found.base.name == "CLIPModel"
    assert found.tuned.name == found.tuned.library.split()[1] == "CLIPVisionModelWithProjection"


@pytest.mark.parametrize("kind", list(outside.ADAPTERS))
def test_a_peft_model_in_memory_is_its_folder(
    tiny_clip_dir: Path, adapters: Callable[[str], Adapter], against: Callable[..., Comparison], kind: str
) -> None:
    """As it stands in a training script, before anything was saved."""
    model = outside.peft_model(tiny_clip_dir, **outside.ADAPTERS[kind])
    assert worst(against(model), against(adapters(kind).folder)) < 1e-5


def test_base_that_peft_has_changed_is_told(tiny_clip_dir: Path, against: Callable[..., Comparison]) -> None:
    """The model kept as BASE is the adapted one after get_peft_model: all drifts are zero, so it is said."""
    kept = outside.load_plain(tiny_clip_dir)
    adapted = outside.adapt(kept)
    found = against(adapted, base=kept)
    assert moved(found) == pytest.approx(0, abs=1e-12)
    assert "one model in memory" in " ".join(found.notes)
    copied = outside.load_plain(tiny_clip_dir)
    assert "one model in memory" not in " ".join(against(copied).notes)


def test_a_wrapped_model_in_memory(tuned_dir: Path, against: Callable[..., Comparison]) -> None:
    """As data parallel training holds it."""
    model = outside.load_plain(tuned_dir)
    assert worst(against(torch.nn.DataParallel(model)), against(model)) == 0


# --- SigLIP


def test_siglip_is_read_through_its_pooling_head(
    siglip_dir: Path, tmp_path: Path, pixels: Tensor, pictures: Path
) -> None:
    """Folder, Clip and model in memory; the tables say whose attention it was, and have no class token's."""
    tuned = outside.tuned_copy(siglip_dir, tmp_path / "tuned", kind=SiglipModel)
    found = compare(siglip_dir, tuned, pixels, transfer=pictures)
    assert found.shape.reader == "pooling head"
    assert found.base.library == "transformers SiglipModel"
    assert "cls_self" not in found.measures
    assert "weight_drift_projection" not in found.measures
    assert len(found.measures["cka"].value_blocks) == 2
    assert found.measures["entropy"].before_blocks == ()
    assert {row.block for row in found.heads} == {1}
    assert moved(found) > 0.001
    assert worst(found, compare(load(siglip_dir), load(tuned), pixels, transfer=pictures)) < 1e-6
    assert "Attention of the pooling head" in found.summary()
    assert found.to_frame().query("measure == 'entropy'")["block"].isna().all()


def test_a_name_given_twice_is_one_model(tiny_clip_dir: Path, against: Callable[..., Comparison]) -> None:
    """The control of all: a model against itself has no drift anywhere, CKA 1, and says so."""
    found = against(tiny_clip_dir)
    for name, values in found.measures.items():
        if values.value is None:
            assert values.drift == 0, name
            assert set(values.drift_blocks) <= {0.0}, name
        elif name.startswith("cka"):
            assert values.value == pytest.approx(1, abs=1e-12), name
            assert all(v == pytest.approx(1, abs=1e-12) for v in values.value_blocks), name
        else:
            assert values.value == pytest.approx(0, abs=1e-12), name
    assert found.spectra == ()
    assert all(row.before == row.after for row in found.heads)
    assert found.notes[0] == "BASE and TUNED have the same weights in the image tower and the projection."
    assert found.summary().startswith("The image tower of TUNED is that of BASE")
