"""Attention moved on purpose, without a task: by a penalty alone, in a loop and in a whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from tiny_methods import adapted_by, method, penalties_of, penalty, train_briefly
from transformers import CLIPModel

from clipdrift.adapt.entropy_pull import capped_aims
from clipdrift.adapt.objective import NoLoss
from clipdrift.config import ConfigError, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.model.clip import load
from clipdrift.study.frames import runs_frame
from small_runs import Lab

PULL: dict[str, Any] = {"name": "entropy_pull", "weight": 1.0, "ratio": 0.6}


def entropy_by_eager(model: CLIPModel, deck: Deck, folder: Path, block: int) -> float:
    """Mean entropy over images and heads, from the maps of transformers' own attention."""
    eager = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    out = eager.vision_model(pixel_values=deck.images(slice(None)), output_attentions=True)
    return float(scipy_entropy(out.attentions[block - 1][:, :, 0, 1:].detach().numpy(), axis=-1).mean())


@pytest.mark.parametrize("ratio", [0.6, 1.2])
@pytest.mark.parametrize("block", [1, 2])
def test_attention_moves_and_nothing_else(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck], ratio: float, block: int
) -> None:
    """Entropy goes where it is pulled. No label is looked at: here there are none that a loss could take.
    What this attention does not depend on, the head among it, stays as it was to the bit."""
    deck = make_deck(8, classes=3)
    deck.labels[:] = 10**6
    adapted = replace(adapted_by(load(tiny_clip_dir), method("full_ft")), objective=NoLoss())
    start, was = adapted.snapshot(), entropy_by_eager(adapted.clip.model, deck, tiny_clip_dir, block)
    penalties = penalties_of(adapted, deck, [penalty(**PULL | {"ratio": ratio, "blocks": [block]})])
    train_briefly(adapted, deck, penalties, epochs=10, learning_rate=3e-3, weight_decay=0)
    found = entropy_by_eager(adapted.clip.model, deck, tiny_clip_dir, block)
    aim = min(ratio * was, np.log(16))
    assert abs(found - aim) < 0.3 * abs(was - aim)
    same = {name for name, value in adapted.snapshot().items() if value.equal(start[name])}
    behind = f"vision_model.encoder.layers.{block - 1}"
    assert {"head.weight", "head.bias", "visual_projection.weight", f"{behind}.mlp.fc1.weight"} <= same
    assert f"{behind}.self_attn.q_proj.weight" not in same


def test_aims_beyond_uniform_attention_are_named() -> None:
    """By block, with the ratio that all of them can reach."""
    pulls = [penalty("entropy_pull", ratio=1.1), penalty("apr")]
    (said,) = capped_aims(pulls, [2.0, 2.6, 2.7], 16)  # ln 16 = 2.7726
    assert "ln 16 = 2.773 nats) in block 2, 3" in said
    assert "a ratio up to 1.026 is" in said
    assert capped_aims([penalty("entropy_pull", ratio=1.1, blocks=[1])], [2.0, 2.6, 2.7], 16) == []


def test_a_run_without_a_task(lab: Lab) -> None:
    """The last epoch is taken whatever validation says; the record says what was done and claims no more."""
    config = lab.config(
        objective="no_task", penalty=[PULL | {"ratio": 3.0}], optim={"learning_rate": 1e-3, "epochs": 3}
    )
    record, _ = lab.run(config)
    assert record.best is not None
    assert record.best.epoch == 3
    assert record.last is not None
    assert record.last.measures["entropy"].drift is not None
    assert record.last.measures["entropy"].drift > 1
    assert all(point.train_accuracy is None for point in record.history)
    capped, without = (one.text for one in record.remarks)
    assert "uniform attention is the aim there" in capped
    assert without.startswith("no task: penalties alone")
    row = runs_frame([record.model_dump(mode="json")]).iloc[0]
    assert row["other_options"] == "entropy_pull.ratio=3.0, no_task"
    validation = {point.validation_accuracy for point in record.history}
    labelled, _ = lab.run(config.model_copy(update={"objective": RunConfig().objective}))
    assert labelled.history[-1].validation_accuracy not in validation
    assert labelled.key != record.key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "objective no_task without a penalty: nothing is trained"),
        (
            {"penalty": ["apr", "l2_sp"]},
            "objective no_task with penalty apr, l2_sp alone: it is least at the",
        ),
        ({"penalty": PULL | {"ratio": 1}}, "objective no_task with penalty entropy_pull alone"),
        (
            {"penalty": PULL, "method": "flyp"},
            "objective no_task with method flyp: it learns classes by itself",
        ),
        ({"penalty": PULL, "method": "lp_ft"}, "objective no_task with method lp_ft"),
        ({"penalty": PULL, "method": "logit_scale"}, "method logit_scale with objective no_task"),
        ({"penalty": PULL, "method": "linear_probe"}, "penalty entropy_pull with method linear_probe"),
    ],
)
def test_what_would_train_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    """In one line, where the configuration is read."""
    with pytest.raises(ConfigError, match=said) as error:
        parse_config({"objective": "no_task", **changes}, RunConfig)
    assert "\n" not in str(error.value)


def test_a_penalty_that_nothing_trained_enters_is_refused(lab: Lab) -> None:
    """At the first step, as the model is needed to know."""
    config = lab.config("last_blocks", objective="no_task", penalty=[PULL | {"blocks": [1]}])
    with pytest.raises(ConfigError, match="no penalty reads a block that is trained"):
        lab.run(config)
