"""Pretraining a small CLIP: the loss, the corpus, and a course that no interruption or worker changes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from clipdrift.config import PretrainConfig
from clipdrift.data.corpus import DrawnAhead, ObjectsCorpus
from clipdrift.data.worlds import objects
from clipdrift.model.build import CONTEXT, new_clip
from clipdrift.model.clip import load
from clipdrift.model.tokens import END, START, train_tokenizer
from clipdrift.pretrain import STATE, contrastive_loss, pretrain
from clipdrift.runs.reporter import Silent
from clipdrift.training.checkpoint import CheckpointError, load_state, save_state


def tiny(**changes: Any) -> PretrainConfig:
    """Eight steps of sixteen images on the smallest of towers."""
    shape = {"width": 16, "text_width": 16, "projection": 16, "blocks": 1, "text_blocks": 1, "heads": 2}
    return PretrainConfig(
        **{**shape, "image_size": 16, "patch_size": 4, "images": 128, "batch_size": 16, **changes}
    )


class Losses(Silent):
    """Keeps each step's loss, and each stage's name."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.stages: list[str] = []

    def step(self, step: int, steps: int, loss: float) -> None:
        assert step == len(self.losses) + 1
        self.losses.append(loss)

    def stage(self, text: str) -> None:
        self.stages.append(text)


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer from few captions is made in no time."""
    monkeypatch.setattr("clipdrift.data.corpus._TOKENIZER_TEXTS", 500)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float], Losses]:
    """One uninterrupted pretraining."""
    out, reporter = tmp_path_factory.mktemp("pretrained") / "model", Losses()
    with pytest.MonkeyPatch.context() as patch:  # module scope comes before the fixture above
        patch.setattr("clipdrift.data.corpus._TOKENIZER_TEXTS", 500)
        return out, pretrain(tiny(), out, workers=1, reporter=reporter), reporter


# --- the loss


def by_hand(image: np.ndarray, text: np.ndarray, log_scale: float, positives: np.ndarray) -> float:
    """The loss as its definition reads, in float64 and loops."""
    image, text = (x.astype(np.float64) for x in (image, text))
    n = len(image)

    def one_way(rows: np.ndarray, columns: np.ndarray, wanted: np.ndarray) -> float:
        total = 0.0
        for i in range(n):
            logits = [
                math.exp(log_scale)
                * rows[i]
                @ columns[j]
                / np.linalg.norm(rows[i])
                / np.linalg.norm(columns[j])
                for j in range(n)
            ]
            log_sum = math.log(sum(math.exp(x) for x in logits))
            mine = [j for j in range(n) if wanted[i, j]]
            total -= sum(logits[j] - log_sum for j in mine) / len(mine)
        return total / n

    return 0.5 * (one_way(image, text, positives) + one_way(text, image, positives.T))


def pair(n: int = 7, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, n, width, generator=generator)
    positives = torch.rand(n, n, generator=generator) < 0.3
    return image, text, positives | torch.eye(n, dtype=torch.bool)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_its_definition(seed: int) -> None:
    """Oracle: loops in float64, with several captions that hold for one image."""
    image, text, positives = pair(seed=seed)
    assert not torch.equal(positives, positives.T)
    found = contrastive_loss(image, text, torch.tensor(1.3), positives).item()
    assert found == pytest.approx(by_hand(image.numpy(), text.numpy(), 1.3, positives.numpy()), rel=1e-5)


def test_with_one_caption_each_the_loss_is_clips() -> None:
    """Oracle: transformers' own loss on the same logits."""
    image, text, _ = pair()
    logits = (
        math.exp(1.3)
        * torch.nn.functional.normalize(text, dim=-1)
        @ torch.nn.functional.normalize(image, dim=-1).T
    )
    found = contrastive_loss(image, text, torch.tensor(1.3), torch.eye(7, dtype=torch.bool))
    assert found.item() == pytest.approx(image_text_contrastive_loss(logits).item(), rel=1e-5)


def test_the_loss_ignores_length_and_order() -> None:
    """Properties: embeddings are compared by direction, and a batch has no order."""
    image, text, positives = pair()
    scale = torch.tensor(2.0)
    found = contrastive_loss(image, text, scale, positives)
    assert contrastive_loss(3 * image, 0.1 * text, scale, positives).item() == pytest.approx(
        found.item(), rel=1e-5
    )
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    mixed = contrastive_loss(image[order], text[order], scale, positives[order][:, order])
    assert mixed.item() == pytest.approx(found.item(), rel=1e-5)


