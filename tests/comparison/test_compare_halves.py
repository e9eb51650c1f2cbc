"""Half a model as TUNED: read as the whole that BASE's other parts make of it, and that is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from by_hand import readings
from outside import load_plain
from PIL import Image
from transformers import CLIPForImageClassification, SiglipModel

import half_models as half
from clipdrift.comparison import Comparison, read_comparison
from clipdrift.comparison.compare import compare
from clipdrift.comparison.pairs import open_pair
from clipdrift.comparison.verdict import verdict
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import load
from clipdrift.reporting.comparison import report

IMAGES: dict[str, Callable[[Any, Path], Path]] = {
    "bare": lambda whole, to: half.saved(half.image_tower(whole), to),
    "older": lambda whole, to: half.saved_by_older(half.image_tower(whole), to),
    "several files": lambda whole, to: half.saved_sharded(half.image_tower(whole), to),
    "classifier": lambda whole, to: half.saved(half.classifier(whole), to),
    "dual encoder": lambda whole, to: half.saved(half.dual_encoder(whole), to),
}
"""Image towers without a projection into CLIP's joint space, as they lie on the disk."""

ALL_BUT_PROJECTION = ["visual projection", "text tower", "logit scale"]


@pytest.fixture(scope="session")
def moved_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP with every weight changed."""
    place = tmp_path_factory.mktemp("moved") / "moved"
    return outside.tuned_copy(tiny_clip_dir, place, 0.2, texts=True)


@pytest.fixture(scope="session")
def expected(
    tiny_clip_dir: Path, moved_dir: Path, tmp_path_factory: pytest.TempPathFactory, pictures: Path
) -> Callable[..., Comparison]:
    """``expected("vision_model.", ...)``: the comparison with a whole model made by hand."""
    done: dict[str, Comparison] = {}

    def make(part: str, photos: list[Image.Image]) -> Comparison:
        if part not in done:
            place = tmp_path_factory.mktemp("whole")
            whole = half.whole_with(tiny_clip_dir, moved_dir, place / "made", part)
            done[part] = compare(
                load(tiny_clip_dir),
                load(whole),
                photos,
                transfer=f"colours={pictures}",
                cache=place / "cache",
            )
        return done[part]

    return make


def same_but(one: Comparison, other: Comparison, *left_out: str) -> None:
    """All numbers alike, but for those of parts that one of the two does not compare."""
    a, b = readings(one), readings(other)
    odd = {name for name in a.keys() ^ b.keys() if not any(part in name for part in left_out)}
    assert not odd
    for name in a.keys() & b.keys():
        assert a[name] == pytest.approx(b[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("layout", IMAGES)
def test_an_image_tower_is_compared_as_the_whole_it_makes_with_base(
    tiny_clip_dir: Path,
    moved_dir: Path,
    photos: list[Image.Image],
    pictures: Path,
    expected: Callable[..., Comparison],
    tmp_path: Path,
    layout: str,
) -> None:
    folder = IMAGES[layout](load_plain(moved_dir), tmp_path / "half")
    found = compare(tiny_clip_dir, folder, photos, transfer=f"colours={pictures}", cache=tmp_path / "cache")
    same_but(found, expected("vision_model.", photos), "weight_drift_projection")
    assert "weight_drift_projection" not in found.measures
    assert found.measures["weight_drift"].value > 0.1
    assert list(found.tuned.grafted) == ALL_BUT_PROJECTION
    assert found.text_tower is None
    assert found.tuned.kind == ("image classifier" if layout == "classifier" else "image tower")
    said = " ".join(verdict(found))
    assert "visual projection, text tower and logit scale are BASE's" in said
    assert "TUNED's image tower with BASE's projection and text tower" in said
    assert any(note.startswith("TUNED is an image") and "are BASE's" in note for note in found.notes)
    assert any("no preprocessing of its own" in note for note in found.notes)
    left = any("text tower, projections and logit scale" in note for note in found.notes)
    assert left == (layout == "dual encoder")


def test_a_projection_of_its_own_is_taken(
    tiny_clip_dir: Path,
    moved_dir: Path,
    photos: list[Image.Image],
    pictures: Path,
    expected: Callable[..., Comparison],
    tmp_path: Path,
) -> None:
    folder = half.saved(half.projected_image_tower(load_plain(moved_dir)), tmp_path / "half")
    found = compare(tiny_clip_dir, folder, photos, transfer=f"colours={pictures}", cache=tmp_path / "cache")
    same_but(found, expected("vis", photos))
    assert found.measures["weight_drift_projection"].value > 0.1
    assert found.tuned.grafted == ("text tower", "logit scale")
    assert "TUNED's image tower with BASE's text tower" in " ".join(verdict(found))


@pytest.mark.parametrize(
    ("make", "part", "grafted"),
    [
        (half.text_tower, "text_model.", ("image tower", "visual projection", "text projection")),
        (half.projected_text_tower, "text_", ("image tower", "visual projection")),
    ],
)
@pytest.mark.parametrize("save", [half.saved, half.saved_by_older])
def test_a_text_tower_is_compared_likewise(
    tiny_clip_dir: Path,
    moved_dir: Path,
    photos: list[Image.Image],
    pictures: Path,
    expected: Callable[..., Comparison],
    tmp_path: Path,
    make: Callable[[Any], Any],
    part: str,
    grafted: tuple[str, ...],
    save: Callable[[Any, Path], Path],
) -> None:
    """What is measured on images is BASE's on both sides, and said to be; no weight of it is compared."""
    folder = save(make(load_plain(moved_dir)), tmp_path / "half")
    found = compare(tiny_clip_dir, folder, photos, transfer=f"colours={pictures}", cache=tmp_path / "cache")
    same_but(
        found,
        expected(part, photos),
        *("crossed", "subsets", "measures.weight_drift", "text_weight_drift_projection"),
    )
    assert found.tuned.grafted == (*grafted, "logit scale")
    assert not any(row.family == "weights" for row in found.measures.values())
    assert found.measures["text_weight_drift"].value > 0.1
    assert ("text_weight_drift_projection" in found.measures) == (make is half.projected_text_tower)
    assert found.measures["entropy"].before == found.measures["entropy"].after
    assert found.transfer["colours"].crossed is None
    said = verdict(found)
    assert said[0].startswith("The image tower is BASE's own, since TUNED is a text tower alone")
    assert "zero-shot is that of BASE's image tower with TUNED's text tower" in said[1]
    assert not any(line.startswith("Attention of") for line in said)
    if make is half.text_tower and save is half.saved:  # figures take their time
        assert report(found, tmp_path / "out").is_file()


