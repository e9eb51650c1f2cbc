"""What follows from rows: warnings, stops, kept states, rates, cadence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from transformers import CLIPModel

from clipdrift.decision.asked import refuse_unmeasurable
from clipdrift.decision.result import CheckError
from clipdrift.model.clip import Clip
from clipdrift.monitoring import log
from clipdrift.monitoring.cadence import Cadence
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.monitoring.rates import multiply_rates
from clipdrift.rules import Rules, Ruling, Watch, parse_rule, rule_name, shortfall, values_for, weakest

Tiny = Callable[[], Any]


def _row(**more: float) -> dict[str, Any]:
    row = {
        "step": 1,
        "drift/cka": 0.8,
        "drift/cka/block_1": 0.9,
        "drift/cka/block_2": 0.7,
        "drift/entropy": -3.0,
        "measure/entropy": 2.0,
        "drift/embedding_drift": 0.3,
        "retention/a": 95.0,
        "retention/b": 60.0,
        "zero_shot/a": 50.0,
    }
    return row | more


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("cka < 0.9", {"drift/cka": 0.8}),
        ("drift/cka < 0.9", {"drift/cka": 0.8}),
        ("cka/block_2 < 0.9", {"drift/cka/block_2": 0.7}),
        ("cka/worst < 0.9", {"drift/cka/block_2": 0.7}),
        ("entropy_drift < 0", {"drift/entropy": -3.0}),
        ("drift/entropy < 0", {"drift/entropy": -3.0}),
        ("entropy < 9", {"measure/entropy": 2.0}),
        ("measure/entropy < 9", {"measure/entropy": 2.0}),
        ("embedding_drift > 0", {"drift/embedding_drift": 0.3}),
        ("drift/embedding_drift > 0", {"drift/embedding_drift": 0.3}),
        ("retention < 90", {"retention/a": 95.0, "retention/b": 60.0}),
        ("retention/b < 90", {"retention/b": 60.0}),
        ("zero_shot/a < 90", {"zero_shot/a": 50.0}),
        ("retention/c < 90", {}),
    ],
)
def test_a_rule_finds_its_numbers_in_a_row(rule: str, found: dict[str, float]) -> None:
    assert values_for(parse_rule(rule_name(rule)), _row()) == found


def test_a_condition_is_said_when_it_begins_and_again_after_it_was_over() -> None:
    ruling = Ruling(Rules(warn_when="cka < 0.9", patience=2, warm_up=3), None)
    said = []
    for step, cka in enumerate([0.8, 0.8, 0.95, 0.8, 0.8, 0.8, 0.95, 0.8, 0.8], start=1):
        said.append([one.kind for one in ruling.judge(_row(**{"drift/cka": cka}), step).said])
    # at step 2 it had held twice, but in the warm-up
    assert said == [[], [], [], [], ["warning"], [], [], [], ["warning"]]


def test_what_holds_since_the_warm_up_counts_from_its_end() -> None:
    ruling = Ruling(Rules(stop_when="cka < 0.9", patience=2, warm_up=3), None)
    assert [ruling.judge(_row(), step).stop for step in range(1, 7)] == [0, 0, 0, 1, 0, 0]


def test_words_name_number_threshold_and_source() -> None:
    rules = Rules(stop_when="retention < 90", source="our own tests")
    outcome = Ruling(rules, None).judge(_row(), 1)
    assert outcome.stop
    (one,) = outcome.said
    assert one.text == "retention/b is 60 % (retention < 90 %; our own tests): the training should stop"


def test_a_function_is_a_condition_too_and_a_missing_number_judges_nothing() -> None:
    def too_far(row: Any) -> bool:
        return row["drift/cka"] < 0.9

    ruling = Ruling(Rules(warn_when=[too_far, "text_cka < 0.5"], keep_best_when="text_cka > 0.5"), None)
    first, second = ruling.judge(_row(), 1), ruling.judge(_row(), 2)
    assert first.said[0].text == "too_far says so"
    assert sum("text_cka was not measured" in one.text for one in first.said) == 1  # said once
    assert second.said == []
    assert not first.good  # what was not measured is not good


@pytest.mark.parametrize(
    ("demand", "good"),
    [
        ("retention >= 50", True),
        ("retention >= 90", False),  # only on one of two sets
        ("cka/worst >= 0.7", True),
        ("cka/worst >= 0.8", False),  # in block 1 alone
        (["cka >= 0.8", "entropy >= 3"], False),
    ],
)
def test_a_state_is_good_where_every_set_and_block_meets_the_demand(demand: Any, good: bool) -> None:
    """An alarm counts where one of them is beyond its bound, a demand where none is."""
    assert Ruling(Rules(keep_best_when=demand), None).judge(_row(), 1).good is good


def test_patience_counts_measurements_of_its_own_number() -> None:
    """Where retention is measured less often than the rest, looks without it are none."""
    ruling = Ruling(Rules(stop_when="retention < 90", patience=2), None)
    part = {key: value for key, value in _row().items() if not key.startswith("retention")}
    rows = [(_row(), True), (part, False), (_row(), True)]
    outcomes = [ruling.judge(row, step, whole) for step, (row, whole) in enumerate(rows)]
    assert [one.stop for one in outcomes] == [False, False, True]
    assert [one.kind for outcome in outcomes for one in outcome.said] == ["stop"]


@pytest.mark.parametrize(
    ("rule", "missing", "key"),
    [
        ("retention >= 90", 30 / 90, "retention/b"),
        ("cka/worst >= 0.8", 0.1 / 0.8, "drift/cka/block_2"),
        ("|entropy_drift| <= 2", 0.5, "drift/entropy"),
        ("entropy_drift >= 0", 3.0, "drift/entropy"),
        ("cka >= 0.8", 0.0, "drift/cka"),
        ("text_cka >= 0.8", float("inf"), None),
    ],
)
def test_how_far_a_row_is_from_a_demand(rule: str, missing: float, key: str | None) -> None:
    assert shortfall(parse_rule(rule), _row()) == pytest.approx(missing)
    assert weakest(parse_rule(rule), _row()) == key
    assert shortfall(parse_rule("cka > 0.8"), _row()) > 0  # on the threshold, which it has to pass


def test_following_one_number_is_early_stopping_as_lightning_does_it() -> None:
    """Best value, patience, thresholds and nan, beside the library's own callback on the same numbers."""
    numbers = [50.0, 60.0, 60.4, 60.9, 59.0, 58.0, 57.0]
    ruling = Ruling(Rules(), Watch("retention/a", min_delta=0.5, patience=3))
    stopped = [ruling.judge(_row(**{"retention/a": value}), i).stop for i, value in enumerate(numbers)]
    best, waited, expected = None, 0, []
    for value in numbers:  # by hand, after EarlyStopping's description
        if best is None or value > best + 0.5:
            best, waited = value, 0
        else:
            waited += 1
        expected.append(waited >= 3)
    assert stopped == expected == [False, False, False, False, False, False, True]
    for watch, value, stop in (
        (Watch("retention/a", stopping_threshold=90), 91.0, True),
        (Watch("retention/a", divergence_threshold=40), 39.0, True),
        (Watch("drift/embedding_drift", divergence_threshold=0.7), 0.8, True),
        (Watch("drift/embedding_drift", stopping_threshold=0.1), 0.3, False),
        (Watch("retention/a"), float("nan"), True),
        (Watch("retention/a", check_finite=False), float("nan"), False),
        (Watch("retention/none"), 1.0, False),
    ):
        assert (
            Ruling(Rules(), watch)
            .judge(_row(**{watch.key: value} if "none" not in watch.key else {}), 1)
            .stop
            is stop
        )