# --- the corpus


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    """What makes a run resumable at any step and independent of its workers."""
    first, second = ObjectsCorpus(3, 16), ObjectsCorpus(3, 16)
    second.batch(0, 0, 4)
    a, b = first.batch(5, 1, 6), second.batch(5, 1, 6)
    assert np.array_equal(a.pixels, b.pixels)
    assert a.texts == b.texts
    assert np.array_equal(a.positives, b.positives)
    for other in (first.batch(5, 0, 6), first.batch(6, 1, 6), ObjectsCorpus(4, 16).batch(5, 1, 6)):
        assert not np.array_equal(a.pixels, other.pixels)
    assert a.pixels.shape == (6, 16, 16, 3)
    assert a.positives.diagonal().all()


@pytest.mark.parametrize("loaders", [0, 1])
def test_drawing_ahead_yields_what_the_corpus_would(loaders: int) -> None:
    """In order, each part once, by a thread or by another process."""
    corpus = ObjectsCorpus(0, 16)
    with DrawnAhead(corpus, range(1, 4, 2), 4, range(2, 5), loaders) as drawn:
        for step in range(2, 5):
            parts = list(drawn.parts(step))
            wanted = [corpus.batch(step, part, 4) for part in (1, 3)]
            assert [p.texts for p in parts] == [w.texts for w in wanted]
            assert all(np.array_equal(p.pixels, w.pixels) for p, w in zip(parts, wanted, strict=True))


