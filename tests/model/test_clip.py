"""Loading a CLIP: from a folder, from the hub's cache, strictly; its tokenizer; its zero-shot classes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel

from clipdrift.config import ModelConfig
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, ModelError, fingerprint_model, load
from clipdrift.model.tokens import END, START, train_tokenizer
from clipdrift.model.zero_shot import class_features, predict

CAPTION = "two small red circles on a striped ground"


@pytest.fixture
def folder(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_clip_dir, tmp_path / "spoilt"))


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def error_of(place: str | Path) -> str:
    """The message, which must be one line."""
    with pytest.raises(ModelError) as caught:
        load(place)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what loads


def test_a_saved_folder_loads(tiny_clip_dir: Path) -> None:
    """What save_pretrained left comes back weight by weight, ready to measure."""
    clip = load(tiny_clip_dir)
    assert (clip.name, clip.blocks, clip.heads, clip.width) == ("tiny", 2, 2, 32)
    assert (clip.embedding_width, clip.image_size, clip.patches) == (24, 16, 16)
    assert not clip.model.training
    assert clip.model.config._attn_implementation == "sdpa"
    assert clip.preprocess == Preprocess(size=16, crop=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    stored = load_file(tiny_clip_dir / "model.safetensors")
    own = clip.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in stored.items())
    assert {name for name in own if not name.endswith("position_ids")} <= stored.keys()


def test_a_path_and_a_config_mean_the_same(tiny_clip_dir: Path) -> None:
    """A string, a path and a ModelConfig are three ways to say it."""
    for place in (
        str(tiny_clip_dir),
        tiny_clip_dir,
        ModelConfig(name="anything", path=str(tiny_clip_dir)),
    ):
        assert load(place).blocks == 2
    assert load(ModelConfig(name="anything", path=str(tiny_clip_dir))).name == "anything"


def test_loading_is_silent(tiny_clip_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Our own errors say what is wrong; transformers' bars and reports would break the progress display."""
    load(tiny_clip_dir)
    assert capfd.readouterr() == ("", "")


def test_half_precision_weights_become_float32(folder: Path) -> None:
    """Measuring is in float32, whatever lies on disk."""
    edit_weights(folder, lambda w: w.update({k: v.half() for k, v in w.items()}))
    edit_json(folder / "config.json", lambda c: c.update(dtype="float16"))
    model = load(folder).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    stored = load_file(folder / "model.safetensors")
    weight = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(model.state_dict()[weight], stored[weight].float())


def test_stored_position_ids_are_tolerated(folder: Path) -> None:
    """Older releases stored these ranges as weights; they are no extra weights."""
    edit_weights(
        folder,
        lambda w: w.update(
            {
                "vision_model.embeddings.position_ids": torch.arange(17)[None],
                "text_model.embeddings.position_ids": torch.arange(32)[None],
            }
        ),
    )
    assert load(folder).blocks == 2


def test_preprocessing_may_lie_in_the_newer_file(folder: Path) -> None:
    """Transformers 5 writes processor_config.json alone."""
    old = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(old.read_text()), "processor_class": "CLIPProcessor"})
    )
    expected = load(folder).preprocess
    old.unlink()
    assert load(folder).preprocess == expected


OFFLINE = """
import sys
from clipdrift.model.clip import ModelError, load

for name in sys.argv[1:]:
    try:
        clip = load(name)
        print("loaded", clip.name, clip.blocks, len(clip.tokenizer), clip.preprocess.size)
    except ModelError as error:
        print("error", error)
"""


