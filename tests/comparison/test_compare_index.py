"""What an index remembers, against plain transformers, scikit-learn and SciPy, and known answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from outside import load_plain
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import NearestNeighbors
from transformers import AutoTokenizer, CLIPImageProcessorPil

import half_models
from clipdrift.comparison import Comparison, read_comparison
from clipdrift.comparison.index_facts import IndexMemory
from clipdrift.comparison.index_words import index_lines
from clipdrift.comparison.indexing import index_memory
from clipdrift.data.errors import DataError
from clipdrift.formulas.maps import PENALTIES
from clipdrift.pages.compare import write_page
from commands import Say, fails, runner

CLASSES = ("blue", "green", "red")
Array = Any


def squares(seed: int) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
    return Image.fromarray(np.kron(colours, np.ones((4, 4, 1))).astype(np.uint8))


def write(folder: Path, seeds: range, captions: bool = False) -> Path:
    """A picture for each seed, of three classes in turn; or without classes and with captions."""
    rows = []
    for seed in seeds:
        place = folder if captions else folder / CLASSES[seed % 3]
        place.mkdir(parents=True, exist_ok=True)
        squares(seed).save(place / f"im{seed:03}.png")
        rows.append({"file_name": f"im{seed:03}.png", "text": caption(seed)})
    if captions:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def caption(seed: int) -> str:
    return f"{CLASSES[seed % 3]} squares number {seed // 2} of a photo"


@torch.no_grad()
def embedded(folder: Path, seeds: list[int]) -> Array:
    model = load_plain(folder)
    pictures = CLIPImageProcessorPil.from_pretrained(folder)([squares(s) for s in seeds], return_tensors="pt")
    found = model.get_image_features(pixel_values=pictures["pixel_values"]).pooler_output.double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@torch.no_grad()
def read(folder: Path, texts: list[str]) -> Array:
    model, tokenizer = load_plain(folder), AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer([text], return_tensors="pt")["input_ids"] for text in texts]
    found = [model.get_text_features(input_ids=one).pooler_output for one in tokens]
    return torch.cat(found).double().numpy()


@pytest.fixture(scope="module")
def far_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changed in both towers, far enough that other images are found."""
    place = tmp_path_factory.mktemp("far") / "far"
    return outside.tuned_copy(tiny_clip_dir, place, amount=0.3, seed=2, texts=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sixty images of an index, and twelve others."""
    root = tmp_path_factory.mktemp("index")
    return write(root / "gallery", range(60)), write(root / "queries", range(100, 112))


@pytest.fixture(scope="module")
def remembered(tiny_clip_dir: Path, far_dir: Path, folders: tuple[Path, Path]) -> IndexMemory:
    return index_memory(tiny_clip_dir, far_dir, folders[0], queries=folders[1])


def by_class(seeds: range) -> list[int]:
    """Seeds in the order in which a folder of classes is read."""
    return sorted(seeds, key=lambda seed: (CLASSES[seed % 3], seed))


def nearest(queries: Array, gallery: Array, k: int) -> Array:
    return NearestNeighbors(metric="cosine").fit(gallery).kneighbors(queries, k, return_distance=False)


def test_every_search_by_scikit_learn(tiny_clip_dir: Path, far_dir: Path, remembered: IndexMemory) -> None:
    """Neighbours in common, the order of all, right classes, for all ways; what the maps win back."""
    shown, asked = by_class(range(60)), by_class(range(100, 112))
    (old_g, new_g), (old_q, new_q) = (
        tuple(embedded(folder, seeds) for folder in (tiny_clip_dir, far_dir)) for seeds in (shown, asked)
    )
    scale = (new_g**2).sum() / new_g.shape[1]
    ridge = RidgeCV(alphas=[scale * one for one in PENALTIES], fit_intercept=False).fit(new_g, old_g)
    ways = {
        "today": (old_q, old_g),
        "kept_index": (new_q, old_g),
        "ridge": (ridge.predict(new_q), old_g),
        "rotation": (new_q @ orthogonal_procrustes(new_g, old_g)[0], old_g),
        "new_index": (new_q, new_g),
    }
    found = remembered.by_image
    assert list(found.searches) == list(ways)
    assert (found.count, found.gallery, found.truth, found.judged) == (12, 60, "classes", 12)
    classes = np.array([seed % 3 for seed in shown])
    right = classes[None, :] == np.array([seed % 3 for seed in asked])[:, None]
    unit = {name: q / np.linalg.norm(q, axis=1, keepdims=True) for name, (q, _) in ways.items()}
    cosines = {name: unit[name] @ gallery.T for name, (_, gallery) in ways.items()}
    for name, (queries, gallery) in ways.items():
        search = found.searches[name]
        for k in (1, 5, 10):
            one, other = nearest(*ways["today"], k), nearest(queries, gallery, k)
            share = np.mean([len(set(a) & set(b)) / k for a, b in zip(one, other, strict=True)])
            assert search.overlap[k].value == pytest.approx(share), (name, k)
            hits = np.take_along_axis(right, other, 1)
            assert search.recall[k].value == pytest.approx(hits.any(1).mean()), (name, k)
            assert search.precision[k].value == pytest.approx(hits.mean()), (name, k)
        taus = [kendalltau(*pair).statistic for pair in zip(cosines["today"], cosines[name], strict=True)]
        assert search.rank_agreement.value == pytest.approx(np.mean(taus), abs=1e-4), name
    kept = found.searches["kept_index"].overlap[10]
    assert kept.value < 0.8
    assert kept.low is not None
    assert kept.high is not None
    assert kept.low < kept.value < kept.high
    for name in ("ridge", "rotation"):
        won = found.won_back[name]["overlap@10"]
        assert won is not None
        gain = found.searches[name].overlap[10].value - kept.value
        assert won.value == pytest.approx(100 * gain / (1 - kept.value))
        assert remembered.maps[name].images == 60
    cosine = remembered.cosine
    assert cosine is not None
    assert cosine.value == pytest.approx((old_q * new_q).sum(1).mean(), abs=1e-5)


def test_captions_as_queries(tiny_clip_dir: Path, far_dir: Path, tmp_path: Path) -> None:
    """Each side's own text tower; the held-out images join the index; equal captions are right together."""
    gallery, queries = write(tmp_path / "a", range(40), True), write(tmp_path / "b", range(40, 52), True)
    found = index_memory(tiny_clip_dir, far_dir, gallery, queries=queries)
    assert found.by_image.truth is None
    assert not found.by_image.searches["today"].recall
    texts = found.by_text
    assert texts is not None
    assert (texts.count, texts.gallery, texts.truth, texts.judged) == (12, 52, "captions", 12)
    seeds, asked = list(range(52)), [caption(seed) for seed in range(40, 52)]
    right = np.array([[caption(seed) == text for seed in seeds] for text in asked])
    sides = {"old": tiny_clip_dir, "new": far_dir}
    images = {name: embedded(folder, seeds) for name, folder in sides.items()}
    words = {name: read(folder, asked) for name, folder in sides.items()}
    ways = {"today": ("old", "old"), "kept_index": ("new", "old"), "new_index": ("new", "new")}
    for name, (text, image) in ways.items():
        for k in (1, 5, 10):
            hits = np.take_along_axis(right, nearest(words[text], images[image], k), 1).any(1)
            assert texts.searches[name].recall[k].value == pytest.approx(hits.mean()), (name, k)
    assert not texts.searches["today"].precision
    assert [row for row in index_lines(found) if "captions" in row]


def turned(folder: Path, to: Path) -> Path:
    """The model with its joint space turned: nothing else changes."""
    shutil.copytree(folder, to)
    model = load_plain(folder)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(5))).Q
    with torch.no_grad():
        for projection in (model.visual_projection, model.text_projection):
            projection.weight.copy_(turn @ projection.weight)
    model.save_pretrained(to)
    return to


