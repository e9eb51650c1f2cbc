"""The text tower against transformers' own eager attention with its padding; formulas against loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from measure_oracles import (
    SMALL,
    Array,
    loop_diversity,
    loop_erf,
    loop_gini,
    loop_nats,
    numpy_cka,
)
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import SiglipConfig, SiglipModel

from clipdrift.listing import MEASURES
from clipdrift.measures import MeasureError, TextInternals, read_texts, text_readings
from clipdrift.model.clip import MINI_PHOTO, Clip, load
from clipdrift.model.texts import SiglipTexts
from clipdrift.model.towers import UnsupportedModelError, text_tower_of
from clipdrift.model.weights import effective_weights, text_weights

TEXTS = (
    "two small red circles on a striped ground",
    "a photo of a big blue hexagon",
    "",
    "circles",
    "one large green square",
    "a",
    "red on blue",
    "a photo of three small green squares on plain ground, " * 9,  # longer than the tower takes
    "two red circles",
)
LORA = r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj)|mlp\.fc1)"


@pytest.fixture(scope="module")
def photo() -> Clip:
    return load(MINI_PHOTO)


def with_adapter(clip: Clip) -> Clip:
    """LoRA on the text tower whose factors are random, as after training."""
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(clip.model), LoraConfig(r=2, lora_alpha=4, target_modules=LORA))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return replace(clip, model=model.eval(), texts=replace(clip.texts, model=model.get_base_model()))  # type: ignore[type-var]


class Words:
    """A tokenizer as SigLIP's: no start token, one end token, filled up with it."""

    bos_token_id, cls_token_id, eos_token_id = None, None, 1

    def __call__(self, texts: Sequence[str], max_length: int, padding: Any = False, **_: Any) -> Any:
        rows = [[2 + sum(map(ord, word)) % 60 for word in text.split()] + [1] for text in texts]
        rows = [[*row[: max_length - 1], 1] if len(row) > max_length else row for row in rows]
        fill = max_length if padding == "max_length" else 0
        return {"input_ids": [row + [1] * (fill - len(row)) for row in rows]}


