"""The key that names a run: what is part of it and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import pytest

from clipdrift.config import Method, Objective, Penalty, RunConfig, load_config, parse_config


def made(*overrides: str) -> RunConfig:
    return load_config(None, overrides)


UNCHANGED = [
    ["evaluation.batch_size=7"],
    ["evaluation.shown_images=0"],
    ["optim.micro_batch=16"],
    ["data.target.path=/other/place"],
    ["model.path=/other/place"],
    ["data.transfer=[{name = 'cifar100', path = '/other'}]"],
    ["optim.learning_rate=0.00001"],
    ["method=full_ft"],
    ["head=linear"],
    ["data.target=eurosat", "seed=42"],
    ["rules.warn_when=cka < 0.9"],
    ["rules.warn_when=cka < 0.9", "rules.patience=2", "rules.warm_up=9", "rules.factor=0.1"],
    ["rules.stop_when=[]", "rules.patience=1"],
]
CHANGED = [
    ["optim.learning_rate=2e-5"],
    ["optim.weight_decay=0"],
    ["optim.epochs=19"],
    ["optim.batch_size=32"],
    ["optim.warmup=0"],
    ["optim.clip_norm=none"],
    ["optim.precision=fp32"],
    ["seed=43"],
    ["data.seed=1"],
    ["data.protocol=published"],
    ["data.train_per_class=5"],
    ["data.validation_per_class=5"],
    ["data.probe_per_class=5"],
    ["data.flip=false"],
    ["data.skip_bad_images=true"],
    ["data.target=pets"],
    ["data.target.fingerprint=abc"],
    ["data.target.prompts=['{}']"],
    ["data.transfer=[]"],
    ["data.transfer=['cifar100', 'dtd']"],
    ["data.transfer=[{name = 'cifar100', per_class = 3}]"],
    ["model=clipdrift/mini"],
    ["model.fingerprint=abc"],
    ["model.revision=abc"],
    ["method=linear_probe"],
    ["method=lora"],
    ["method=lora", "method.rank=4"],
    ["method=lora", "method.alpha=4"],
    ["method=lora", "method.dropout=0"],
    ["method=lora", "method.targets=['q', 'k', 'v']"],
    ["method=lora", "method.train_projection=false"],
    ["method=lora", "method.frozen_blocks=1"],
    ["method.frozen_blocks=1"],
    ["method.freeze_embeddings=true"],
    ["method=rslora"],
    ["method=dora"],
    ["method=lora_plus"],
    ["method=lora_plus", "method.rate_ratio=4"],
    ["method=projections"],
    ["method=last_blocks"],
    ["method=last_blocks", "method.blocks=2"],
    ["method=bias_only"],
    ["method=norm_only"],
    ["method=lp_ft"],
    ["method=lp_ft", "method.probe_epochs=1"],
    ["method=lp_ft", "method.probe_learning_rate=0.1"],
    ["method=flyp"],
    ["head=zero_shot"],
    ["head=zero_shot", "method=lora"],
    ["method=flyp", "method.train_texts=false"],
    ["method=flyp", "method.loss=sigmoid"],
    ["optim.keep_frozen=false"],
    ["penalty=apr"],
    ["penalty=apr", "penalty.weight=1"],
    ["penalty=apr", "penalty.blocks=[1]"],
    ["penalty=entropy_floor"],
    ["penalty=entropy_floor", "penalty.ratio=0.5"],
    ["penalty=entropy_pull"],
    ["penalty=entropy_pull", "penalty.ratio=0.5"],
    ["penalty=entropy_pull", "penalty.blocks=[1]"],
    ["objective=no_task", "penalty=entropy_pull"],
    ["penalty=l2_sp"],
    ["penalty=ldifs"],
    ["penalty=ldifs", "penalty.blocks=[1]"],
    ["penalty=zero_shot_kl"],
    ["penalty=zero_shot_kl", "penalty.over=cifar100"],
    ["penalty=zero_shot_kl", "penalty.over={name='coco', retrieval=true}"],
    ["penalty=zero_shot_kl", "penalty.captions=9"],
    ["objective=contrastive", "penalty=apr", "penalty.towers=both"],
    ["objective.towers=text", "penalty=apr"],
    ["penalty=['apr', 'l2_sp']"],
    ["evaluation.per_epoch=2"],
    ["evaluation.at=dense"],
    ["evaluation.at=[0.01, 0.1]"],
    ["evaluation.epoch_transfer_per_class=1", "evaluation.transfer_at=looks"],
    ["evaluation.epoch_transfer_per_class=1"],
    ["evaluation.prompt_ensemble=true"],
    ["evaluation.least_retention=90", "evaluation.epoch_transfer_per_class=1"],
    ["objective=contrastive"],
    ["objective=contrastive", "method=logit_scale"],
    ["objective.towers=image"],
    ["objective.loss=sigmoid"],
    ["objective.label_smoothing=0.1"],
    ["objective.logit_scale=fixed"],
    ["objective.replay=coco"],
    ["objective.replay=coco", "objective.replay_share=0.5"],
    ["objective=contrastive", "data.train_images=10"],
    ["objective=contrastive", "data.validation_images=10"],
    ["objective=contrastive", "data.probe_images=10"],
    ["objective=contrastive", "data.test_images=10"],
    ["data.transfer=[{name='coco', retrieval=true}]"],
    ["rules.stop_when=cka < 0.9"],
    ["rules.stop_when=['cka < 0.9', 'cka < 0.8']"],
    ["rules.stop_when=cka < 0.9", "rules.patience=2"],
    ["rules.stop_when=cka < 0.9", "rules.warm_up=9"],
    ["rules.keep_best_when=cka < 0.9"],
    ["rules.reduce_rate_when=cka < 0.9"],
    ["rules.reduce_rate_when=cka < 0.9", "rules.factor=0.1"],
    ["rules.reduce_rate_when=cka < 0.9", "rules.patience=2"],
    ["rules.reduce_rate_when=cka < 0.9", "rules.warm_up=9"],
]


@pytest.mark.parametrize("overrides", UNCHANGED, ids=" ".join)
def test_the_key_does_not_depend_on_the_machine(overrides: list[str]) -> None:
    """The same result has one name: places and speed are no part of it, nor how a value is written."""
    assert made(*overrides).key == RunConfig().key


@pytest.mark.parametrize("overrides", UNCHANGED[:4], ids=" ".join)
def test_machine_fields_do_not_enter_other_keys_either(overrides: list[str]) -> None:
    """The same beside other keys of the same table that are not at their default."""
    others = ["evaluation.per_epoch=2", "data.target.fingerprint=abc", "model.fingerprint=abc", "data.seed=3"]
    assert made(*overrides, *others).key == made(*others).key


@pytest.mark.parametrize("idle", ["rules.factor=0.1", "rules.warn_when=cka < 1"])
def test_what_no_rule_uses_does_not_enter_the_key(idle: str) -> None:
    """Also beside a rule that does: a factor is of the rates alone, a warning changes no number."""
    stopping = ["rules.stop_when=cka < 0.9", "rules.patience=2"]
    assert made(*stopping, idle).key == made(*stopping).key
    keeping = ["rules.keep_best_when=cka > 0.9"]
    assert made(*keeping, idle, "rules.patience=2", "rules.warm_up=9").key == made(*keeping).key


def test_everything_that_changes_a_result_changes_the_key() -> None:
    """A key left out of it would give one run's result to another."""
    keys = [made(*overrides).key for overrides in [[], *CHANGED]]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)