@pytest.mark.parametrize(
    ("key", "grows"),
    [("retention/a", True), ("drift/cka", True), ("drift/cka/block_1", True),
     ("drift/embedding_drift", False),
     ("drift/zero_shot_kl", False), ("drift/zero_shot_agreement", True), ("zero_shot/a", True),
     ("drift/weight_drift", False)],
)  # fmt: skip
def test_what_is_good_is_known_of_each_number(key: str, grows: bool) -> None:
    assert Watch(key).grows is grows


def test_the_dense_grid_doubles_and_another_keeps_to_its_share_of_the_time() -> None:
    dense = Cadence("dense", 0.03)
    due = []
    for step in range(1, 40):
        if dense.due(step):
            due.append(step)
            dense.measured(step, 9.0, 1.0)
    assert due == [1, 2, 4, 8, 16, 32]
    cadence, said, due = Cadence(10, 0.05), [], []
    last = 0
    for step in range(1, 2000):  # a step takes 0.01 s, a measurement 0.1 s
        if cadence.due(step):
            said.append(cadence.measured(step, 0.1, 0.01 * (step - last)))
            due.append(step)
            last = step
    assert due[:3] == [10, 20, 30]
    assert sum(text is not None for text in said) == 1
    assert 0.1 / (0.1 + 0.01 * (due[-1] - due[-2])) <= 0.05
    assert "from now on" in next(text for text in said if text) or "now every" in next(t for t in said if t)
    free = Cadence(10, None)
    assert all(free.measured(step, 100.0, 1.0) is None for step in (10, 20, 30, 40))