@pytest.fixture
def siglip_clip(tiny_clip: Clip) -> Clip:
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 16, "pad_token_id": 1, "eos_token_id": 1}
    model = SiglipModel(
        SiglipConfig(
            text_config={**text, "bos_token_id": 0},
            vision_config={**SMALL, "image_size": 16, "patch_size": 4},
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
    tokenizer: Any = Words()
    return replace(tiny_clip, model=model, tokenizer=tokenizer, texts=SiglipTexts(model, tokenizer))


@torch.no_grad()
def eager(clip: Clip, texts: Sequence[str]) -> tuple[list[Array], Array, Array]:
    """Rows (L, H, T) of the pooled token of each text without padding, states (L, M, D), embeddings."""
    model = copy.deepcopy(clip.model).eval()
    model.set_attn_implementation("eager")
    siglip = isinstance(model, SiglipModel)
    longest = model.config.text_config.max_position_embeddings
    if siglip:
        bare = [text.replace(",", "") for text in texts]  # it was trained on texts without punctuation
        ids = torch.tensor(clip.tokenizer(bare, longest, "max_length")["input_ids"])
        mask, places = None, torch.full((len(texts),), longest - 1)
    else:
        tokens = clip.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        places = mask.sum(-1) - 1  # the end token is the last that is not padding
    out = model.text_model(
        input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True
    )
    every = torch.arange(len(texts))
    maps = torch.stack(out.attentions)
    rows = [
        maps[:, i, :, place, : (longest if siglip else place + 1)].double().numpy()
        for i, place in enumerate(places)
    ]
    states = torch.stack(out.hidden_states[1 : len(maps) + 1])[:, every, places]
    embedding = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    return rows, states.double().numpy(), embedding.double().numpy()


def by_loops(rows: list[Array], spans: Sequence[slice]) -> dict[str, Array]:
    """(K, L) of the texts whose span has two words or more."""

    def per_head(work: Callable[[Array], float], scale: bool = False) -> Array:
        return np.array(
            [
                [
                    np.mean(
                        [
                            work(head[span]) / (np.log(span.stop - span.start) if scale else 1)
                            for head in block
                        ]
                    )
                    for block in of
                ]
                for of, span in zip(rows, spans, strict=True)
                if span.stop - span.start >= 2
            ]
        )

    return {
        "text_entropy": per_head(loop_nats),
        "text_normalised_entropy": per_head(loop_nats, scale=True),
        "text_erf95": per_head(loop_erf),
        "text_gini": per_head(loop_gini),
        "text_head_diversity": np.array(
            [
                [loop_diversity(block[:, span]) for block in of]
                for of, span in zip(rows, spans, strict=True)
                if span.stop - span.start >= 2
            ]
        ),
    }


def held(found: TextInternals, clip: Clip, spans: Callable[[Array], slice], start: bool) -> None:
    """Everything read equals what transformers and the loops give."""
    rows, states, embedding = eager(clip, TEXTS)
    expected = by_loops(rows, [spans(row) for row in rows])
    if start:
        expected["text_start_share"] = np.array([row[:, :, 0].mean(1) for row in rows if row.shape[-1] >= 4])
    assert found.attention.keys() == expected.keys()
    for name, values in expected.items():
        assert found.attention[name] == pytest.approx(values, abs=1e-5), name
        assert found.heads[name].mean(1) == pytest.approx(values.mean(0), abs=1e-5), name
    assert torch.stack(list(found.states)).numpy() == pytest.approx(states, abs=1e-4)
    assert found.embedding.numpy() == pytest.approx(embedding, abs=3e-5)


@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("model", ["tiny", "mini-photo"])
def test_clip_is_as_eager_attention_has_it(tiny_clip: Clip, photo: Clip, model: str, adapter: bool) -> None:
    """Start token and end token left out, padding never seen; short texts counted and left out."""
    clip = photo if model == "mini-photo" else tiny_clip
    clip = with_adapter(clip) if adapter else clip
    found = read_texts(clip, TEXTS)
    held(found, clip, lambda row: slice(1, row.shape[-1] - 1), start=True)
    assert found.embedding.numpy() == pytest.approx(clip.texts(TEXTS).numpy(), abs=3e-5)
    assert found.attention["text_entropy"].std() > 0.05
    assert found.words[2] == 0
    assert found.words[7] == clip.model.config.text_config.max_position_embeddings - 2
    assert found.short == (found.words < 2).sum() == len(TEXTS) - len(found.attention["text_entropy"]) > 0
    for name, values in found.attention.items():
        assert MEASURES[name].family == "text"
        assert 0 <= values.min() <= values.max() <= (np.inf if name == "text_entropy" else 1)


def test_siglip_is_read_at_its_last_token(siglip_clip: Clip) -> None:
    """No start token; the padding that the last token sees is no word, and neither is the end token."""
    counts = iter([min(len(text.split()), 15) for text in TEXTS])
    held(read_texts(siglip_clip, TEXTS), siglip_clip, lambda _: slice(0, next(counts)), start=False)


@pytest.mark.parametrize("size", [1, 7])
def test_no_number_depends_on_the_batch_size(photo: Clip, size: int) -> None:
    whole, parts = read_texts(photo, TEXTS), read_texts(photo, TEXTS, size)
    one = read_texts(photo, [TEXTS[0]])
    for name, values in whole.attention.items():
        assert parts.attention[name] == pytest.approx(values, abs=1e-6), name
        assert one.attention[name][0] == pytest.approx(values[0], abs=1e-6), name
    assert torch.allclose(torch.stack(list(parts.states)), torch.stack(list(whole.states)), atol=1e-4)
    assert torch.allclose(parts.embedding, whole.embedding, atol=1e-5)


def test_the_end_token_is_found_as_transformers_finds_it(tiny_clip: Clip) -> None:
    """Also by configurations from before transformers 4.30, whose end token is 2: the highest number."""
    usual = read_texts(tiny_clip, TEXTS)
    model = tiny_clip.model
    ids = tiny_clip.tokenizer(["two red circles"])["input_ids"][0]
    assert max(ids) == ids[-1]  # as in every vocabulary of CLIP's
    model.config.text_config.eos_token_id = 2
    model.text_model.eos_token_id = 2
    assert read_texts(tiny_clip, TEXTS).attention["text_gini"] == pytest.approx(usual.attention["text_gini"])
    other = ids[2]  # an end token in the middle of a text ends it, however long it is
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = other
    cut = read_texts(tiny_clip, ["two red circles"])
    assert cut.words.tolist() == [1]
    assert cut.embedding.numpy() == pytest.approx(tiny_clip.texts(["two red circles"]).numpy(), abs=1e-5)
    nowhere = tiny_clip.tokenizer.vocab_size + 9  # then transformers takes the first token
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = nowhere
    lost = read_texts(tiny_clip, ["two red circles", "a photo"])
    assert lost.words.tolist() == [0, 0]
    assert lost.attention == lost.heads == {}
    assert lost.embedding.numpy() == pytest.approx(
        tiny_clip.texts(["two red circles", "a photo"]).numpy(), abs=1e-5
    )


def test_reading_leaves_the_model_as_it_was(tiny_clip: Clip) -> None:
    model = tiny_clip.model.train()
    model.text_model.encoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    told: list[tuple[int, int]] = []
    read_texts(tiny_clip, TEXTS, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(TEXTS), len(TEXTS))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_half_precision_is_read_in_float32(tiny_clip: Clip) -> None:
    model = tiny_clip.model.bfloat16()
    found = read_texts(tiny_clip, TEXTS)
    raised = read_texts(replace(tiny_clip, model=copy.deepcopy(model).float()), TEXTS)
    assert torch.equal(found.embedding, raised.embedding)
    assert all(np.array_equal(found.attention[name], raised.attention[name]) for name in raised.attention)


def test_what_cannot_be_read_is_said(tiny_clip: Clip) -> None:
    with pytest.raises(UnsupportedModelError, match=r"text tower of torch.* cannot be read; supported are"):
        text_tower_of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no texts"):
        read_texts(tiny_clip, [])
    with torch.no_grad():
        tiny_clip.model.text_model.encoder.layers[1].mlp.fc2.bias[0] = torch.nan
    with pytest.raises(MeasureError, match="state of the pooled token after block 2 contains nan or inf"):
        read_texts(tiny_clip, TEXTS)


def moved(clip: Clip, amount: float) -> Clip:
    """The text tower and its projection changed in every weight; the image tower left alone."""
    other, generator = copy.deepcopy(clip.model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (other.text_model, other.text_projection):
            for parameter in part.parameters():
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return replace(clip, model=other)


def test_readings_are_the_definitions(tiny_clip: Clip) -> None:
    """In the order of the listing; CKA, cosines and norms by numpy; drift by hand."""
    other = moved(tiny_clip, 0.05)
    before, after = read_texts(tiny_clip, TEXTS), read_texts(other, TEXTS)
    old, new = text_weights(tiny_clip.model), text_weights(other.model)
    found = text_readings(before, after, old, new)
    assert list(found) == [name for name, entry in MEASURES.items() if entry.family == "text"]
    assert not effective_weights(tiny_clip.model).keys() & old.keys()
    for block in range(2):
        x, y = (side.states.block(block).double().numpy() for side in (before, after))
        assert found["text_cka"].blocks[block] == pytest.approx(numpy_cka(x, y), abs=1e-9)
    x, y = before.embedding.double().numpy(), after.embedding.double().numpy()
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert found["text_embedding_drift"].value == pytest.approx(1 - cosines.mean())
    assert found["text_cka_embedding"].value == pytest.approx(numpy_cka(x, y))
    own, theirs = dict(tiny_clip.model.named_parameters()), dict(other.model.named_parameters())

    def share(start: str) -> float:
        names = [name for name in own if name.startswith(start)]
        change = sum(float((own[n] - theirs[n]).detach().double().square().sum()) for n in names)
        return (change / sum(float(own[n].detach().double().square().sum()) for n in names)) ** 0.5

    assert found["text_weight_drift"].value == pytest.approx(share("text_model."))
    expected = [share(f"text_model.encoder.layers.{block}.") for block in range(2)]
    assert found["text_weight_drift"].blocks == pytest.approx(expected)
    assert found["text_weight_drift_projection"].value == pytest.approx(share("text_projection."))
    entropy = found["text_entropy"]
    values = before.attention["text_entropy"].mean(), after.attention["text_entropy"].mean()
    assert (entropy.before.value, entropy.value) == pytest.approx(values)
    assert entropy.drift.mean == pytest.approx(100 * (values[1] / values[0] - 1))


def test_what_did_not_move_and_what_moved_further(tiny_clip: Clip) -> None:
    before, old = read_texts(tiny_clip, TEXTS), text_weights(tiny_clip.model)
    same, near, far = (
        text_readings(before, read_texts(other, TEXTS), old, text_weights(other.model))
        for other in (tiny_clip, moved(tiny_clip, 0.02), moved(tiny_clip, 0.1))
    )
    assert same["text_cka"].value == pytest.approx(1)
    assert same["text_weight_drift"].value == same["text_entropy"].drift.mean == 0
    assert far["text_cka"].value < near["text_cka"].value < 1
    assert far["text_embedding_drift"].value > near["text_embedding_drift"].value > 0


def test_weights_of_adapters_are_those_that_act(tiny_clip: Clip) -> None:
    adapted = with_adapter(tiny_clip)
    merged = copy.deepcopy(adapted.model).merge_and_unload()
    found, plain = text_weights(adapted.model), text_weights(merged)
    assert found.keys() == plain.keys() == text_weights(tiny_clip.model).keys()
    assert all(torch.allclose(found[name], plain[name], atol=1e-6) for name in plain)
    changed = [n for n, w in text_weights(tiny_clip.model).items() if not torch.equal(w, found[n])]
    assert len(changed) == 2 * 4


def test_siglips_last_layer_is_its_projection(siglip_clip: Clip) -> None:
    weights = text_weights(siglip_clip.model)
    assert torch.equal(weights["text_projection.weight"], siglip_clip.model.text_model.head.weight)
    parameters = sum(p.numel() for p in siglip_clip.model.text_model.parameters())
    assert sum(weight.numel() for weight in weights.values()) == parameters
