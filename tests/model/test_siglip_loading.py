"""Loading a SigLIP: strictly, its tokenizers; its texts and pixels against transformers' own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import SiglipImageProcessorPil, SiglipProcessor

from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, ModelError, fingerprint_model, load
from clipdrift.model.texts import plain
from clipdrift.model.tokens import train_tokenizer
from clipdrift.model.trace import trace
from clipdrift.model.zero_shot import class_features

CAPTIONS = ["two small red circles on a striped ground", "a photo of three big blue hexagons"]


@pytest.fixture
def folder(tiny_siglip_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_siglip_dir, tmp_path / "spoilt"))


def edit_json(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def error_of(folder: Path) -> str:
    """The message, which must be one line."""
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_folder_loads_in_silence(tiny_siglip_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What save_pretrained left comes back weight by weight, ready to measure."""
    clip = load(tiny_siglip_dir)
    assert capfd.readouterr() == ("", "")
    assert (clip.name, clip.blocks, clip.heads, clip.width) == ("tiny-siglip", 2, 2, 32)
    assert (clip.embedding_width, clip.image_size, clip.patches) == (32, 16, 16)
    assert not clip.model.training
    assert clip.model.config._attn_implementation == "sdpa"
    assert clip.preprocess == Preprocess((16, 16), 3, None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    stored, own = load_file(tiny_siglip_dir / "model.safetensors"), clip.model.state_dict()
    assert stored.keys() == own.keys()
    assert all(torch.equal(own[name], value) for name, value in stored.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("vision_model.head.probe"),
            "1 weights missing, for example vision_model.head.probe",
        ),
        (lambda w: w.update(extra=torch.zeros(1)), "1 weights that no SigLIP has, for example extra"),
        (
            lambda w: w.update({"vision_model.head.probe": torch.zeros(1, 1, 8)}),
            "1 weights of another shape than config.json says, for example vision_model.head.probe",
        ),
    ],
    ids=["missing", "extra", "another shape"],
)
def test_weights_must_fit(folder: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    """As strictly as of a CLIP."""
    edit_weights(folder, change)
    assert error_of(folder) == f"spoilt: {message}"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("siglip_vision_model", "its text tower is missing; load the whole SigLIP"),
        ("clip_vision_model", "its text tower is missing; load the whole CLIP"),
        ("siglip2", "its images come as packed patches"),
        ("blip", "clipdrift loads Hugging Face CLIP and SigLIP models (model_type 'clip' or 'siglip'"),
    ],
)
def test_another_kind_of_model_is_named(folder: Path, kind: str, reason: str) -> None:
    """With the reason where it is not plain."""
    edit_json(folder / "config.json", model_type=kind)
    assert error_of(folder).startswith(f"spoilt: a model of type '{kind}' is not supported; {reason}")


def test_a_model_without_a_pooling_head_is_an_error(folder: Path) -> None:
    """Its images have no embedding."""
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    edit_json(folder / "config.json", vision_config={**vision, "vision_use_head": False})
    edit_weights(folder, lambda w: [w.pop(name) for name in list(w) if name.startswith("vision_model.head.")])
    assert "without a pooling head" in error_of(folder)


def test_the_tokenizer_must_fit(folder: Path) -> None:
    """A vocabulary, none larger than the text tower's, and something to fill texts up with."""
    edit_json(folder / "tokenizer_config.json", pad_token=None, tokenizer_class="PreTrainedTokenizerFast")
    assert error_of(folder) == "spoilt: its tokenizer has no padding token; set pad_token in its files"
    train_tokenizer([f"word{i}" for i in range(300)], merges=500).save_pretrained(folder)
    assert "they are of different models" in error_of(folder)
    (folder / "tokenizer.json").unlink()
    assert "its tokenizer has no vocabulary; is tokenizer.json (or spiece.model) missing?" in error_of(folder)


def sentencepiece_folder(folder: Path, vocabulary: bytes) -> Path:
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(vocabulary)
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", **names}))
    return folder


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="it is installed")
def test_missing_sentencepiece_says_what_to_install(folder: Path) -> None:
    """SigLIP's own vocabulary needs it."""
    message = error_of(sentencepiece_folder(folder, b""))
    assert message == (
        "spoilt: SiglipTokenizer requires the SentencePiece library but it was not found in your "
        "environment; pip install sentencepiece protobuf"
    )