def test_what_only_turned_is_won_back_whole(
    tiny_clip_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """A turn of the space breaks the index, and re-embedding or either map mends all of it."""
    found = index_memory(tiny_clip_dir, turned(tiny_clip_dir, tmp_path / "turned"), folders[0])
    searches = found.by_image.searches
    assert searches["kept_index"].overlap[10].value < 0.5
    assert abs(searches["kept_index"].rank_agreement.value) < 0.5
    for name in ("ridge", "rotation", "new_index"):
        assert searches[name].overlap[10].value > 0.99
    won = found.by_image.won_back["rotation"]["overlap@10"]
    assert won is not None
    assert won.value == pytest.approx(100, abs=1)
    assert found.maps["rotation"].cosine is not None
    assert found.maps["rotation"].cosine.value == pytest.approx(1, abs=1e-4)


def test_the_same_model_loses_nothing(tiny_clip_dir: Path, folders: tuple[Path, Path]) -> None:
    """All is found, so nothing can be won back, and there is no interval where no query differs."""
    found = index_memory(tiny_clip_dir, tiny_clip_dir, folders[0])
    kept = found.by_image.searches["kept_index"].overlap[10]
    assert (kept.value, kept.low, kept.high) == (1, None, None)
    assert set(found.by_image.won_back["ridge"].values()) == {None}
    assert "TUNED finds 10.0 of the 10 that BASE finds" in index_lines(found)[0]
    assert "wins" not in index_lines(found)[0]


def test_queries_are_held_out_balanced_and_by_seed(
    tiny_clip_dir: Path, far_dir: Path, folders: tuple[Path, Path]
) -> None:
    found = [index_memory(tiny_clip_dir, far_dir, folders[0], seed=seed) for seed in (0, 0, 1)]
    assert (found[0].images, found[0].by_image.count, found[0].classes) == (48, 12, 3)
    assert found[0] == found[1] != found[2]
    few = index_memory(tiny_clip_dir, far_dir, folders[0], limit=30)
    assert (few.images, few.by_image.count) == (24, 6)
    assert few.queries_from == few.source == str(folders[0])


def test_copies_are_noted_and_none_of_a_query_teaches_a_map(
    tiny_clip_dir: Path, far_dir: Path, tmp_path: Path
) -> None:
    gallery, queries = write(tmp_path / "a", range(40)), write(tmp_path / "b", range(36, 44))
    shutil.copy(gallery / "red" / "im002.png", gallery / "red" / "im902.png")
    found = index_memory(tiny_clip_dir, far_dir, gallery, queries=queries)
    assert (found.images, found.copies, found.queries_in_index) == (41, 1, 4)
    assert {fitted.images for fitted in found.maps.values()} == {41 - 4}
    assert found.notes == (
        "Exact copies of other images in the index: 1. Which of the same images a search names is left to "
        "their order.",
        "Image queries that are in the index too, pixel for pixel: 4. No map was fitted on those.",
    )


def test_queries_of_classes_that_the_index_lacks_are_not_judged(
    tiny_clip_dir: Path, far_dir: Path, tmp_path: Path
) -> None:
    """Recall is that of the others, and their number is said."""
    gallery = write(tmp_path / "a", range(40))
    shutil.rmtree(gallery / "red")
    queries = write(tmp_path / "b", range(100, 112))
    found = index_memory(tiny_clip_dir, far_dir, gallery, queries=queries)
    assert (found.by_image.count, found.by_image.judged) == (12, 8)
    assert "Image queries without an image of their class in the index: 4 of 12." in found.notes[-1]
    asked = [seed for seed in range(100, 112) if seed % 3 != 2]
    shown = [seed for seed in by_class(range(40)) if seed % 3 != 2]
    first = nearest(embedded(tiny_clip_dir, asked), embedded(tiny_clip_dir, shown), 1)[:, 0]
    hits = [shown[place] % 3 == seed % 3 for seed, place in zip(asked, first, strict=True)]
    assert found.by_image.searches["today"].recall[1].value == pytest.approx(np.mean(hits))


def test_too_few_images_give_no_map_and_say_why(
    tiny_clip_dir: Path, far_dir: Path, folders: tuple[Path, Path]
) -> None:
    found = index_memory(tiny_clip_dir, far_dir, folders[0], limit=24)
    why = "20 images for embeddings of width 24; as many images are needed at least"
    assert {fitted.refused for fitted in found.maps.values()} == {why}
    assert list(found.by_image.searches) == ["today", "kept_index", "new_index"]
    assert index_lines(found)[0].endswith(f"no linear map was fitted: {why}.")
    with pytest.raises(DataError, match="8 images for the index and 4 queries; 10 and 4 are needed"):
        index_memory(tiny_clip_dir, far_dir, folders[0], limit=12)


@pytest.fixture(scope="module")
def narrow_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP with a joint space of 16 in place of 24 dimensions."""
    place = tmp_path_factory.mktemp("narrow") / "narrow"
    shutil.copytree(tiny_clip_dir, place)
    model = load_plain(tiny_clip_dir)
    model.config.projection_dim = 16
    for tower in ("visual", "text"):
        kept = getattr(model, f"{tower}_projection")
        kept.weight = torch.nn.Parameter(kept.weight[:16].detach().clone())
    model.save_pretrained(place)
    return place


def test_widths_that_differ_need_a_map(
    tiny_clip_dir: Path, narrow_dir: Path, folders: tuple[Path, Path]
) -> None:
    """Neither a direct search nor a rotation, and a linear map from one width into the other."""
    found = index_memory(tiny_clip_dir, narrow_dir, folders[0])
    assert (found.widths, found.direct, found.cosine) == ((24, 16), False, None)
    assert list(found.by_image.searches) == ["today", "ridge", "new_index"]
    assert found.maps["rotation"].refused == "a rotation keeps the width, and these are 16 and 24"
    assert found.by_image.searches["ridge"].rank_agreement.value > 0.5
    assert not found.by_image.won_back
    said = index_lines(found)[0]
    assert "TUNED's embeddings are 16 wide and BASE's 24, so TUNED cannot search it as it is" in said
    assert "through a linear map fitted on 48 images of the index it finds" in said


# --- in a comparison, and the command


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("COLUMNS", "300")
    return runner(capsys)


def test_in_a_comparison(
    tiny_clip_dir: Path,
    far_dir: Path,
    folders: tuple[Path, Path],
    remembered: IndexMemory,
    beside: Callable[..., Comparison],
    tmp_path: Path,
) -> None:
    """The same numbers, in the verdict and the files."""
    found = beside(far_dir, index=folders[0], index_queries=folders[1])
    assert found.index is not None
    assert found.index.by_image == remembered.by_image
    assert index_lines(remembered)[0] in found.summary().splitlines()
    page = write_page(found, None, {}, tmp_path / "page.html", verdict=())
    assert "The maps were fitted on" in page.read_text()
    few = beside(far_dir, index=folders[0], index_limit=24)
    page = write_page(few, None, {}, tmp_path / "few.html", verdict=())
    assert "The maps were fitted on" not in page.read_text()
    assert "No linear map: 20 images" in page.read_text()
    names = {file.name for file in found.save(tmp_path)}
    assert "index_memory.csv" in names
    assert read_comparison(tmp_path).index == found.index
    assert beside(far_dir).index is None


def test_an_index_that_is_not_there_is_said_before_anything_is_read(
    beside: Callable[..., Comparison], far_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdrift.comparison.compare.read_internals", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DataError, match="/no/such"):
        beside(far_dir, index="/no/such")


def test_the_command_measures_an_index_alone(
    say: Say, tiny_clip_dir: Path, narrow_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without --images, for models of any two architectures; what is printed is what is in the file."""
    said = say(
        "compare", tiny_clip_dir, narrow_dir, "--index", folders[0], "--queries", folders[1],
        "--out", tmp_path / "out", "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = IndexMemory.model_validate_json((tmp_path / "out" / "index_memory.json").read_text())
    for line in index_lines(found):
        assert line in said.out
    (row,) = [line for line in said.out.splitlines() if line.startswith("TUNED, linear map")]
    search = found.by_image.searches["ridge"]
    shares = [*search.overlap.values(), *search.recall.values()]
    assert row.split()[3:] == [f"{100 * one.value:.1f}" for one in shares] + [
        f"{search.rank_agreement.value:.2f}"
    ]
    table = (tmp_path / "out" / "index_memory.csv").read_text().splitlines()
    assert table[0] == "queries,search,measure,k,value,low,high"
    assert len(table) == 1 + 3 * 10


def test_half_a_model_searches_as_the_whole_it_makes_with_base(
    tiny_clip_dir: Path, far_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """And what of it is BASE's is said."""
    whole = half_models.whole_with(tiny_clip_dir, far_dir, tmp_path / "whole", "vision_model.")
    part = half_models.saved(half_models.image_tower(load_plain(far_dir)), tmp_path / "half")
    one, other = (index_memory(tiny_clip_dir, side, folders[0], limit=40) for side in (whole, part))
    assert one.by_image == other.by_image
    assert one.by_image.searches["kept_index"].overlap[10].value < 1
    assert any("text tower and logit scale are BASE's" in note for note in other.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no images: name a folder or a data set with --images, or with --index"),
        (("--images", "x", "--queries", "y"), "--queries without an index to put them to"),
        (("--index", "x", "--transfer", "objects-100"), "--transfer needs --images too"),
        (("--index", "x", "--beside", "y"), "--beside needs --images too"),
        (("--index", "x", "--limit", "9"), "--limit needs --images too"),
        (("--index", "x", "--no-flow"), "--no-flow needs --images too"),
        (("--images", "x", "--index-limit", "30"), "--index-limit without an index"),
        (("--index", "/no/such"), "/no/such"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    say: Say, tiny_clip_dir: Path, far_dir: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in fails(say("compare", tiny_clip_dir, far_dir, *options))
