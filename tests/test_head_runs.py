"""Runs whose head begins as the class texts: what goes with it, what their records and tables say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipdrift.adapt import METHODS, PENALTIES, Setting, adapt, build, zero_shot_head
from clipdrift.analysis.runs import prepared
from clipdrift.config import ConfigError, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip
from clipdrift.model.zero_shot import class_features
from clipdrift.study.frames import runs_frame
from clipdrift.training.loop import train_model
from small_runs import Lab

CLASSES = ("circle", "square")


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"flyp", "logit_scale"}))
def test_it_trains_with_every_method_and_penalty(
    tiny_clip: Clip, make_deck: Callable[..., Deck], method: str
) -> None:
    """In bfloat16 as on a GPU: loss and weights are finite, head and, but for a probe, tower have moved."""
    names = [] if method == "linear_probe" else list(PENALTIES)
    config = parse_config({"method": method, "penalty": names, "head": "zero_shot"}, RunConfig)
    head = zero_shot_head(tiny_clip, CLASSES, ["a {}"])
    features = class_features(tiny_clip, CLASSES, ["a {}"])
    adapted = adapt(tiny_clip, config.method, 2, 0, [f"a {name}" for name in CLASSES], head)
    penalties = build(config.penalty, Setting(adapted, (2.5, 2.5), features))
    before = adapted.snapshot()
    optim = OptimConfig(learning_rate=1e-3, epochs=1, batch_size=4)
    (moment,) = train_model(adapted, make_deck(4), optim, seed=0, penalties=penalties, bf16=True)
    after = adapted.snapshot()
    assert torch.isfinite(torch.tensor(moment.loss))
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert "head.zero_shot.weight" in moved
    assert all(value.isfinite().all() for value in after.values())
    assert (method == "linear_probe") == all(name.startswith("head.") for name in moved)


def test_heads_tell_runs_apart_in_tables(lab: Lab) -> None:
    """One method with both heads is two arms; captions and flyp have neither."""
    short: dict[str, Any] = {"optim": {"epochs": 1}}
    records = [lab.run(lab.config("linear_probe", head=head, **short))[0] for head in ("linear", "zero_shot")]
    data = [json.loads(record.to_json()) for record in records]
    assert ["head" in one["config"] for one in data] == [False, True]
    frame = runs_frame(data)
    assert list(frame["head"]) == ["linear", "zero_shot"]
    assert frame["cell"].nunique() == 2
    assert set(prepared(frame)["variant"]) == {"linear_probe", "linear_probe head=zero_shot"}
    for change in ({"method": {"name": "flyp"}}, {"objective": {"name": "contrastive"}}):
        other = data[0] | {"config": data[0]["config"] | change}
        assert runs_frame([other])["head"].isna().all()


def test_the_record_names_the_prompts_of_the_texts(lab: Lab) -> None:
    """The ensemble where transfer sets are tested with it, else the first; of a linear head as ever."""
    target = {"name": "colours", "path": str(lab.pictures), "prompts": ["a {} picture", "one {} thing"]}
    found = {}
    for head, ensemble in (("linear", True), ("zero_shot", True), ("zero_shot", False)):
        config = lab.config(
            "linear_probe",
            head=head,
            data={"target": target},
            optim={"epochs": 1},
            evaluation={"prompt_ensemble": ensemble},
        )
        found[head, ensemble] = lab.run(config)[0].target.prompts
    assert found["linear", True] == found["zero_shot", False] == ("a {} picture",)
    assert found["zero_shot", True] == ("a {} picture", "one {} thing")


def test_classes_called_by_codes_have_no_texts(lab: Lab, tmp_path: Path) -> None:
    """A text tower knows nothing of them: refused before anything is trained, in one line."""
    for number, folder in enumerate(sorted((lab.pictures / "train").iterdir())):
        for split in ("train", "test"):
            place = tmp_path / "coded" / split / f"c{number}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(lab.pictures / split / folder.name)
    config = lab.config("linear_probe", target=str(tmp_path / "coded"), head="zero_shot")
    with pytest.raises(ConfigError, match=r"head = 'zero_shot': classes of coded are called by codes \(c0"):
        lab.run(config)