def test_siglips_own_tokenizer(folder: Path) -> None:
    """Where sentencepiece is there; our cleaning of texts does nothing that it does not do itself."""
    sentencepiece = pytest.importorskip("sentencepiece")
    file = folder / "trained"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 20), model_prefix=str(file), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    clip = load(sentencepiece_folder(folder, file.with_suffix(".model").read_bytes()))
    for text in ("Two SMALL, red\tcircles_on (a) ground.", "  it's ", ""):
        assert clip.tokenizer(text).input_ids == clip.tokenizer(plain(text)).input_ids
    assert clip.texts(CAPTIONS).shape == (2, 32)


def test_the_fingerprint_follows_the_vocabulary(folder: Path) -> None:
    """Other tokens for the same texts make another model."""
    before = fingerprint_model(folder)
    (folder / "spiece.model").write_bytes(b"other")
    assert fingerprint_model(folder) != before


def picture(height: int, width: int) -> Image.Image:
    grey = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(grey)


# --- texts


def test_a_tokenizer_that_keeps_capitals_is_given_none(folder: Path) -> None:
    """SigLIP 2's is Gemma's, which its tower never saw a capital of."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trained.train_from_iterator(
        [*CAPTIONS, "Two Small"], trainers.BpeTrainer(special_tokens=special, show_progress=False)
    )
    trained.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    trained.save(str(folder / "tokenizer.json"))
    settings: dict[str, object] = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    settings |= {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "do_lower_case": True}
    settings |= {"add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    clip = load(folder)
    ids = clip.tokenizer(["two small", "Two Small"], padding="max_length", max_length=32).input_ids
    assert (ids[0][-1], ids[0] == ids[1]) == (0, False)
    assert torch.equal(*clip.texts(["two small red circles", "Two  small, RED circles."]))


@torch.no_grad()
def test_zero_shot_is_that_of_transformers(siglip: Clip) -> None:
    """Cosines of pictures and texts, from file to logits, are those of the processor and the whole model."""
    pictures = [picture(16, 16), picture(40, 23)]
    names = ["circle", "big blue hexagons", "striped ground " * 40]
    resize = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    processor = SiglipProcessor(resize, siglip.tokenizer)
    inputs = processor(
        images=pictures,
        text=[f"a photo of {name}" for name in names],
        padding="max_length",
        truncation=True,
        max_length=32,
        return_tensors="pt",
    )
    out = siglip.model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    expected = (out.logits_per_image - siglip.model.logit_bias) / siglip.model.logit_scale.exp()
    batch = torch.from_numpy(np.stack([siglip.preprocess.apply(picture) for picture in pictures]))
    embedding = trace(siglip.model, normalise(batch, siglip.preprocess)).embedding
    features = class_features(siglip, names, ["a photo of {}"])
    assert expected.std() > 1e-3
    assert (normalize(embedding, dim=-1) @ features.T - expected).abs().max() < 1e-5


def test_texts_are_filled_up_and_read_whole(siglip: Clip) -> None:
    """To the tower's full length, as in training: padding changes a text's feature, its neighbours do not."""
    texts = ["a photo of three hexagons", "red", CAPTIONS[0]]
    whole = siglip.texts(texts)
    alone = torch.cat([siglip.texts([text]) for text in texts])
    short = siglip.model.get_text_features(**siglip.tokenizer(texts[1:2], return_tensors="pt")).pooler_output
    assert not whole.requires_grad
    assert (whole - alone).abs().max() < 1e-5
    assert (short - whole[1]).abs().max() > 1e-2


# --- pixels


@pytest.mark.parametrize("options", [{}, {"size": {"height": 50, "width": 70}, "resample": 2}, {"size": 40}])
def test_preprocessing_equals_transformers(options: dict[str, Any]) -> None:
    """Straight to height x width, nothing cut off; a missing crop must not be taken for CLIP's."""
    processor = SiglipImageProcessorPil(**options)
    written = {key: value for key, value in processor.to_dict().items() if "crop" not in key}
    ours = Preprocess.from_config(written)
    for kind in ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil"):
        assert Preprocess.from_config({"image_processor_type": kind, **options}) == ours
    for height, width in ((224, 224), (31, 57), (300, 100), (1, 9)):
        image = picture(height, width)
        got = normalise(torch.tensor(ours.apply(image))[None], ours)[0]
        want = processor(image, return_tensors="pt")["pixel_values"][0]
        assert got.shape == want.shape
        assert (got - want).abs().max() / 2 <= 1.001 / 255  # they run from -1 to 1


def test_the_family_decides_where_the_file_does_not(folder: Path) -> None:
    """CLIP's crop and colours must not be guessed for a SigLIP."""
    (folder / "processor_config.json").unlink(missing_ok=True)
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}}')
    assert load(folder).preprocess == Preprocess((16, 16), 3, None, mean=(0.5,) * 3, std=(0.5,) * 3)