def test_rates_are_multiplied_and_the_schedule_goes_on_from_there() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rates = []
    for step in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if step == 1:
            multiply_rates(optimizer, scheduler, 0.5)
    assert rates == pytest.approx([1, 1 / 2, 0.5 / 3, 0.5 / 4])


def test_a_training_is_warned_stopped_and_its_last_good_state_is_on_disk(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "d"
    states = {}

    def watch(model: Any) -> DriftMonitor:
        monitor = DriftMonitor(
            model, pixels, every=1, out=out, budget=None, on_error="raise",
            rules=Rules(
                warn_when="embedding_drift >= 0.05", keep_best_when="embedding_drift < 0.05",
                stop_when="embedding_drift >= 0.2",
            ),
        )  # fmt: skip
        whole = monitor._note

        def note(row: Any) -> None:
            states[row["step"]] = {k: v.clone() for k, v in model.state_dict().items()}
            whole(row)

        monitor._note = note  # type: ignore[method-assign]
        return monitor

    monitor = trainings.train(tiny(), watch, steps=60, rate=2e-3)
    rows = log.read(out)[0]
    assert rows == monitor.rows
    assert monitor.should_stop
    assert rows[-1]["drift/embedding_drift"] >= 0.2 > rows[-2]["drift/embedding_drift"]
    assert len(rows) < 60
    good = [row["step"] for row in rows if row["good"]]
    assert good
    assert good[-1] < rows[-1]["step"]
    kept = json.loads((monitor.good / "clipdrift.json").read_text())
    assert kept["step"] == good[-1]
    assert kept["numbers"]["drift/embedding_drift"] < 0.05
    loaded = CLIPModel.from_pretrained(monitor.good).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in states[good[-1]].items())
    warned = [record.message for record in caplog.records if "embedding_drift >= 0.05" in record.message]
    assert len(warned) == 1
    assert "yours" in warned[0]


