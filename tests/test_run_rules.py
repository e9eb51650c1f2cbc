"""Rules of a run of one's own: what they read, when they stop, keep and slow down, what the record says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipdrift.cli.light import run_list
from clipdrift.config import ConfigError, RunConfig, load_config, parse_config
from clipdrift.measures import absent_kinds
from clipdrift.model.clip import load
from clipdrift.model.weights import effective_weights
from clipdrift.rules import key_of, parse_rule, rule_measures, rule_name, unit_of, values_for
from clipdrift.rules.run_rules import resolve_rules, rules_of_run
from clipdrift.runs.record import Point, Record, Transfer, Values, read_record
from clipdrift.study.engines.running import run_study
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.study.plan import study_of
from clipdrift.training.choice import score
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.loop import learning_rate
from clipdrift.training.rows import row_of
from clipdrift.training.trackers import values_of
from interrupted_runs import Unplugged, Unplugs, weights_of
from small_runs import Lab, settings

PER_EPOCH = 5
"""Steps of an epoch of the lab's runs."""


def changes(rules: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A short run that moves at once, and its rules."""
    found: dict[str, Any] = {"optim": {"learning_rate": 1e-3, "epochs": 3}, **more}
    return found if rules is None else found | {"rules": rules}


@pytest.fixture(scope="module")
def free(lab: Lab) -> Record:
    """The run without rules, looked at twice an epoch."""
    return lab.run(lab.config("norm_only", **changes(evaluation={"per_epoch": 2})))[0]


def drifts(record: Record) -> list[float]:
    return [point.measures["embedding_drift"].mean for point in record.history]


# --- stopping


def test_a_run_that_stops_early_is_the_first_part_of_one_that_does_not(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit: history, and the weights of an epoch; the record says what stopped it and when."""
    whole, _ = lab.run(lab.config("norm_only", **changes()))
    told = Unplugs()
    rules = {"stop_when": f"embedding_drift >= {drifts(whole)[1]!r}"}
    record, folder = lab.run(lab.config("norm_only", **changes(rules)), reporter=told)
    assert record.status == "done"
    assert record.history == whole.history[:2]
    assert record.stopped is not None
    assert (record.stopped.kind, record.stopped.epoch, record.stopped.step) == ("stop", 2, 2 * PER_EPOCH)
    assert "drift/embedding_drift is" in record.stopped.text
    assert record.stopped.text.endswith("the training stops")
    assert told.warnings == [f"step {2 * PER_EPOCH}: {record.stopped.text}"]
    assert max(told.steps) == 2 * PER_EPOCH
    assert record.last is not None
    assert record.last.epoch == 2
    assert read_record(folder.path / "record.json") == record
    assert weights_of(folder)
    state = folder.state()
    assert (state.kind, state.reason, state.epoch) == ("done", "stopped by a rule", 2)
    frame = runs_frame(records_in(folder.path.parent)).set_index("run")
    assert frame.loc[record.key, ["stopped_epoch", "stopped_step"]].tolist() == [2, 2 * PER_EPOCH]
    run_list(folder.path.parent)
    epochs = record.config.optim.epochs
    assert f"done, stopped by a rule at epoch 2 of {epochs}" in capsys.readouterr().out


def test_a_stop_within_an_epoch_ends_the_epoch_there(lab: Lab, free: Record) -> None:
    """Before the first epoch's end too: what was trained is validated, chosen and saved."""
    config = lab.config(
        "norm_only", **changes({"stop_when": "embedding_drift > 0"}, evaluation={"per_epoch": 2})
    )
    record, folder = lab.run(config)
    (point,), first = record.history, free.history[0]
    assert not first.ends_epoch
    assert point.ends_epoch
    assert point.validation_accuracy is not None
    same = {"ends_epoch": False, "validation_accuracy": None}
    assert point.model_copy(update=same) == first
    assert record.best is not None
    assert record.best.step == point.step
    assert record.best.test_accuracy is not None
    assert (folder.path / "model").is_dir()


def test_patience_and_warm_up_wait(lab: Lab, free: Record) -> None:
    steps = [point.step for point in free.history]
    for options, look in (
        ({"patience": 3}, 2),
        ({"warm_up": steps[3]}, 3),
        ({"patience": 2, "warm_up": 4}, 2),
    ):
        rules = {"stop_when": "embedding_drift > 0", **options}
        config = lab.config("norm_only", **changes(rules, evaluation={"per_epoch": 2}))
        record, _ = lab.run(config, save=False)
        assert record.history[-1].step == steps[look], options
        assert len(record.history) == look + 1


# --- resuming


@pytest.mark.parametrize("after", [4, 8, 11])
def test_in_the_middle_of_patience_it_goes_on_to_the_same_record(lab: Lab, after: int) -> None:
    """Counted looks, lowered rates and what was said are in the checkpoint."""
    rules = {
        "warn_when": "embedding_drift > 0",
        "reduce_rate_when": "weight_drift > 0",
        "stop_when": "cka < 1",
        "patience": 4,
        "factor": 0.25,
    }
    config = lab.config("norm_only", **changes(rules, evaluation={"per_epoch": 2}))
    whole, plain = lab.run(config)
    assert {remark.kind for remark in whole.remarks} == {"warning", "rate", "stop"}
    out = lab.tmp()
    schedule = CheckpointSchedule(epoch_seconds=0, steps=2)
    if after <= whole.history[-1].step:
        with pytest.raises(Unplugged):
            lab.run(config, out, reporter=Unplugs(after), schedule=schedule)
    else:  # stopped already: it is the testing that is interrupted
        place = Unplugs(0, "testing the last and the chosen epoch")
        with pytest.raises(Unplugged):
            lab.run(config, out, reporter=place, schedule=schedule)
    told = Unplugs()
    again, folder = lab.run(config, out, schedule=schedule, reporter=told)
    assert again.without_times() == whole.without_times()
    first, second = weights_of(plain), weights_of(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if after > whole.history[-1].step:
        assert told.steps == []


# --- rates


def test_rates_are_multiplied_from_there_on(lab: Lab, free: Record) -> None:
    """Once for each condition that begins to hold; before it, the run is the one without rules."""
    rules = {"reduce_rate_when": "embedding_drift > 0", "factor": 0.25, "patience": 2}
    config = lab.config("norm_only", **changes(rules, evaluation={"per_epoch": 2}))
    record, _ = lab.run(config, save=False)
    assert record.history[:2] == free.history[:2]
    steps = 3 * PER_EPOCH
    expected = [
        learning_rate(point.step - 1, steps, config.optim) * (1 if look < 2 else 0.25)
        for look, point in enumerate(record.history)
    ]
    assert [point.learning_rate for point in record.history] == expected
    assert record.history[2:] != free.history[2:]
    (remark,) = record.remarks
    assert (remark.kind, remark.step) == ("rate", free.history[1].step)
    assert "multiplied by 0.25" in remark.text
    assert record.stopped is None


# --- choosing


def test_the_chosen_epoch_is_the_best_of_those_that_meet_all_demands(lab: Lab, free: Record) -> None:
    ends = [point for point in free.history if point.ends_epoch]
    drift = [point.measures["embedding_drift"].mean for point in ends]
    assert drift == sorted(drift)
    between = (drift[0] + drift[1]) / 2
    config = lab.config("norm_only", **changes({"keep_best_when": f"embedding_drift < {between}"}))
    record, _ = lab.run(config, save=False)
    assert record.best is not None
    assert record.best.epoch == 1
    assert record.remarks == ()
    assert record.last is not None
    assert record.last.epoch == 3  # nothing is cut off
    told = Unplugs()
    rules = {"keep_best_when": ["embedding_drift < 0.000001", "cka > 0"]}
    record, _ = lab.run(lab.config("norm_only", **changes(rules)), save=False, reporter=told)
    assert record.best is not None
    assert record.best.epoch == 1
    (remark,) = record.remarks
    assert remark.kind == "note"
    assert remark.text in told.warnings
    assert "no epoch meets keep_best_when (embedding_drift < 1e-06; cka > 0)" in remark.text


def end(accuracy: float, retention: float | None, cka: float = 0.9) -> Point:
    return Point(
        epoch=1,
        step=1,
        ends_epoch=True,
        learning_rate=1e-3,
        train_loss=1,
        train_accuracy=1,
        validation_accuracy=accuracy,
        measures={"cka": Values(mean=cka)},
        transfer={"a": Transfer(accuracy=1, retention=retention)},
    )


def test_the_order_of_epochs_by_hand() -> None:
    """Meeting all, by accuracy; then by the largest share that is missing; what was not measured last."""
    config = load_config(None, ["evaluation.least_retention=90", "evaluation.epoch_transfer_per_class=1"])
    demands = (parse_rule("retention/a >= 80"), parse_rule("cka >= 0.5"))
    points = [end(70, 95), end(60, 91), end(99, 88), end(99, 40), end(99, 95, cka=0.1), end(99, None)]
    scores = [score(point, config.evaluation, demands) for point in points]
    assert scores == sorted(scores, reverse=True)
    assert scores[:2] == [70, 60]
    assert scores[2] == pytest.approx(-1 - 2 / 90)
    assert scores[5] > -float("inf")
    plain = [score(point, config.evaluation) for point in points]
    assert plain[2] == 88 - 90 - 1  # as ever without demands


# --- warnings and records


def test_a_rule_that_only_warns_changes_no_number(lab: Lab) -> None:
    plain, folder = lab.run(lab.config("norm_only", **changes()), save=False)
    text = (folder.path / "record.json").read_text()
    assert "remarks" not in text
    assert '"rules"' not in text
    told = Unplugs()
    config = lab.config("norm_only", **changes({"warn_when": "embedding_drift > 0"}))
    record, folder = lab.run(config, save=False, reporter=told)
    assert record.key == plain.key
    assert (record.history, record.best, record.last) == (plain.history, plain.best, plain.last)
    (remark,) = record.remarks  # said once, as it held from then on
    assert remark.step == PER_EPOCH
    assert told.warnings == [f"step {PER_EPOCH}: {remark.text}"]
    written = json.loads((folder.path / "record.json").read_text())
    assert written["remarks"][0]["kind"] == "warning"
    assert written["config"]["rules"]["warn_when"] == ["embedding_drift > 0"]


# --- numbers


def test_a_look_has_every_number_that_a_rule_may_name(lab: Lab) -> None:
    """What is accepted at the start is measured; what is not measured is refused."""
    evaluation = {"epoch_transfer_per_class": 1}
    config = lab.config("full_ft", optim={"epochs": 1}, evaluation=evaluation)
    (point,) = lab.run(config, save=False)[0].history
    row = row_of(point)
    accepted = set()
    for name in rule_measures():
        rule = parse_rule(f"{name} >= {2 if unit_of(name) == '%' else 1}")
        try:
            asked = parse_config({**config.model_dump(), "rules": {"stop_when": str(rule)}}, RunConfig)
            rules_of_run(resolve_rules(asked), 2, absent_kinds(effective_weights(load(config.model).model)))
        except ConfigError:
            continue
        accepted.add(name)
        key = key_of(rule)
        assert key in row or any(other.startswith(f"{key}/") for other in row), name
    assert {"cka", "entropy", "entropy_drift", "retention", "weight_drift_q", "embedding_drift"} <= accepted
    assert (
        not {"weight_drift_conv1", "text_cka", "accuracy", "rollout_entropy", "zero_shot_agreement"}
        & accepted
    )
    for key, value in row.items():  # and the other way round: every number can be named
        assert value in values_for(parse_rule(rule_name(f"{key} >= 0")), row).values(), key
    cka, entropy = point.measures["cka"], point.measures["entropy"]
    assert row["drift/cka"] == row["measure/cka"] == cka.mean
    assert row["drift/cka/block_2"] == cka.blocks[1]
    assert row["drift/entropy"] == entropy.drift
    assert row["drift/entropy/block_1"] == entropy.drift_blocks[0]
    assert row["measure/entropy/block_1"] == entropy.blocks[0]
    told = values_of(point)
    assert told.items() >= {k: v for k, v in row.items() if "/block_" not in k}.items()
    assert not [key for key in told if "/block_" in key]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rules.stop_when=ckaa >= 1"], "rules.stop_when: rule 'ckaa >= 1': unknown measure ckaa"),
        (["rules.warn_when=['cka < 0.9', 'cka']"], "rules.warn_when: rule 'cka': write a measure"),
        (["rules.keep_best_when=cka > 2"], "rules.keep_best_when: rule 'cka > 2': cka is never above 1"),
        (
            ["rules.stop_when=retention < 90"],
            "rules.stop_when: rule 'retention < 90': retention is measured at the end only; set "
            "evaluation.epoch_transfer_per_class too, to test it after each epoch",
        ),
        (
            ["rules.stop_when=retention/dtd < 90", "evaluation.epoch_transfer_per_class=1"],
            "rules.stop_when: rule 'retention/dtd < 90': no transfer set dtd; there is cifar100",
        ),
        (
            ["rules.stop_when=retention < 90", "data.transfer=[]"],
            "rules.stop_when: rule 'retention < 90': retention needs a transfer set with classes",
        ),
        (
            ["rules.reduce_rate_when=text_cka < 0.9"],
            "rules.reduce_rate_when: rule 'text_cka < 0.9': text_cka is not measured, as this run does not "
            "train the text tower on captions",
        ),
        (
            ["rules.stop_when=rollout_entropy_drift < -10"],
            "rules.stop_when: rule 'rollout_entropy_drift < -10': rollout_entropy_drift is not measured "
            "while a run trains",
        ),
        (
            ["rules.stop_when=3"],
            'rules.stop_when = 3: write a rule, as in "embedding_drift >= 0.28", or a list',
        ),
        (["rules.patience=0"], "rules.patience = 0: should be greater than or equal to 1"),
        (["rules.factor=1"], "rules.factor = 1: should be less than 1"),
        (["rules.stopwhen=x"], "rules.stopwhen = 'x': unknown key (did you mean stop_when?)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_rule_is_one_line_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_rules(load_config(None, overrides))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_run_is_refused_before_anything_is_read(lab: Lab, tmp_path: Path) -> None:
    """And a block that the model does not have as soon as its blocks are known."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"rules.stop_when: rule 'retention < 90'"):
        lab.run(lab.config("norm_only", **changes({"stop_when": "retention < 90"})), out)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"rules.stop_when: rule 'cka/block_40 < 0.9': .* no block_40"):
        lab.run(lab.config("norm_only", **changes({"stop_when": "cka/block_40 < 0.9"})))


def test_a_rule_has_one_spelling() -> None:
    """Spaces, signs and a row's name for a number make no other run."""
    spellings = ["embedding_drift >= 0.28", "embedding_drift>=.280", "drift/embedding_drift ≥ 0.28"]
    keys = {resolve_rules(load_config(None, [f"rules.stop_when={text}"])).key for text in spellings}
    assert len(keys) == 1
    config = resolve_rules(load_config(None, ["rules.stop_when=drift/entropy < -10 %"]))
    assert config.rules.stop_when == ("entropy_drift < -10 %",)
    assert resolve_rules(config) == config


# --- a study


def test_a_study_with_rules(lab: Lab) -> None:
    """Rules in its base, an axis of them, and arms that are told apart."""
    base = settings(lab.model, lab.pictures, method="norm_only", **changes({"patience": 2}))
    plan = {
        "name": "ruled",
        "base": base,
        "seeds": [1],
        "axes": {"rules.stop_when": [[], "embedding_drift>0"]},
    }
    with pytest.raises(ConfigError, match=r"axes with .*: rules.stop_when: rule 'cka': write a measure"):
        study_of({**plan, "axes": {"rules.stop_when": ["cka"]}})
    out = lab.tmp()
    run_study(study_of(plan), out, cache=lab.cache, device="cpu")
    frame = runs_frame(records_in(out)).sort_values("other_options", na_position="first")
    assert frame["other_options"].fillna("").tolist() == ["", "stop_when=embedding_drift > 0, patience=2"]
    lengths = {
        record["key"]: (len(record["history"]), [r["kind"] for r in record.get("remarks", ())])
        for record in records_in(out)
    }
    assert sorted(lengths.values()) == [(2, ["stop"]), (3, [])]
