"""Trackers: what they are told, and that none of them can stop a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import clipdrift
from clipdrift.config import ConfigError, RunConfig
from clipdrift.runs.reporter import Silent
from clipdrift.training.trackers import TRACKERS, Tracked, values_of
from small_runs import Lab


class Notes(Silent):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


class Kept:
    """A tracker that remembers, and fails at its n-th value if told so."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.ended: dict[str, float] = {}
        self.closed = 0
        self.fails_at = fails_at

    def log(self, step: int, values: Any) -> None:
        if len(self.logged) == self.fails_at:
            raise ConnectionError("no\nserver")
        self.logged.append((step, dict(values)))

    def end(self, values: Any) -> None:
        self.ended = dict(values)

    def close(self) -> None:
        self.closed += 1


def small(lab: Lab) -> RunConfig:
    return lab.config("linear_probe", optim={"epochs": 2, "learning_rate": 0.01, "batch_size": 8})


def test_a_tracker_is_told_every_step_and_every_look(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at the end what the record says of the chosen epoch."""
    kept = Kept()
    monkeypatch.setitem(TRACKERS, "kept", lambda config, folder: kept)
    record = clipdrift.train(small(lab), lab.tmp(), cache=lab.cache, track=["kept", "kept"])
    losses = {step: v["train/step_loss"] for step, v in kept.logged if "train/step_loss" in v}
    assert list(losses) == list(range(1, record.history[-1].step + 1))
    looks = {step: v for step, v in kept.logged if "train/loss" in v}
    assert looks == {point.step: values_of(point) for point in record.history}
    assert record.best is not None
    assert kept.ended == {f"chosen/{name}": value for name, value in values_of(record.best).items()}
    assert kept.ended["chosen/test/accuracy"] == record.best.test_accuracy
    assert kept.closed == 1


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_tracker_that_fails_changes_no_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """It is warned of once and left out; the record is that of a run without it, to the bit."""
    kept, sound, notes = Kept(fails_at), Kept(), Notes()
    monkeypatch.setitem(TRACKERS, "kept", lambda config, folder: kept)
    monkeypatch.setitem(TRACKERS, "sound", lambda config, folder: sound)
    out = lab.tmp()
    found = clipdrift.train(small(lab), out, cache=lab.cache, reporter=notes, track=["kept", "sound"])
    assert notes.warned == ["kept has failed (no server); the run goes on without it"]
    assert len(kept.logged) == fails_at
    assert sound.ended
    plain = clipdrift.train(small(lab), lab.tmp(), cache=lab.cache)
    assert found.without_times() == plain.without_times()


def test_a_tracker_that_is_not_there_or_does_not_start_is_left_out(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed

    def refuse(config: RunConfig, folder: Path) -> Any:
        raise RuntimeError("not logged in")

    monkeypatch.setitem(TRACKERS, "mlflow", refuse)
    notes = Notes()
    tracked = Tracked.of(notes, ["wandb", "mlflow"], small(lab), tmp_path)
    assert tracked.trackers == {}
    assert notes.warned == [
        "wandb is not installed (pip install 'clipdrift[wandb]'); the run goes on",
        "mlflow does not start (not logged in); the run goes on without it",
    ]


def test_an_unknown_tracker_is_refused_before_anything_is_done(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--track notes: no such tracker; there are tensorboard, wandb"):
        clipdrift.train(small(lab), tmp_path / "out", cache=lab.cache, track=["notes"])
    assert not (tmp_path / "out").exists()


def test_tensorboard_holds_the_values(lab: Lab) -> None:
    """Read back with TensorBoard's own reader."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = lab.tmp()
    record = clipdrift.train(small(lab), out, cache=lab.cache, track=["tensorboard"])
    events = EventAccumulator(str(out / record.key / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("validation/accuracy")}
    assert found == pytest.approx({p.step: p.validation_accuracy for p in record.history})
    assert len(events.Scalars("train/step_loss")) == record.history[-1].step


def test_wandb_is_called_as_its_documentation_says(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in takes the calls: the run of our key, gone on with; values, summary, the end."""
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", (step, values))),
        summary=SimpleNamespace(update=lambda values: calls.append(("summary", values))),
        finish=lambda: calls.append(("finish", None)),
    )
    module = ModuleType("wandb")
    module.init = lambda **given: (calls.append(("init", given)), run)[1]  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = small(lab)
    tracked = Tracked.of(Silent(), ["wandb"], config, tmp_path)
    tracked.step(1, 10, 0.5)
    tracked.close()
    given = calls[0][1]
    assert (given["id"], given["resume"], given["project"]) == (config.key, "allow", "clipdrift")
    assert given["config"]["method"]["name"] == "linear_probe"
    assert calls[1:] == [("log", (1, {"train/step_loss": 0.5})), ("finish", None)]
