"""``clipdrift card``: read by the hub's own parser, said again it is the same, what is not ours stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file

from clipdrift.adapt import zero_shot_head
from clipdrift.adapt.heads import save_head
from clipdrift.cli import main
from clipdrift.decision import CardFacts, CheckError, HeadFacts
from clipdrift.decision.carding import _head, card
from clipdrift.model.clip import Clip
from clipdrift.reporting.card import END, START, section, write_card
from clipdrift.runs.store import RunFolder
from small_runs import Lab

OWN = """---
license: mit  # ours
tags:
- clip
base_model_relation: finetune
model-index:
- name: mine
  results:
  - task:
      type: image-classification
    dataset:
      type: beans
      name: Beans
    metrics:
    - type: accuracy
      value: 0.9
# below the results
language: en
---
# My model

Text of ours.
"""


@pytest.fixture(scope="module")
def facts(
    tiny_clip_dir: Path, moved: Callable[[float], Path], known: Path, tmp_path_factory: pytest.TempPathFactory
) -> CardFacts:
    cache = tmp_path_factory.mktemp("card-cache")
    return card(tiny_clip_dir, moved(0.1), str(known), transfer=f"colours={known}", limit=40, cache=cache)


def test_the_hub_reads_it(facts: CardFacts, tmp_path: Path) -> None:
    file = write_card(facts, tmp_path / "README.md", "clipdrift card a b", base_model="org/base")
    read = ModelCard.load(file)
    data = read.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "finetune")
    accuracy, kept = read.data.eval_results
    row = facts.comparison.transfer["colours"]
    assert accuracy.task_type == kept.task_type == "zero-shot-image-classification"
    assert (accuracy.dataset_type, accuracy.dataset_name, accuracy.dataset_split) == (
        "colours",
        "colours",
        "test",
    )
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", round(row.after, 2))
    assert (kept.metric_type, kept.metric_value) == ("retention", round(row.retention, 2))
    assert accuracy.metric_args["prompt"] == row.prompts[0]
    low, high = kept.metric_args["interval_95"]
    assert low < kept.metric_value < high


def test_the_section_says_what_was_kept_first_and_how_it_was_measured(
    facts: CardFacts, tmp_path: Path
) -> None:
    text = write_card(facts, tmp_path / "README.md", "clipdrift card a b").read_text()
    section = text[text.index(START) : text.index(END)]
    row = facts.comparison.transfer["colours"]
    first = f"It keeps {row.retention:.0f} % of the base's zero-shot accuracy on colours ("
    assert section.splitlines()[3].startswith(first)
    cka = facts.comparison.measures["cka"].value
    assert f"mean over blocks (1: unchanged) | {cka:.3f} (0." in section
    assert "internals on 40 images" in section
    assert "```\nclipdrift card a b\n```" in section
    assert "](clipdrift.png)" in section
    with Image.open(tmp_path / "clipdrift.png") as picture:
        assert picture.size[0] > 600
        assert len(set(picture.convert("L").tobytes())) > 10  # something is drawn


def test_said_again_it_is_the_same_and_all_else_stays(facts: CardFacts, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(OWN)
    once = write_card(facts, file, "command", base_model="org/base").read_text()
    assert write_card(facts, file, "command", base_model="org/base").read_text() == once
    assert "license: mit  # ours\ntags:\n- clip\n" in once
    assert "# below the results\nlanguage: en\n" in once
    assert "# My model\n\nText of ours.\n" in once
    assert once.count("base_model_relation: finetune") == 1
    file.write_text(once)
    read = ModelCard.load(file).data
    assert read.model_name == "mine"
    assert [result.dataset_type for result in read.eval_results] == ["beans", "colours", "colours"]
    file.write_text(once.replace("It keeps", "Something older keeps") + "\nWritten below.\n")
    again = write_card(facts, file, "command", base_model="org/base").read_text()
    assert again == once + "\nWritten below.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\nlicense: mit\n# no end", "does not end"),
        ("---\nlicense: [\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "no table of keys"),
        (f"{START}\nnever ended", "once each"),
        (f"{END}\n{START}", "once each"),
    ],
)
def test_a_broken_readme_is_left_alone(facts: CardFacts, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(CheckError, match=said) as caught:
        write_card(facts, file, "command")
    assert "\n" not in str(caught.value)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_names_its_own_backbone_images_and_sets(lab: Lab, tmp_path: Path) -> None:
    _, folder = lab.run(lab.config("lora", optim={"epochs": 1}))
    assert isinstance(folder, RunFolder)
    found = card(folder.path, cache=lab.cache, limit=8)
    assert found.adapter
    record = folder.record()
    assert set(found.comparison.transfer) == {spec.name for spec in record.config.data.transfer}
    data = ModelCard.load(write_card(found, tmp_path / "README.md", "command", "org/base")).data.to_dict()
    assert (data["base_model_relation"], data["library_name"]) == ("adapter", "peft")


def test_the_command(
    tiny_clip_dir: Path,
    moved: Callable[[float], Path],
    known: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    into = tmp_path / "card" / "README.md"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "card",
                str(tiny_clip_dir),
                str(moved(0.1)),
                "--images",
                str(known),
                "--limit",
                "8",
                "--into",
                str(into),
            ]
        )
    assert not ended.value.code
    assert "What zero-shot ability is left was not measured" in into.read_text()
    for arguments, said in ((["card", str(known)], "not a finished run"), (["card", "a", "b"], "no images")):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--into", str(into)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_it_says_what_the_head_beside_the_model_is(facts: CardFacts, tiny_clip: Clip, tmp_path: Path) -> None:
    """Whoever loads it must know what to give it; a bias of a loss on captions is no head."""
    save_head(zero_shot_head(tiny_clip, ("red", "green"), ["a {} thing"]), tmp_path)
    found = _head(tmp_path)
    assert found == HeadFacts(kind="zero_shot", classes=2, prompts=("a {} thing",))
    text = section(facts.model_copy(update={"head": found}), "clipdrift card")
    assert "the 2 classes of the target: a linear map of the normalised embedding that began as" in text
    assert "(`a {} thing`)" in text
    (tmp_path / "model").mkdir()
    save_head(torch.nn.Linear(24, 3), tmp_path / "model")
    (tmp_path / "head.safetensors").unlink()
    linear = _head(tmp_path)  # a run's folder
    assert linear == HeadFacts(kind="linear", classes=3)
    text = section(facts.model_copy(update={"head": linear}), "clipdrift card")
    assert "projected embedding as it is, not normalised" in text
    save_file({"bias": torch.zeros(())}, tmp_path / "model/head.safetensors")
    assert _head(tmp_path) is _head(tmp_path / "none") is None
    assert "head.safetensors" not in section(facts, "clipdrift card")
