"""The shipped CLIP that knows photographs, through plain transformers; its scores need CIFAR-100 itself."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from clipdrift.config import DataSet
from clipdrift.data.catalog import CATALOG
from clipdrift.data.deck import Deck
from clipdrift.data.pixels import load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import open_source
from clipdrift.measures import zero_shot_accuracy
from clipdrift.model.clip import MINI, MINI_PHOTO, load, shipped_folder
from clipdrift.model.zero_shot import class_features

FOLDER = shipped_folder(MINI_PHOTO)
PROMPT = "a photo of a {}"
NAMES = CATALOG["cifar100"].classes
assert NAMES is not None


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    return CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_it_has_the_shape_and_size_limits_of_mini(model: CLIPModel) -> None:
    other = json.loads((shipped_folder(MINI) / "config.json").read_text())
    own = json.loads((FOLDER / "config.json").read_text())
    assert own["vision_config"] == other["vision_config"]
    assert own["projection_dim"] == other["projection_dim"]
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size <= 8_000_000
    assert {w.dtype for w in load_file(file).values()} == {torch.float16}
    assert {f.name for f in FOLDER.iterdir()} == {f.name for f in shipped_folder(MINI).iterdir()}
    assert all(torch.isfinite(w).all() for w in model.state_dict().values())


def test_both_models_fit_into_the_wheel() -> None:
    """The package is at most 20 MB; the models are most of it, and weights hardly compress."""
    package = Path(str(resources.files("clipdrift")))
    sizes = [f.stat().st_size for f in package.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(sizes) < 20_000_000


def test_the_end_of_a_text_is_found(model: CLIPModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    assert len(tokenizer) == model.config.text_config.vocab_size


@torch.no_grad()
def test_every_class_name_is_a_text_of_its_own(model: CLIPModel) -> None:
    """A hundred prompts, a hundred embeddings, none so near another that it could not be told apart."""
    assert NAMES is not None
    tokens = AutoTokenizer.from_pretrained(FOLDER)(
        [PROMPT.format(name) for name in NAMES], padding=True, return_tensors="pt"
    )
    text = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    alike = text @ text.T - 2 * torch.eye(len(NAMES))
    assert alike.max().item() < 0.99


def test_how_it_was_made_stands_beside_it_and_names_no_folder() -> None:
    made = json.loads((FOLDER / "pretrain.json").read_text())
    assert made["config"]["data"]["name"] == "cifar100"
    assert "/" not in json.dumps({k: v for k, v in made["config"]["data"].items() if k == "path"})


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """CIFAR-100's test images, of each class the first ten, decoded by Pillow alone."""
    table = pq.read_table(shared_data / "cifar100" / "test-00000-of-00001.parquet").to_pydict()
    labels = np.array(table["fine_label"])
    chosen = np.concatenate([np.flatnonzero(labels == c)[:10] for c in range(100)])
    images = [Image.open(io.BytesIO(table["img"][i]["bytes"])).convert("RGB") for i in chosen]
    return images, labels[chosen]


@pytest.fixture(scope="module")
def right(model: CLIPModel, photographs: tuple[list[Image.Image], NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which of them plain transformers code classifies rightly, with one prompt per class."""
    assert NAMES is not None
    images, labels = photographs
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    )
    texts = [PROMPT.format(name) for name in NAMES]
    guesses = []
    with torch.no_grad():
        for start in range(0, len(images), 250):
            batch = processor(
                text=texts, images=images[start : start + 250], padding=True, return_tensors="pt"
            )
            guesses.append(model(**batch).logits_per_image.argmax(-1))
    return torch.cat(guesses).numpy() == labels


def test_zero_shot_accuracy_on_photographs_it_never_saw(right: NDArray[np.bool_]) -> None:
    """Half of the images of a hundred classes; chance is one in a hundred.

    Of 1,000 images: the standard error is about 1.5 points. The card states all 10,000
    (``python tools/shipped_scores.py mini-photo FOLDER``).
    """
    assert 100 * right.mean() >= 50


def test_clipdrift_gets_the_same_accuracy(
    right: NDArray[np.bool_], photographs: tuple[list[Image.Image], NDArray[np.int64]], shared_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The package's own path (parquet, own preprocessing, trace) against the plain one above."""
    assert NAMES is not None
    clip = load(MINI_PHOTO)
    spec = DataSet(name="cifar100", path=str(shared_data / "cifar100"))
    images = open_source(spec, image_size=clip.image_size, parts=("test",)).test
    assert images is not None
    chosen = np.concatenate([np.flatnonzero(images.labels == c)[:10] for c in range(100)])
    pixels = load_pixels(images.subset(chosen), clip.preprocess, tmp_path)
    deck = Deck(pixels.data, np.arange(len(chosen)), pixels.labels, clip.preprocess, torch.device("cpu"))
    found = zero_shot_accuracy(clip.model, class_features(clip, NAMES, (PROMPT,)), deck)
    assert found == pytest.approx(100 * right.mean(), abs=3 * 100 / 2000)


def test_its_preprocessing_is_that_of_transformers() -> None:
    """32 pixels are enlarged to 56 as transformers' own processor does it."""
    config = json.loads((FOLDER / "preprocessor_config.json").read_text())
    assert Preprocess.from_config(config) == Preprocess.from_config(
        CLIPImageProcessorPil.from_pretrained(FOLDER).to_dict()
    )