def test_a_rate_is_reduced_once_when_a_rule_asks(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    rules = Rules(reduce_rate_when="weight_drift > 0", factor=0.1)
    with pytest.raises(MonitorError, match="optimizer="):
        DriftMonitor(model, pixels, out=tmp_path / "a", rules=rules)
    monitor = DriftMonitor(
        model, pixels, out=tmp_path / "d", every=1, rules=rules, optimizer=optimizer, on_error="raise"
    )
    for images, ids in trainings.batches(3):
        trainings.loss_of(model, images, ids).backward()
        optimizer.step()
        monitor.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert sum("rate" in line for row in monitor.rows for line in row["said"]) == 1


def test_default_rules_warn_and_keep_and_never_stop() -> None:
    ruling = Ruling(Rules.default(), None)
    far, near = (ruling.judge(_row(**{"drift/embedding_drift": v}), 1) for v in (0.9, 0.01))
    assert [one.kind for one in far.said] == ["warning", "warning"]
    assert not far.stop
    assert not far.good
    assert near.good
    assert not near.said
    assert "docs/early-warning.md" in far.said[0].text
    texts = {
        "drift/embedding_drift": 0.0,
        "drift/text_embedding_drift": 0.6,
    }  # texts alone
    moved = Ruling(Rules.default(), None).judge(_row(**texts), 1)
    assert [one.kind for one in moved.said] == ["warning"]
    assert not moved.good
    kept = Ruling(Rules.default(), None).judge(_row(**texts | {"drift/text_embedding_drift": 0.4}), 1)
    assert kept.good
    assert not kept.said


def test_a_model_that_computes_nan_is_stopped_where_a_number_is_followed(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    for check, stops in ((True, True), (False, False)):
        model = tiny()
        monitor = DriftMonitor(
            model, pixels, every=1, out=tmp_path / str(check), budget=None,
            monitor="drift/cka", check_finite=check,
        )  # fmt: skip
        assert monitor.step() is not None
        with torch.no_grad():
            model.visual_projection.weight.fill_(torch.nan)
        assert monitor.measure(note=False) is None
        assert not monitor.should_stop
        assert monitor.step() is None
        assert monitor.should_stop is stops
        assert any("drift/cka is nan" in text for text in monitor.said) is stops


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rules": Rules(stop_when="retention < 90")}, "retention < 90 %: there is no transfer set"),
        ({"rules": Rules(warn_when="retention/a < 90")}, "retention/a < 90 %: there is no transfer set"),
        ({"rules": Rules(warn_when="cka/block_9 < 0.9")}, "the image tower has 2 blocks"),
        ({"monitor": "retention/a"}, "monitor = 'retention/a': there is no transfer set"),
    ],
)
def test_a_rule_on_what_is_not_there_is_refused_at_once(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MonitorError, match=re.escape(said)):
        DriftMonitor(tiny(), pixels, out=tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_a_transfer_set_at_chance_is_said_when_the_monitor_is_made(
    tiny: Tiny, photos: Any, pictures: Path, tmp_path: Path
) -> None:
    transfer = {"name": "colours", "path": str(pictures)}
    rules = Rules(stop_when="retention/colours < 90")
    monitor = DriftMonitor(tiny(), photos, transfer=transfer, rules=rules, out=tmp_path / "d")
    assert any("not above chance" in text and text.startswith("warning") for text in monitor.said)
    with pytest.raises(MonitorError, match="the transfer sets are colours"):
        DriftMonitor(
            tiny(), photos, transfer=transfer, out=tmp_path / "e", rules=Rules(stop_when="retention/a < 90")
        )


def test_a_page_of_nothing_is_said_and_does_not_end_a_script(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    monitor = DriftMonitor(tiny(), pixels, out=tmp_path / "d")
    assert monitor.report() is None
    assert any("no page" in text for text in monitor.said)


def test_a_rule_can_name_every_number_of_a_row(
    tiny: Tiny, pixels: torch.Tensor, tiny_whole: Clip, tmp_path: Path
) -> None:
    """With whole maps and a text tower that moves: each key is read as a rule on that very number."""
    model = tiny()
    texts = [f"a photo of {i} dogs" for i in range(6)]
    monitor = DriftMonitor(
        model, pixels, processor=tiny_whole, texts=texts, flow=True, out=tmp_path / "d", on_error="raise"
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    row = monitor.measure()
    numbers = [key for key in row if key.partition("/")[0] in log.HEADS]
    assert {
        "drift/modality_gap",
        "measure/modality_gap",
        "measure/logit_scale",
        "drift/text_cka/block_1",
    } <= set(numbers)
    for key in numbers:
        assert values_for(parse_rule(rule_name(f"{key} >= 0")), row) == {key: row[key]}, key
    Rules(stop_when=["modality_gap_change > 0.1", "logit_scale >= 99", "|drift/modality_gap| > 1"])
    with pytest.raises(CheckError, match="logit_scale is measured while a model trains"):
        refuse_unmeasurable([parse_rule("logit_scale >= 99")], [])