def test_the_hubs_cache_serves_offline(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """A model fetched once works by its hub id without a network; one never fetched says so in one line."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, left_out in (("some-lab--tiny", ""), ("some-lab--half", "model.safetensors")):
        repo = tmp_path / "hub" / f"models--{name}"
        snapshot = repo / "snapshots" / commit
        for part in (repo / "refs", repo / "blobs", snapshot):
            part.mkdir(parents=True)
        (repo / "refs/main").write_text(commit)
        for index, file in enumerate(sorted(tiny_clip_dir.iterdir())):
            if file.name != left_out:
                blob = repo / "blobs" / f"{index:040x}"
                shutil.copy(file, blob)
                (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "some-lab/tiny", "some-lab/half", "some-lab/absent"],
        env=environment | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    tokens = len(AutoTokenizer.from_pretrained(tiny_clip_dir))
    loaded, half, absent = done.stdout.splitlines()
    assert loaded == f"loaded some-lab/tiny 2 {tokens} 16"
    assert half.startswith("error some-lab/half: the weights cannot be loaded: ")
    assert absent.startswith(
        "error some-lab/absent: not found in the local hub cache and not to be had from the hub"
    )
    assert absent.endswith("check the name and the network, or give a folder")


# --- what does not


def test_a_missing_folder() -> None:
    """A path that is not there is never looked up on the hub."""
    assert error_of("./nowhere") == "./nowhere: no such folder; give a hub id or a folder with config.json"


def test_a_missing_or_broken_configuration(folder: Path) -> None:
    """The file is named."""
    file = folder / "config.json"
    file.write_text('{"model_type": "cl')
    assert error_of(folder).startswith(f"{file}: missing or unreadable (Unterminated string")
    file.write_text("[]")
    assert error_of(folder) == f"{file}: not a JSON object"
    file.unlink()
    assert error_of(folder) == f"{file}: missing or unreadable (no such file)"


def test_another_kind_of_model_is_named(folder: Path) -> None:
    """With those that would do; SigLIP's own tests hold the kinds that have a reason of their own."""
    edit_json(folder / "config.json", lambda c: c.update(model_type="blip"))
    message = error_of(folder)
    assert message.startswith("spoilt: a model of type 'blip' is not supported")
    assert "model_type 'clip'" in message


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    """Transformers would draw it at random and warn."""
    name = "vision_model.encoder.layers.1.mlp.fc1.bias"
    edit_weights(folder, lambda w: w.pop(name))
    assert error_of(folder) == f"spoilt: 1 weights missing, for example {name}"


def test_an_extra_weight_is_an_error(folder: Path) -> None:
    """Transformers would leave it out and warn: an adapter or a third block would be lost."""
    name = "vision_model.encoder.layers.2.mlp.fc1.bias"
    edit_weights(folder, lambda w: w.update({name: torch.zeros(64)}))
    assert error_of(folder) == f"spoilt: 1 weights that no CLIP has, for example {name}"


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    """All of them are counted, the first is named."""
    edit_weights(folder, lambda w: w.update({"visual_projection.weight": torch.zeros(12, 32)}))
    expected = (
        "spoilt: 1 weights of another shape than config.json says, for example visual_projection.weight"
    )
    assert error_of(folder) == expected


@pytest.mark.parametrize("length", [0, 5, 5000, -1])
def test_cut_off_weights_are_an_error(folder: Path, length: int) -> None:
    """A download that broke off, at any place."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert error_of(folder).startswith("spoilt: the weights cannot be loaded: ")


def test_no_weights_at_all(folder: Path) -> None:
    """The file that was looked for is named."""
    (folder / "model.safetensors").unlink()
    assert "no file named model.safetensors" in error_of(folder)


def test_missing_or_broken_preprocessing(folder: Path) -> None:
    """CLIP's own numbers must not be guessed for a model that has others."""
    file = folder / "preprocessor_config.json"
    file.write_text('{"resample": 99}')
    assert error_of(folder) == "spoilt: preprocessing: `resample` is 99, not a filter of Pillow (0 to 5)"
    file.write_text("{")
    assert error_of(folder).startswith(f"{file}: missing or unreadable (Expecting property name")
    file.unlink()
    assert error_of(folder).startswith(f"{file}: missing or unreadable (")
    (folder / "processor_config.json").write_text("{}")
    assert error_of(folder) == "spoilt: processor_config.json has no image_processor"


def test_a_missing_tokenizer_is_an_error(folder: Path) -> None:
    """Transformers makes an empty one, which reads every text as the same unknown tokens."""
    (folder / "tokenizer.json").unlink()
    assert "its tokenizer has no vocabulary" in error_of(folder)
    (folder / "tokenizer_config.json").unlink()
    assert "its tokenizer has no vocabulary" in error_of(folder)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_broken_tokenizer_is_an_error(folder: Path, content: str) -> None:
    """Whatever the tokenizers library raises, it is one line."""
    (folder / "tokenizer.json").write_text(content)
    assert error_of(folder).startswith("spoilt: its tokenizer ")


def test_a_tokenizer_of_another_model_is_an_error(folder: Path) -> None:
    """Ids beyond the text tower's table would fail in the middle of a run."""
    other = train_tokenizer([CAPTION, *(f"word{i}" for i in range(300))], merges=500)
    other.save_pretrained(folder)
    assert "they are of different models" in error_of(folder)


def test_another_end_token_in_the_config_is_an_error(folder: Path) -> None:
    """Pooling at a token that no text has would give every text the feature of its first token."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    assert "pools texts at token" in error_of(folder)


def test_the_fingerprint_follows_the_content(folder: Path, tiny_clip_dir: Path) -> None:
    """The same content anywhere is the same model; one weight changed is another."""
    before = fingerprint_model(folder)
    assert len(before) == 16
    assert before == fingerprint_model(tiny_clip_dir)
    (folder / "README.md").write_text("not part of the model")
    assert fingerprint_model(folder) == before
    edit_weights(folder, lambda w: w["visual_projection.weight"][0, 0].add_(1))
    assert fingerprint_model(folder) != before


# --- the tokenizer


def test_the_tokenizer_learns_and_falls_back_to_bytes() -> None:
    """Known words are one token; any other text comes back too, through bytes."""
    tokenizer = train_tokenizer([CAPTION] * 3, merges=100, context=32)
    assert tokenizer.tokenize(CAPTION) == [word + "</w>" for word in CAPTION.split()]
    ids = tokenizer(CAPTION).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    for text in (CAPTION, "zyx 7 qua", "größe 日本 🙂"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer("TWO Small").input_ids == tokenizer("two small").input_ids


def test_the_end_token_is_the_last_and_never_two() -> None:
    """At id 2 transformers pools at the largest id instead of at the end of the text."""
    tokenizer = train_tokenizer([CAPTION], merges=5)
    assert tokenizer.convert_tokens_to_ids([START, END]) == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert tokenizer.eos_token_id == len(tokenizer) - 1 > 2
    assert tokenizer.model_max_length == 64


def test_a_set_of_captions_has_one_tokenizer() -> None:
    """The order of captions and the library's hash maps, seeded anew each time, must not renumber tokens."""
    captions = [CAPTION, "one green square", "a photo of it"]
    vocabularies = [train_tokenizer(captions[:: (-1) ** i]).get_vocab() for i in range(8)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_the_number_of_merges_is_held() -> None:
    """The vocabulary is two letters' worth of bytes, the merges, and the two special tokens."""
    assert len(train_tokenizer([CAPTION], merges=5)) == 2 * 256 + 5 + 2


def test_a_saved_tokenizer_reads_the_same(tmp_path: Path) -> None:
    """What the plain ecosystem loads is what the model was trained with."""
    tokenizer = train_tokenizer([CAPTION, "one green square"], merges=40, context=16)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [CAPTION, "unknown wörds 12", "", "one green square " * 9]
    options = {"padding": True, "truncation": True, "max_length": 16}
    assert again(texts, **options).input_ids == tokenizer(texts, **options).input_ids
    assert again(texts, **options).input_ids[-1][-1] == again.eos_token_id  # kept when text is cut


def text_embedding(clip: Clip, text: str) -> Tensor:
    with torch.no_grad():
        return clip.model.get_text_features(**clip.tokenizer(text, return_tensors="pt")).pooler_output[0]


def test_every_word_of_a_caption_counts(tiny_clip: Clip) -> None:
    """Pooled at the end token: pooled elsewhere, the words after that place would change nothing."""
    words, swaps = CAPTION.split(), ["one", "large", "green", "squares", "of", "plain", "blue", "big"]
    whole = text_embedding(tiny_clip, CAPTION)
    for place, other in enumerate(swaps):
        swapped = " ".join([*words[:place], other, *words[place + 1 :]])
        assert swapped != CAPTION
        assert (text_embedding(tiny_clip, swapped) - whole).abs().max() > 1e-2, other
    assert torch.equal(text_embedding(tiny_clip, CAPTION.upper()), whole)


# --- zero-shot


NAMES = ("red circle", "green square", "big blue hexagons on a striped ground", "ground")
PROMPTS = ("a photo of {}", "{}", "one {} on plain ground")


def test_one_prompt_is_plain_zero_shot(tiny_clip: Clip) -> None:
    """A class's feature is the unit embedding of its prompt."""
    features = class_features(tiny_clip, NAMES, PROMPTS[:1])
    expected = [normalize(text_embedding(tiny_clip, f"a photo of {name}"), dim=0) for name in NAMES]
    assert features.dtype == torch.float32
    assert torch.allclose(features, torch.stack(expected), atol=1e-6)


def test_an_ensemble_is_the_mean_of_unit_features(tiny_clip: Clip) -> None:
    """Unit features are averaged, then made unit: longer embeddings must not weigh more."""
    features = class_features(tiny_clip, NAMES, PROMPTS)
    for name, feature in zip(NAMES, features, strict=True):
        units = [normalize(text_embedding(tiny_clip, p.format(name)), dim=0) for p in PROMPTS]
        mean = sum(units) / len(units)
        assert torch.allclose(feature, mean / mean.norm(), atol=1e-6)  # type: ignore[union-attr]
    assert torch.allclose(features.norm(dim=-1), torch.ones(4), atol=1e-6)
    assert not torch.allclose(features, class_features(tiny_clip, NAMES, PROMPTS[:1]), atol=1e-3)


def test_padding_and_batches_change_no_feature(tiny_clip: Clip) -> None:
    """A text's feature is its own, however long its neighbours are."""
    whole = class_features(tiny_clip, NAMES, PROMPTS)
    for size in (1, 5):
        assert torch.allclose(class_features(tiny_clip, NAMES, PROMPTS, batch_size=size), whole, atol=1e-6)


def test_an_overlong_name_is_cut_to_the_text_towers_length(tiny_clip: Clip) -> None:
    """More tokens than the tower has positions would fail."""
    assert torch.isfinite(class_features(tiny_clip, ["striped ground " * 40], PROMPTS[:1])).all()


@pytest.mark.parametrize(("classes", "prompts"), [((), PROMPTS), (NAMES, ())])
def test_no_class_or_no_prompt_is_an_error(
    tiny_clip: Clip, classes: tuple[str, ...], prompts: tuple[str, ...]
) -> None:
    """The mean over nothing is nan."""
    with pytest.raises(ValueError, match="at least one class and one prompt"):
        class_features(tiny_clip, classes, prompts)


def test_predict_takes_the_largest_cosine() -> None:
    """Lengths of embeddings do not matter, half precision neither."""
    features = torch.eye(3, 4)
    embedding = torch.tensor([[0.1, 0.9, 0, 0], [50.0, 49, 0, 9], [-1, -1, -0.5, 0]])
    assert predict(embedding, features).tolist() == [1, 0, 2]
    assert predict(1e-3 * embedding.half(), features).tolist() == [1, 0, 2]


def test_the_text_tower_stays_as_it_is(tiny_clip: Clip) -> None:
    """Features carry no gradient and leave no trace on the model."""
    features = class_features(tiny_clip, NAMES, PROMPTS)
    assert not features.requires_grad
    assert isinstance(tiny_clip.model, CLIPModel)
    assert all(p.grad is None for p in tiny_clip.model.parameters())