def test_siglip_halves(siglip_dir: Path, photos: list[Image.Image], pictures: Path, tmp_path: Path) -> None:
    """Without a projection there is none to lend; the text tower's last layer is its own."""
    moved = outside.tuned_copy(siglip_dir, tmp_path / "moved", 0.2, texts=True, kind=SiglipModel)
    for make, part in (
        (half.image_tower, "vision_model."),
        (half.classifier, "vision_model."),
        (half.text_tower, "text_model."),
    ):
        folder = half.saved(make(load_plain(moved, SiglipModel)), tmp_path / make.__name__)
        whole = half.whole_with(siglip_dir, moved, tmp_path / f"whole {make.__name__}", part, SiglipModel)
        options: dict[str, Any] = {
            "transfer": f"colours={pictures}",
            "cache": tmp_path / "cache",
            "spectrum": False,
            "flow": False,
        }
        found = compare(siglip_dir, folder, photos, **options)
        left_out = ("crossed", "subsets", "measures.weight_drift")
        same_but(found, compare(siglip_dir, whole, photos, **options), *left_out)
        assert "visual projection" not in found.tuned.grafted
        if part == "vision_model.":
            assert found.tuned.grafted == ("text tower", "logit scale")
        else:
            assert found.tuned.grafted == ("image tower", "logit scale")
            assert found.measures["text_weight_drift_projection"].value > 0.1


@pytest.mark.parametrize("make", [half.image_tower, half.classifier, half.text_tower])
def test_in_memory(
    tiny_clip_dir: Path, moved_dir: Path, pixels: torch.Tensor, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    """The same numbers as from files, BASE's tower written by nobody."""
    live = make(load_plain(moved_dir))
    folder = half.saved(live, tmp_path / "half")
    base = load(tiny_clip_dir)
    before = [{n: w.clone() for n, w in m.state_dict().items()} for m in (base.model, live)]
    options: dict[str, Any] = {"flow": False, "spectrum": False}
    found = compare(base, live, pixels, **options)
    same_but(found, compare(tiny_clip_dir, folder, pixels, **options))
    assert found.tuned.kind == "in memory"
    assert found.tuned.grafted
    for model, weights in zip((base.model, live), before, strict=True):
        assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())