def test_no_field_is_forgotten_here() -> None:
    """A new option must be put into one of the two lists above."""
    named = {text.partition("=")[0].strip() for overrides in [*UNCHANGED, *CHANGED] for text in overrides}
    own = RunConfig()
    parts = {"optim.": own.optim, "evaluation.": own.evaluation, "data.": own.data, "rules.": own.rules}
    wanted = {prefix + name for prefix, part in parts.items() for name in type(part).model_fields}
    for kind, union in (("method", Method), ("penalty", Penalty), ("objective", Objective)):
        for options in get_args(get_args(union)[0]):
            name = get_args(options.model_fields["name"].annotation)[0]
            written = [one for overrides in [*UNCHANGED, *CHANGED] for one in overrides]
            assert f"{kind}={name}" in written or name == "classification"
            wanted |= {f"{kind}.{key}" for key in options.model_fields if key != "name"}
    wanted |= {
        "seed",
        "model",
        "method",
        "head",
        "penalty",
        "objective",
        "model.path",
        "model.revision",
        "model.fingerprint",
    }
    assert wanted - {"data.target", "data.transfer"} <= named


def test_the_key_survives_json() -> None:
    """A record's configuration, read again, names the same run."""
    for overrides in [*UNCHANGED, *CHANGED]:
        config = made(*overrides)
        again = RunConfig.model_validate_json(config.model_dump_json())
        assert again == config
        assert again.key == config.key
        assert (
            parse_config(json.loads(json.dumps(config.model_dump(mode="json"))), RunConfig).key == config.key
        )


SCRIPT = """
import sys
from clipdrift.config import load_config
print(load_config(None, sys.argv[1:]).key)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_key_is_the_same_in_every_process(hash_seed: str) -> None:
    """It names folders that other processes and machines look for; and reading it needs no torch."""
    overrides = ["method=lora", "data.transfer=['dtd', 'größe']", "seed=5", "model.fingerprint=abc"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *overrides],
        env={"PYTHONHASHSEED": hash_seed, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.split() == [made(*overrides).key, "False"]
