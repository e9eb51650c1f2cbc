"""Zero-shot ability and retrieval, before and after, against plain transformers and a hand computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from by_hand import Array, worst
from outside import load_plain
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModelWithProjection,
    SiglipModel,
)

from clipdrift.comparison import Comparison
from clipdrift.comparison.models import PairError
from clipdrift.config import ConfigError, DataSet
from clipdrift.data.errors import DataError
from clipdrift.model.clip import Clip
from small_runs import CLASSES, picture

PROMPTS = ("a photo of a {}", "a bad photo of a {}", "three {} circles on plain ground")
CAPTIONS = (
    "two small red circles on a striped ground",
    "one large green square",
    "a photo of three big blue hexagons",
    "plain ground",
    "green hexagons and a red square",
    "circles",
    "large blue squares on a photo",
    "one two three",
    "a striped square",
    "small hexagons",
    "big red ground",
    "a green photo",
)


@pytest.fixture(scope="module")
def other_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changed in both towers, and far enough that predictions change."""
    return outside.tuned_copy(
        tiny_clip_dir, tmp_path_factory.mktemp("other") / "other", amount=0.8, seed=2, texts=True
    )


def unit(x: torch.Tensor) -> Array:
    values = x.detach().double().numpy()
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@torch.no_grad()
def text_features(model: Any, folder: Path, texts: list[str]) -> Array:
    """(n, E) unit features by the model's own tokenizer, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = {"padding": "max_length", "max_length": 32} if isinstance(model, SiglipModel) else {}
    found = [
        model.get_text_features(
            input_ids=tokenizer([t], return_tensors="pt", **length)["input_ids"]
        ).pooler_output
        for t in texts
    ]
    return unit(torch.cat(found))


@torch.no_grad()
def image_features(model: Any, folder: Path, images: list[Image.Image]) -> Array:
    inputs = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    return unit(model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output)


def logits(folder: Path, images: list[Image.Image], texts: list[str]) -> Array:
    model = load_plain(folder)
    scale = float(model.logit_scale.detach().exp())
    return scale * image_features(model, folder, images) @ text_features(model, folder, texts).T


def percent(scores: Array, labels: list[int]) -> float:
    return 100 * float((scores.argmax(-1) == np.array(labels)).mean())


def squares(seed: int) -> Image.Image:
    """Sixteen squares of any colours: unlike enough for a random model to tell them apart."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
    return Image.fromarray(np.kron(colours, np.ones((4, 4, 1))).astype(np.uint8))