def test_the_record_and_the_page_name_what_is_grafted(
    tiny_clip_dir: Path, moved_dir: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    folder = half.saved(half.image_tower(load_plain(moved_dir)), tmp_path / "half")
    found = compare(tiny_clip_dir, folder, pixels)
    page = report(found, tmp_path / "out").read_text()
    assert read_comparison(tmp_path / "out").tuned.grafted == tuple(ALL_BUT_PROJECTION)
    assert "visual projection, text tower, logit scale" in page  # beside the models
    assert "visual projection, text tower and logit scale are BASE&#39;s" in page  # in the verdict
    assert found.tuned.parameters < found.base.parameters
    assert found.tuned.fingerprint is not None


def test_the_same_tower_is_found_to_be_the_same(
    tiny_clip_dir: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    folder = half.saved(half.image_tower(load_plain(tiny_clip_dir)), tmp_path / "half")
    found = compare(tiny_clip_dir, folder, pixels)
    assert found.measures["weight_drift"].value == 0
    assert "BASE and TUNED have the same weights in the image tower." in found.notes


def test_what_the_classifier_brings_is_read_without_its_head(
    tiny_clip_dir: Path, moved_dir: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    folder = half.saved(half.classifier(load_plain(moved_dir)), tmp_path / "half")
    assert isinstance(CLIPForImageClassification.from_pretrained(folder), CLIPForImageClassification)
    found = compare(tiny_clip_dir, folder, pixels)
    assert any("head of 3 classes was not tested" in note for note in found.notes)
    assert any("classifies by the mean of the patches" in note for note in found.notes)
    assert found.head is None


def test_from_the_hubs_cache(
    tiny_clip_dir: Path,
    moved_dir: Path,
    pixels: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its id without network: two files, neither tokenizer nor preprocessing, as such models lie there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, make in (("lab/tiny_task", half.image_tower), ("lab/tiny_texts", half.text_tower)):
        folder = half.saved_by_older(make(load_plain(moved_dir)), tmp_path / name)
        outside.in_hub_cache(tmp_path / "hub", name, folder)
        options: dict[str, Any] = {"flow": False, "spectrum": False}
        found = compare(tiny_clip_dir, name, pixels, **options)
        same_but(found, compare(tiny_clip_dir, folder, pixels, **options))
        assert found.tuned.name == name
        assert any("of its own among its files here; BASE's is used" in note for note in found.notes)


def test_a_text_tower_brings_its_tokenizer(
    tiny_clip_dir: Path, moved_dir: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """One that belongs to another text tower is refused."""
    folder = half.saved(half.text_tower(load_plain(moved_dir)), tmp_path / "half")
    base = load(tiny_clip_dir)
    base.tokenizer.save_pretrained(folder)
    found = compare(tiny_clip_dir, folder, pixels, flow=False, spectrum=False)
    assert not any("no tokenizer of its own" in note for note in found.notes)
    base.tokenizer.add_tokens([f"word{i}" for i in range(40)])
    base.tokenizer.save_pretrained(folder)
    with pytest.raises(ClipdriftError, match="they are of different models"):
        compare(tiny_clip_dir, folder, pixels, flow=False, spectrum=False)


def test_adapters_in_half_a_model_in_memory(tiny_clip_dir: Path, pixels: torch.Tensor) -> None:
    """As they act: peft's own merge of the same tower gives the same numbers."""
    plain = half.classifier(load_plain(tiny_clip_dir))
    model = outside.adapt(plain, ["q_proj", "v_proj"], modules_to_save=["classifier"])
    merged = copy.deepcopy(model).merge_and_unload()
    options: dict[str, Any] = {"flow": False, "spectrum": False}
    found = compare(tiny_clip_dir, model, pixels, **options)
    same_but(found, compare(tiny_clip_dir, merged, pixels, **options))
    assert found.measures["weight_drift_q"].value > 0
    assert found.measures["weight_drift_k"].value == 0


def test_weights_are_not_rounded_to_bases_precision(
    tiny_clip_dir: Path, moved_dir: Path, pixels: torch.Tensor
) -> None:
    base, tuned = load(tiny_clip_dir), half.image_tower(load_plain(moved_dir))
    base.model.half()
    found = open_pair(base, tuned)
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(found.after[name], tuned.state_dict()[name.removeprefix("vision_model.")])
    assert found.before[name].dtype == torch.float16
    assert compare(base, tuned, pixels, spectrum=False, flow=False).measures["weight_drift"].value > 0.1
