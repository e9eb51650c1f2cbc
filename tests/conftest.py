"""Shared by all tests: no network, one thread, and a tiny random CLIP as a real folder on disk."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub reads it when it is imported
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start: the cores are shared already
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # a pool of threads for weights of a few kilobytes
os.environ["COLUMNS"] = "300"  # a console is as wide as this says when it is made, whichever test makes it

import copy
import gc
import json
import signal
from collections.abc import Callable
from pathlib import Path

# What a module with checked shapes is the first to import is compiled, not read: its cache has another name.
import beartype  # noqa: F401
import numpy as np
import peft  # noqa: F401
import pydantic  # noqa: F401
import pytest
import sklearn.linear_model  # noqa: F401
import statsmodels.api  # noqa: F401
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    PretrainedConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, load
from clipdrift.model.tokens import train_tokenizer
from small_runs import Lab, write_folder

torch.set_num_threads(1)
# transformers words a whole configuration for each line of its log, shown or not: a quarter of every load
PretrainedConfig.__repr__ = object.__repr__  # type: ignore[method-assign]
# what is imported by now stays: walking it at each full collection took a twentieth of the time of the tests
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)
# a shell ignores Ctrl-C in what it starts in the background, and so would the processes of the tests
signal.signal(signal.SIGINT, signal.default_int_handler)

CAPTION = "two small red circles on a striped ground"
CAPTIONS = [CAPTION, "one large green square on plain ground", "a photo of three big blue hexagons"]


def randomise(model: torch.nn.Module, seed: int = 0, gain: float = 1.5) -> None:
    """Weights large enough that attention is uneven and every token counts, as in a trained model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, gain * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real images, which are no part of the repository."""
    folder = Path(__file__).parents[2] / "shared/data"
    if not folder.is_dir():
        pytest.skip("the real images are not on this machine (shared/data beside the repository)")
    return folder


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``save_pretrained`` leaves it: random CLIP, 2 blocks, 2 heads, width 32, 16 px, patch 4."""
    tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
    end = tokenizer.eos_token_id
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**tower, "image_size": 16, "patch_size": 4},
        projection_dim=24,
    )
    torch.manual_seed(0)  # of what randomise leaves, the class embedding
    model = CLIPModel(config)
    randomise(model)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture(scope="session")
def tiny_clip_once(tiny_clip_dir: Path) -> Clip:
    return load(tiny_clip_dir)


@pytest.fixture
def tiny_clip(tiny_clip_once: Clip) -> Clip:
    """The tiny CLIP, a copy, so that a test may change it; its tokenizer is shared."""
    tokenizer = tiny_clip_once.tokenizer
    return copy.deepcopy(tiny_clip_once, {id(tokenizer): tokenizer})


@pytest.fixture(scope="session")
def tiny_siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``save_pretrained`` leaves it: random SigLIP, 2 blocks, 2 heads, width 32, 16 px, patch 4."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 4})
    )
    randomise(model)
    with torch.no_grad():  # as trained: cosines count, and most pairs are none
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-4.0)
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def siglip(tiny_siglip_dir: Path) -> Clip:
    """The tiny SigLIP, loaded anew, so that a test may change it."""
    return load(tiny_siglip_dir)


@pytest.fixture
def make_deck() -> Callable[..., Deck]:
    """``make_deck(n, classes=2, size=16, seed=0, signal=0)``: random images, labels in turn.

    ``signal`` brightens an image by so many grey levels times its label, so that labels can be learnt.
    """

    def make(n: int, classes: int = 2, size: int = 16, seed: int = 0, signal: int = 0) -> Deck:
        labels = np.arange(n, dtype=np.int64) % classes
        grey = np.random.default_rng(seed).integers(0, 120, (n, size, size, 3))
        data = (grey + signal * labels[:, None, None, None]).clip(0, 255).astype(np.uint8)
        return Deck(data, np.arange(n), labels, Preprocess(), torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that can be learnt: ``{train,test}/{blue,green,red}/im00.png``, of 16 pixels."""
    return write_folder(tmp_path_factory.mktemp("pictures") / "colours")


@pytest.fixture(scope="session")
def lab(tiny_clip_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Makes short runs on the tiny CLIP, all with one cache of pixels."""
    return Lab(
        tiny_clip_dir, pictures, tmp_path_factory.mktemp("cache"), lambda: tmp_path_factory.mktemp("runs")
    )