@pytest.fixture(scope="module")
def tests() -> tuple[list[Image.Image], list[int]]:
    """The pictures of the transfer set's test split and their classes."""
    return [squares(i) for i in range(27)], [i // 9 for i in range(27)]


@pytest.fixture(scope="module")
def pictures(tests: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder; in this file in place of everybody's."""
    root = tmp_path_factory.mktemp("squares") / "colours"
    for i, (image, label) in enumerate(zip(*tests, strict=True)):
        place = root / "test" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"im{i:02}.png")
    return root


# --- zero-shot


def test_transfer_by_plain_transformers(
    tiny_clip_dir: Path,
    other_dir: Path,
    pictures: Path,
    beside: Callable[..., Comparison],
    tests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accuracies, retention, agreement, KL, one prompt: each side's own image and text tower."""
    images, labels = tests
    texts = [PROMPTS[0].format(name) for name in CLASSES]
    before, after = (logits(folder, images, texts) for folder in (other_dir, tiny_clip_dir))
    monkeypatch.setattr("clipdrift.outcomes.chance.LEVEL", 1.1)  # a random CLIP is hardly above chance
    found = beside(tiny_clip_dir, base=other_dir, transfer=f"colours={pictures}")
    row = found.transfer["colours"]
    assert (row.images, row.classes, row.prompts) == (27, 3, PROMPTS[:1])
    assert row.chance == pytest.approx(100 / 3)
    assert row.before == pytest.approx(percent(before, labels))
    assert row.after == pytest.approx(percent(after, labels))
    assert row.retention == pytest.approx(100 * row.after / row.before)
    same = before.argmax(-1) == after.argmax(-1)
    assert row.agreement == pytest.approx(same.mean())
    assert 0.2 < row.agreement < 0.9
    assert row.before != row.after
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (before, after))
    assert row.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert (row.ensemble_before, row.ensemble_after) == (None, None)
    old, new = (load_plain(folder) for folder in (other_dir, tiny_clip_dir))
    crossed = {
        "tuned_image": image_features(new, tiny_clip_dir, images) @ text_features(old, other_dir, texts).T,
        "tuned_text": image_features(old, other_dir, images) @ text_features(new, tiny_clip_dir, texts).T,
    }
    assert row.crossed is not None
    for name, similarity in crossed.items():
        assert getattr(row.crossed, name) == pytest.approx(percent(similarity, labels)), name
    assert "The text towers differ as well: each side was tested with its own texts." in found.notes


def test_an_ensemble_of_prompts_stands_beside_the_first(
    tiny_clip_dir: Path, other_dir: Path, pictures: Path, beside: Callable[..., Comparison], tests: Any
) -> None:
    """Mean of the unit features of each class, made unit again; the leading number keeps one prompt."""
    images, labels = tests
    data = {"name": "colours", "path": str(pictures), "prompts": PROMPTS}
    row = beside(other_dir, transfer=DataSet.model_validate(data)).transfer["colours"]
    assert row.prompts == PROMPTS
    for folder, first, ensemble in (
        (tiny_clip_dir, row.before, row.ensemble_before),
        (other_dir, row.after, row.ensemble_after),
    ):
        model = load_plain(folder)
        seen = image_features(model, folder, images)
        texts = [[p.format(name) for p in PROMPTS] for name in CLASSES]
        features = np.stack([text_features(model, folder, several).mean(0) for several in texts])
        assert ensemble == pytest.approx(
            percent(seen @ features.T / np.linalg.norm(features, axis=-1), labels)
        )
        assert first == pytest.approx(percent(logits(folder, images, [t[0] for t in texts]), labels))


def test_several_sets_have_a_mean(beside: Callable[..., Comparison], tuned_dir: Path, pictures: Path) -> None:
    """Accuracy over sets stands among the measures, with its drift."""
    sets = [pictures, {"name": "again", "path": str(pictures), "per_class": 4}]
    found = beside(tuned_dir, transfer=sets)
    assert [(name, row.images) for name, row in found.transfer.items()] == [("colours", 27), ("again", 12)]
    mean = found.measures["zero_shot_accuracy"]
    rows = list(found.transfer.values())
    assert mean.before == pytest.approx(np.mean([row.before for row in rows]))
    assert mean.after == pytest.approx(np.mean([row.after for row in rows]))
    assert "zero_shot_accuracy" not in beside(tuned_dir).measures


def test_a_set_is_named_in_any_way(
    beside: Callable[..., Comparison], tuned_dir: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder as text, as a path, from here, with a name of its own, as plain data, as a DataSet."""
    monkeypatch.chdir(pictures.parent)
    wanted = {"name": "colours", "path": str(pictures)}
    ways = [str(pictures), pictures, "colours", "./colours", f"colours={pictures}", [wanted]]
    found = [beside(tuned_dir, transfer=way).transfer for way in (*ways, DataSet.model_validate(wanted))]
    assert all(one == found[0] for one in found)
    assert set(found[0]) == {"colours"}


@pytest.mark.parametrize(
    ("transfer", "kind", "said"),
    [
        ("objects-10", DataError, r"no data set is called 'objects-10'; near: objects-100"),
        ("/no/such", DataError, r"/no/such: no such folder \(data set 'such'\)"),
        ("mine=/no/such", DataError, r"/no/such: no such folder \(data set 'mine'\)"),
        (["objects-100", "objects-100"], PairError, r"transfer names 'objects-100' twice"),
        ({"name": "x", "prompt": ["a {}"]}, ConfigError, r"prompt"),
        ({"name": "x", "prompts": ["a photo"]}, ConfigError, r"must contain \{\} exactly once"),
    ],
)
def test_a_set_that_is_not_there(
    beside: Callable[..., Comparison], tuned_dir: Path, transfer: Any, kind: Any, said: str
) -> None:
    """One line: the name, and what is near."""
    with pytest.raises(kind, match=said):
        beside(tuned_dir, transfer=transfer)


# --- whose texts


def test_a_model_in_memory_speaks_with_its_own_text_tower(
    tiny_clip_dir: Path,
    other_dir: Path,
    pictures: Path,
    beside: Callable[..., Comparison],
    clip_of: Callable[[Path], Clip],
) -> None:
    """It has no tokenizer, the other side's serves; which side has it does not matter."""
    expected = beside(other_dir, transfer=pictures)
    clips = clip_of(tiny_clip_dir), clip_of(other_dir)
    plain = load_plain(tiny_clip_dir), load_plain(other_dir)
    for base, tuned in ((clips[0], plain[1]), (plain[0], clips[1])):
        found = beside(tuned, base=base, transfer=pictures)
        assert worst(found, expected) < 1e-5
        assert "The text towers differ as well: each side was tested with its own texts." in found.notes


def test_the_image_half_alone_is_tested_with_the_others_texts(
    tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, beside: Callable[..., Comparison]
) -> None:
    """And it is said whose they were."""
    half = load_plain(tuned_dir, CLIPVisionModelWithProjection)
    found = beside(half, base=tiny_clip_dir, transfer=pictures)
    assert worst(found, beside(tuned_dir, transfer=pictures)) < 1e-5
    assert "TUNED has no text tower that is known here: tiny's was used for both." in found.notes
    assert not [note for note in beside(tuned_dir, transfer=pictures).notes if "text tower" in note]


def test_without_any_tokenizer_it_is_refused(
    tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, beside: Callable[..., Comparison]
) -> None:
    """Before anything is read."""
    stages: list[str] = []

    class Told:
        def stage(self, text: str) -> None:
            stages.append(text)

        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    with pytest.raises(PairError, match=r"zero-shot needs a tokenizer: give BASE by name, by folder or as a"):
        beside(load_plain(tuned_dir), base=load_plain(tiny_clip_dir), transfer=pictures, reporter=Told())
    assert stages == ["loading both models"]


def test_siglip_by_plain_transformers(
    siglip_dir: Path, pictures: Path, beside: Callable[..., Comparison], tests: Any, tmp_path: Path
) -> None:
    """Texts filled up to full length, as it was trained."""
    tuned = outside.tuned_copy(siglip_dir, tmp_path / "tuned", amount=0.6, kind=SiglipModel)
    row = beside(tuned, base=siglip_dir, transfer=pictures).transfer["colours"]
    texts = [PROMPTS[0].format(name) for name in CLASSES]
    pixels = torch.stack(
        [torch.from_numpy(np.asarray(i).copy()).permute(2, 0, 1).float() / 255 for i in tests[0]]
    )
    for folder, accuracy in ((siglip_dir, row.before), (tuned, row.after)):
        model = load_plain(folder, SiglipModel)
        with torch.no_grad():
            seen = unit(model.get_image_features(pixel_values=(pixels - 0.5) / 0.5).pooler_output)
        assert accuracy == pytest.approx(percent(seen @ text_features(model, folder, texts).T, tests[1]))


# --- retrieval


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Eight pictures in a flat folder, without captions yet."""
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(8):
        picture(i % 3, 50 + i).save(folder / f"im{i}.png")
    return folder


OWNERS = (0, 0, 1, 2, 2, 2, 4, 5, 6, 6, 7, 7)
"""Which picture each caption belongs to; number 3 has none."""


def caption_rows() -> list[dict[str, str]]:
    return [
        {"file_name": f"im{owner}.png", "text": text} for owner, text in zip(OWNERS, CAPTIONS, strict=True)
    ]


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text)


def write_csv(folder: Path, rows: list[dict[str, str]], column: str = "text") -> None:
    lines = [f"file_name,{column}", *(f'{row["file_name"]},"{row["text"]}"' for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def recall(similarity: Array, right: np.ndarray, k: int) -> float:
    """Share of rows with a right column among their k largest."""
    top = np.argsort(-similarity, axis=1)[:, :k]
    return float(np.mean([right[i, row].any() for i, row in enumerate(top)]))


def test_retrieval_by_hand(
    tiny_clip_dir: Path, other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """Recall at k both ways, several captions an image, images without captions left out."""
    rows = [*caption_rows(), {"file_name": "gone.png", "text": "of no picture"}]
    write_jsonl(album, [rows[-1], *rows[:-1]])
    found = beside(other_dir, images=album).retrieval
    assert found is not None
    assert (found.images, found.captions) == (7, 12)
    pictured = sorted(set(OWNERS))
    images = [Image.open(album / f"im{i}.png") for i in pictured]
    right = np.array([[owner == i for owner in OWNERS] for i in pictured])
    for folder, to_text, to_image in (
        (tiny_clip_dir, found.image_to_text_before, found.text_to_image_before),
        (other_dir, found.image_to_text_after, found.text_to_image_after),
    ):
        model = load_plain(folder)
        similarity = image_features(model, folder, images) @ text_features(model, folder, list(CAPTIONS)).T  # type: ignore[arg-type]
        assert to_text == pytest.approx({k: recall(similarity, right, k) for k in (1, 5, 10)})
        # of seven images there are no ten
        assert to_image == pytest.approx({k: recall(similarity.T, right.T, k) for k in (1, 5)})
    assert found.image_to_text_before != found.image_to_text_after
    sides = [(load_plain(folder), folder) for folder in (tiny_clip_dir, other_dir)]
    pictures = [image_features(*side, images) for side in sides]  # type: ignore[arg-type]
    words = [text_features(*side, list(CAPTIONS)) for side in sides]
    for side in (0, 1):
        similarity = pictures[side] @ words[side].T
        for ranks, table, fit in (
            (found.image_to_text_rank, similarity, right), (found.text_to_image_rank, similarity.T, right.T),
        ):  # fmt: skip
            best = [1 + int((row[~own] >= row[own].max()).sum()) for row, own in zip(table, fit, strict=True)]
            assert ranks is not None
            assert ranks[side] == np.median(best)
        space = (found.space_before, found.space_after)[side]
        assert space is not None
        gap = np.linalg.norm(pictures[side].mean(0) - words[side].mean(0))
        assert space.modality_gap == pytest.approx(gap, rel=1e-4)
        pairs = pictures[side][[pictured.index(owner) for owner in OWNERS]] - words[side]
        assert space.alignment == pytest.approx((pairs**2).sum(1).mean(), rel=1e-4)
        assert space.logit_scale == pytest.approx(float(sides[side][0].logit_scale.detach().exp()))
    for name, similarity in (
        ("tuned_image", pictures[1] @ words[0].T),
        ("tuned_text", pictures[0] @ words[1].T),
    ):
        to_text = {k: getattr(one, name) for k, one in found.image_to_text_crossed.items()}
        to_image = {k: getattr(one, name) for k, one in found.text_to_image_crossed.items()}
        assert to_text == pytest.approx({k: recall(similarity, right, k) for k in (1, 5, 10)})
        assert to_image == pytest.approx({k: recall(similarity.T, right.T, k) for k in (1, 5)})


def test_a_caption_of_several_images_is_right_for_each(
    other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """Nothing tells equal captions apart, so no model can be asked to."""
    write_jsonl(album, [row | {"text": "a dog"} for row in caption_rows()])
    found = beside(other_dir, images=album).retrieval
    assert found is not None
    for recall_at in (found.image_to_text_before, found.text_to_image_before, found.image_to_text_after):
        assert set(recall_at.values()) == {1.0}


def test_nothing_is_crossed_where_only_the_images_have_changed(
    tiny_clip_dir: Path, pictures: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """The same texts on both sides: whose change it is goes without saying."""
    tuned = load_plain(tiny_clip_dir)
    with torch.no_grad():
        for weight in tuned.vision_model.encoder.parameters():
            weight.mul_(1.05)
    write_jsonl(album, caption_rows())
    found = beside(tuned, images=album, transfer=f"colours={pictures}")
    assert found.transfer["colours"].crossed is None
    assert found.retrieval is not None
    assert found.retrieval.image_to_text_crossed == {}


def test_captions_in_a_table(
    tiny_clip_dir: Path, other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """metadata.csv, with either name of the column, is what metadata.jsonl is."""
    found = []
    for write in (write_jsonl, write_csv, lambda f, r: write_csv(f, r, "caption")):
        write(album, caption_rows())
        found.append(beside(other_dir, images=album).retrieval)
        for file in album.glob("metadata.*"):
            file.unlink()
    assert found[0] is not None
    assert found[0] == found[1] == found[2]


def test_captions_that_look_like_nothing_are_captions(
    tiny_clip_dir: Path, other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """A table's reader takes "NA" for a gap and "12" for a number."""
    texts = ["NA", "None", "12", "null", "a square", " "]
    rows = [{"file_name": f"im{i}.png", "text": text} for i, text in enumerate(texts)]
    write_csv(album, rows)
    found = beside(other_dir, images=album).retrieval
    assert found is not None
    assert (found.images, found.captions) == (5, 5)  # the blank one is none


def test_captions_follow_the_pictures_that_were_chosen(
    tiny_clip_dir: Path, other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """Of a limited or partly unreadable folder, by file name and not by position."""
    write_jsonl(album, caption_rows())
    (album / "im1.png").write_bytes(b"no picture")
    options = {"skip_bad": True}
    found = beside(other_dir, images=album, **options)
    assert found.retrieval is not None
    assert (found.retrieval.images, found.retrieval.captions) == (6, 11)
    assert [Path(where).name for where, _ in found.images.bad] == ["im1.png"]
    few = beside(other_dir, images=album, limit=4, seed=2, **options)
    assert few.retrieval is not None
    assert few.retrieval.images <= 4
    assert few.retrieval.captions < 11


def test_a_broken_table_is_an_error_and_another_table_is_none(
    tiny_clip_dir: Path, other_dir: Path, album: Path, beside: Callable[..., Comparison]
) -> None:
    """What was meant as captions must not be lost in silence; other metadata are nobody's business."""
    file = album / "metadata.jsonl"
    file.write_text('{"file_name": "im0.png", "text": \n')
    with pytest.raises(DataError, match=r"metadata\.jsonl line 1: not JSON"):
        beside(other_dir, images=album)
    write_jsonl(album, [{"file_name": "im0.png", "width": 3}])
    assert beside(other_dir, images=album).retrieval is None