def test_unseen_pairs_are_in_no_training_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim of generalisation rests on this: neither pictures nor captions show the twenty pairs."""
    shown: list[int] = []
    sample = objects.sample

    def watched(rng: np.random.Generator, pairs: np.ndarray, single: bool = False) -> objects.Scenes:
        shown.extend(pairs.tolist())
        return sample(rng, pairs, single)

    monkeypatch.setattr(objects, "sample", watched)
    corpus = ObjectsCorpus(0, 8)
    texts = [text for step in range(20) for text in corpus.batch(step, 0, 100).texts]
    assert set(shown) == set(objects.SEEN.tolist())
    texts += corpus.texts()
    unseen = [objects.PAIRS[k] for k in objects.UNSEEN]
    assert not [text for text in texts for name in unseen if f"{name} " in text + " " or f"{name}s" in text]
    assert any(
        objects.PAIRS[k] in text for text in texts for k in objects.SEEN[:5]
    )  # the search finds what is there


def test_held_out_images_know_their_unseen_pairs() -> None:
    """What the progress line calls never-seen must be that."""
    held = ObjectsCorpus(0, 16).held_out(per_class=2)
    assert len(held.labels) == 200
    assert (np.bincount(held.labels) == 2).all()
    assert held.groups["never-seen pairs"].tolist() == objects.UNSEEN.tolist()
    assert len(objects.UNSEEN) == 20
    assert len(set(objects.UNSEEN.tolist()) | set(objects.SEEN.tolist())) == 100


# --- the model


def test_an_end_token_of_id_2_is_refused(tiny_clip_dir: Path) -> None:
    """At id 2 transformers pools at the largest token instead, and most words of a caption are lost."""
    tokenizer = train_tokenizer(["a red circle"], merges=5)
    assert tokenizer.eos_token_id != 2
    new_clip(tiny(), tokenizer, "eager")
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(2)
    assert tokenizer.eos_token_id == 2
    with pytest.raises(ValueError, match="end token has id 2"):
        new_clip(tiny(), tokenizer, "eager")


def test_a_new_model_has_the_shape_and_seed_asked_for() -> None:
    """Two machines must start from the same weights, and other seeds from others."""
    tokenizer = train_tokenizer(["a red circle", "two blue squares"], merges=20)
    one, two, other = (new_clip(tiny(seed=s), tokenizer, "eager") for s in (1, 1, 2))
    states = [m.state_dict() for m in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["visual_projection.weight"], states[2]["visual_projection.weight"])
    vision, text = one.config.vision_config, one.config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (
        16,
        1,
        16,
        4,
    )
    assert (text.vocab_size, text.eos_token_id) == (len(tokenizer), tokenizer.eos_token_id)
    assert text.max_position_embeddings == CONTEXT


# --- the course


def test_pretraining_leaves_a_model_that_others_load(made: tuple[Path, dict[str, float], Losses]) -> None:
    """Plain transformers and clipdrift take the folder; the file beside it says how it was made."""
    out, scores, reporter = made
    assert set(scores) == {"all", "never-seen pairs"}
    assert all(0 <= value <= 100 for value in scores.values())
    model = CLIPModel.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a red circle")["input_ids"])[::4] == [START, END]
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    assert {w.dtype for w in load_file(out / "model.safetensors").values()} == {torch.float16}
    clip = load(out)
    assert (clip.image_size, clip.blocks, clip.heads, clip.patches) == (16, 1, 2, 16)
    told = json.loads((out / "pretrain.json").read_text())
    assert PretrainConfig(**told["config"]) == tiny()
    assert told["zero_shot"] == scores
    assert len(reporter.losses) == 8
    assert any("objects" in inputs for inputs in reporter.stages)


def test_an_interrupted_pretraining_ends_at_the_same_weights(
    made: tuple[Path, dict[str, float], Losses], tmp_path: Path
) -> None:
    """Bit for bit on the CPU, at whatever step it was stopped; moments of both optimisers included."""
    out, scores, reporter = made
    losses: list[float] = []
    for stop, wanted in ((3, {}), (1, {}), (None, scores)):

        class Rest(Losses):
            def step(self, step: int, steps: int, loss: float) -> None:
                assert step == len(losses) + 1
                losses.append(loss)

        assert pretrain(tiny(), tmp_path, workers=1, stop_after=stop, reporter=Rest()) == wanted
        assert (tmp_path / "model.safetensors").exists() == (stop is None)
    assert losses == reporter.losses
    one, two = (load_file(folder / "model.safetensors") for folder in (out, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_finished_pretraining_is_not_repeated(
    made: tuple[Path, dict[str, float], Losses],
) -> None:
    """The same command again only says the scores."""
    out, scores, _ = made
    before = (out / "model.safetensors").read_bytes()
    reporter = Losses()
    assert pretrain(tiny(), out, workers=1, reporter=reporter) == scores
    assert reporter.losses == []
    assert (out / "model.safetensors").read_bytes() == before


def test_parts_are_contrasted_apart(made: tuple[Path, dict[str, float], Losses], tmp_path: Path) -> None:
    """The positive control of the test above: another number of parts is another training."""
    reporter = Losses()
    pretrain(tiny(parts=1), tmp_path, workers=1, stop_after=1, reporter=reporter)
    assert reporter.losses[0] != made[2].losses[0]


def test_the_loss_falls_below_chance(tmp_path: Path) -> None:
    """The positive control of the whole: it learns. Embeddings that know nothing give ln 64 on 64 images."""
    reporter, shape = Losses(), {"width": 32, "text_width": 32, "projection": 32, "parts": 1}
    config = tiny(**shape, images=6400, batch_size=64, learning_rate=1e-3, optimizer="adamw")
    pretrain(config, tmp_path, workers=1, save_every=1000, reporter=reporter)
    assert np.mean(reporter.losses[-10:]) < 0.93 * math.log(64)


# --- what cannot go on


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    """Going on with another rate would make a model that no configuration describes."""
    pretrain(tiny(), tmp_path, workers=1, stop_after=1)
    with pytest.raises(CheckpointError, match="other settings; choose another folder"):
        pretrain(tiny(learning_rate=1e-4), tmp_path, workers=1)


def test_a_state_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """One line that says what to do, wherever the file ends."""
    path = tmp_path / STATE
    save_state(path, {"step": 3, "model": {"a": torch.arange(6.0)}})
    found = load_state(path)
    assert found is not None
    assert torch.equal(found["model"]["a"], torch.arange(6.0))
    content = path.read_bytes()
    for length in range(0, len(content), 23):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="delete it to start again"):
            load_state(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"a" * 100, b"{}", b"PK\x03\x04", b"(lp0\n."])
def test_what_is_no_state_is_refused_by_pretraining(tmp_path: Path, content: bytes) -> None:
    """torch raises a different kind for each of these; a user sees one."""
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt: (damaged|not a checkpoint)") as caught:
        pretrain(tiny(), tmp_path, workers=1)
    assert "\n" not in str(caught.value)


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    """A sound file with other content: named, not a KeyError."""
    save_state(tmp_path / STATE, {"step": 3})
    with pytest.raises(CheckpointError, match="not a pretraining's state"):
        pretrain(tiny(), tmp_path, workers=1)


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    """A checkpoint from somebody else must not be able to do anything."""
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    torch.save({"step": Bomb()}, tmp_path / STATE)
    with pytest.raises(CheckpointError):
        load_state(tmp_path / STATE)
    assert not marker.exists()


def test_no_state_is_no_error(tmp_path: Path) -> None:
    """The first start."""
    assert load_state(tmp_path / STATE) is None
