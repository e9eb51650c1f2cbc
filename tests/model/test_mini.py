"""The shipped CLIP, through plain transformers: what anyone gets who opens its folder."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

import clipdrift
from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.worlds import WORLDS, generate, objects
from clipdrift.measures import zero_shot_accuracy
from clipdrift.model.clip import MINI, load, shipped_folder
from clipdrift.model.zero_shot import class_features

FOLDER = shipped_folder(MINI)
CAPTION = "a picture of two small red circles at the top on a striped ground"


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    found = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32)
    assert isinstance(found, CLIPModel)
    return found.eval()


@pytest.fixture(scope="module")
def test_set() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All 2,000 test pictures of objects-100."""
    images, labels = generate(WORLDS["objects-100"], "test")
    assert len(images) == 2000
    return images, labels


@pytest.fixture(scope="module")
def right(model: CLIPModel, test_set: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which of them plain transformers code classifies rightly, with one prompt per class."""
    images, labels = test_set
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    )
    texts = [f"a photo of a {name}" for name in objects.PAIRS]
    guesses: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(images), 250):
            shown = [Image.fromarray(x) for x in images[start : start + 250]]
            batch = processor(text=texts, images=shown, padding=True, return_tensors="pt")
            guesses.append(model(**batch).logits_per_image.argmax(-1))
    return torch.cat(guesses).numpy() == labels


def test_the_folder_is_inside_the_package() -> None:
    """Installed from a wheel, the model must come along."""
    place = resources.files("clipdrift") / "model" / "mini"
    names = {entry.name for entry in place.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= names
    assert Path(str(place)) == FOLDER
    assert FOLDER.is_relative_to(Path(clipdrift.__file__).parent)


def test_it_is_small_and_in_half_precision() -> None:
    """It travels with the package: at most 8 MB."""
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size <= 8_000_000
    assert {w.dtype for w in load_file(file).values()} == {torch.float16}
    assert not list(FOLDER.glob("*.pt"))  # no training state beside it


def test_it_has_the_token_geometry_of_vit_b_32(model: CLIPModel) -> None:
    """49 patches and CLS, so that attention measures have the range of the published study."""
    vision = model.config.vision_config
    assert (vision.image_size, vision.patch_size) == (56, 8)
    assert (vision.image_size // vision.patch_size) ** 2 == 49
    assert model.vision_model.embeddings.position_embedding.weight.shape[0] == 50
    assert vision.num_hidden_layers >= 6
    assert vision.num_attention_heads >= 4


def test_the_end_of_a_text_is_found(model: CLIPModel) -> None:
    """The trap of transformers' CLIP: with end token 2 it would pool at the largest token id."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    assert len(tokenizer) == model.config.text_config.vocab_size


@torch.no_grad()
def embed(model: CLIPModel, texts: list[str]) -> Tensor:
    tokens = AutoTokenizer.from_pretrained(FOLDER)(texts, padding=True, return_tensors="pt")
    return normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


@pytest.mark.parametrize("position", range(len(CAPTION.split())))
def test_every_word_of_a_caption_changes_the_embedding(model: CLIPModel, position: int) -> None:
    """Leaving a word out and replacing it must both be seen, in every place."""
    words = CAPTION.split()
    without = " ".join(words[:position] + words[position + 1 :])
    other = " ".join([*words[:position], "green", *words[position + 1 :]])
    same, *changed = embed(model, [CAPTION, without, other])
    for embedding in changed:
        assert (same @ embedding).item() < 1 - 1e-5


def test_padding_changes_nothing(model: CLIPModel) -> None:
    """A text's embedding must not depend on the longest of its batch."""
    alone = embed(model, ["a red circle"])[0]
    padded = embed(model, ["a red circle", CAPTION])[0]
    assert torch.allclose(alone, padded, atol=1e-5)


def test_zero_shot_accuracy_on_objects_100(right: NDArray[np.bool_]) -> None:
    """The target of the shipped model: 92 % over a hundred shape-colour classes."""
    assert 100 * right.mean() >= 92


def test_zero_shot_accuracy_on_pairs_never_seen(
    right: NDArray[np.bool_], test_set: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    """What makes it a CLIP and no classifier: shape and colour recombine, 80 % on unseen pairs."""
    unseen = np.isin(test_set[1], objects.UNSEEN)
    assert unseen.sum() == 400
    assert 100 * right[unseen].mean() >= 80


def test_clipdrift_gets_the_same_accuracy(
    right: NDArray[np.bool_], test_set: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    """The package's own path (bytes, own preprocessing, trace) against the plain one above."""
    images, labels = (part[:600] for part in test_set)
    clip = load(MINI)
    features = class_features(clip, objects.PAIRS, ("a photo of a {}",))
    deck = Deck(images, np.arange(len(images)), labels, clip.preprocess, torch.device("cpu"))  # type: ignore[arg-type]
    # a picture whose two best classes tie to the last bit may fall either way
    found = zero_shot_accuracy(clip.model, features, deck)
    assert found == pytest.approx(100 * right[:600].mean(), abs=100 / 600 + 1e-9)


def test_its_preprocessing_is_clips(test_set: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    """Pictures of its own size pass through unchanged but for CLIP's mean and deviation."""
    config = json.loads((FOLDER / "preprocessor_config.json").read_text())
    own = Preprocess.from_config(config)
    processor = CLIPImageProcessorPil.from_pretrained(FOLDER)
    shown = Image.fromarray(test_set[0][0])
    there = processor(shown, return_tensors="pt")["pixel_values"]
    deck = Deck(test_set[0][:1], np.arange(1), test_set[1][:1], own, torch.device("cpu"))
    assert torch.allclose(deck.images(slice(None)), there, atol=1e-5)


def test_a_card_lies_beside_the_weights() -> None:
    """Who finds the folder must learn what it is and what it is not for."""
    assert (FOLDER / "README.md").is_file()
