"""A run that was interrupted anywhere ends at the same weights and the same record, to the bit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipdrift.adapt import METHODS, PENALTIES, Adapted, Penalties, Setting, adapt, build
from clipdrift.config import OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.errors import Interrupted
from clipdrift.model.clip import load
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.record import Point, Record
from clipdrift.runs.reporter import Silent
from clipdrift.runs.signals import Stops, stops
from clipdrift.runs.store import RunFolder
from clipdrift.training.checkpoint import load_state, save_state
from clipdrift.training.course import CheckpointSchedule, CheckpointWriter, Course
from clipdrift.training.loop import train_model
from clipdrift.training.order import Order
from clipdrift.training.progress import Moment, Progress
from interrupted_runs import Unplugged, Unplugs, weights_of
from small_runs import Lab

CLASSES = ("circle", "square")
MakeDeck = Callable[..., Deck]


# --- the loop


def work_on(folder: Path, deck: Deck, config: RunConfig) -> tuple[Adapted, Penalties]:
    """Model and penalties as they are before the first step; all of this is the same in each try."""
    clip = load(folder)
    features = class_features(clip, CLASSES, ["a {}"])
    adapted = adapt(clip, config.method, 2, 0, [f"a {name}" for name in CLASSES])
    penalties = build(config.penalty, Setting(adapted, (2.5, 2.5), features))
    torch.manual_seed(3)
    return adapted, penalties


def some_penalties(method: str) -> RunConfig:
    """Two of them in turn; each comes with several methods."""
    options: dict[str, Any] = {"name": method}
    if method in ("lora", "dora"):
        options["dropout"] = 0.3
    kinds = list(PENALTIES)
    place = list(METHODS).index(method)
    names = [] if method == "linear_probe" else [kinds[place % 5], kinds[(place + 2) % 5]]
    return parse_config({"method": options, "penalty": names}, RunConfig)


def seen_by(moments: list[Moment], adapted: Adapted) -> tuple[list[Moment], dict[str, Tensor]]:
    return moments, adapted.snapshot()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "logit_scale"])  # of captions
def test_training_goes_on_to_the_bit(
    tiny_clip_dir: Path, make_deck: MakeDeck, tmp_path: Path, method: str
) -> None:
    """Every method with penalties: within an epoch, and between a step and the look that was due."""
    deck, config = make_deck(10), some_penalties(method)
    optim = OptimConfig(learning_rate=1e-3, epochs=2, batch_size=4)
    ways: dict[str, Any] = {"seed": 5, "looks": Order(len(deck), optim.batch_size, optim.epochs).looks(2)}

    def look(adapted: Adapted) -> None:
        adapted.eval()
        with torch.no_grad():
            adapted.clip.model.get_image_features(deck.images(slice(0, 3)))

    adapted, penalties = work_on(tiny_clip_dir, deck, config)
    whole = []
    for moment in train_model(adapted, deck, optim, penalties=penalties, **ways):
        look(adapted)
        whole.append(moment)
    wanted = seen_by(whole, adapted)

    def part(saved: Any, stop: int | None, until: list[Moment]) -> Adapted:
        """From ``saved`` to ``stop``, where the state is written to a file as a checkpoint is."""
        adapted, penalties = work_on(tiny_clip_dir, deck, config)
        progress = Progress(saved)

        def pause() -> None:
            if progress.step == stop:
                save_state(tmp_path / "state.pt", progress.state())
                raise Unplugged

        try:
            for moment in train_model(
                adapted, deck, optim, penalties=penalties, progress=progress, pause=pause, **ways
            ):
                look(adapted)
                until.append(moment)
        except Unplugged:
            pass
        return adapted

    found: list[Moment] = []
    saved = None
    for stop in (3, 4, None):  # at the end of epoch 1, within the second, to the end
        adapted = part(saved, stop, found)
        saved = load_state(tmp_path / "state.pt")
    assert found == wanted[0]
    assert found[-1].loss != found[0].loss
    last = adapted.snapshot()
    assert last.keys() == wanted[1].keys()
    assert all(torch.equal(value, wanted[1][name]) for name, value in last.items())


def test_a_backbones_value_is_computed_in_the_same_company(
    tiny_clip_dir: Path, make_deck: MakeDeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits depend on which images pass together: a training that goes on must not regroup them."""
    from clipdrift.adapt.reference import Reference

    deck, config = make_deck(10), parse_config({"penalty": "ldifs"}, RunConfig)
    groups: dict[tuple[int, bool], set[tuple[tuple[int, ...], tuple[bool, ...]]]] = {}
    compute = Reference._compute

    def noted(self: Reference, picked: Any, mirrored: Any) -> None:
        for image, side in zip(picked.tolist(), mirrored.tolist(), strict=True):
            group = (tuple(picked.tolist()), tuple(mirrored.tolist()))
            groups.setdefault((image, side), set()).add(group)
        compute(self, picked, mirrored)

    monkeypatch.setattr(Reference, "_compute", noted)
    state = None
    for _ in range(2):
        adapted, penalties = work_on(tiny_clip_dir, deck, config)
        progress = Progress(state)
        for moment in train_model(
            adapted, deck, OptimConfig(epochs=4, batch_size=4), seed=1, penalties=penalties, progress=progress
        ):
            if moment.epoch == 2:
                state = progress.state()
    assert {len(found) for found in groups.values()} == {1}
    assert len({group for found in groups.values() for group in found}) > 5


def test_what_is_over_costs_nothing(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Killed while the result is tested, a run must not compute its frozen blocks again."""
    deck, config = make_deck(6), parse_config({"method": "linear_probe"}, RunConfig)
    optim, kept = OptimConfig(epochs=2, batch_size=4), []
    states = []  # type: ignore[var-annotated]
    for saved in (None, 0):
        adapted, _ = work_on(tiny_clip_dir, deck, config)
        progress = Progress(None if saved is None else states[saved])
        moments = list(
            train_model(adapted, deck, optim, seed=0, progress=progress, on_keep=lambda *a: kept.append(a))
        )
        states.append(progress.state())
        assert len(moments) == (2 if saved is None else 0)
        assert progress.trained() == {"head.weight", "head.bias"}
    assert kept == [(6, 12), (12, 12)]
    assert all(torch.equal(states[0]["weights"][n], v) for n, v in states[1]["weights"].items())


# --- a whole run


def same_end(one: tuple[Record, RunFolder], other: tuple[Record, RunFolder]) -> None:
    """Record, metrics and saved weights, to the bit; nothing of the way is left."""
    assert one[0].without_times() == other[0].without_times()
    first, second = weights_of(one[1]), weights_of(other[1])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = [(folder.path / "metrics.jsonl").read_bytes() for _, folder in (one, other)]
    assert metrics[0] == metrics[1]
    for _, folder in (one, other):
        left = {file.name for file in folder.path.iterdir()}
        assert left == {
            "config.json", "metrics.jsonl", "record.json", "model", "weights.json", "maps.npz", "lock"
        }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> tuple[Record, RunFolder]:
    return lab.run(lab.config(PLAIN))


def interrupted(lab: Lab, config: RunConfig, places: list[Unplugs], schedule: CheckpointSchedule) -> Any:
    """The run, ended at each of the places in turn, each time taken up by the same call."""
    out = lab.tmp()
    for place in places:
        with pytest.raises(Unplugged):
            lab.run(config, out, reporter=place, schedule=schedule)
    return lab.run(config, out, schedule=schedule)


PLAIN = "norm_only"
DROPOUT = {"name": "lora", "dropout": 0.3}
RUNS: dict[str, tuple[dict[str, Any], list[Unplugs]]] = {
    "dropout and penalties": (
        {"method": DROPOUT, "penalty": ["apr", "ldifs", "l2_sp"], "evaluation": {"per_epoch": 2}},
        [Unplugs(3), Unplugs(8)],
    ),
    "the head first": (
        {"method": {"name": "lp_ft", "probe_epochs": 2}, "penalty": ["l2_sp"]},
        [Unplugs(7, "the head alone"), Unplugs(0), Unplugs(6)],
    ),
    "a zero-shot head": (
        {"method": {"name": "lp_ft", "probe_epochs": 2}, "head": "zero_shot"},
        [Unplugs(7, "the head alone"), Unplugs(6)],
    ),
    "texts trained": ({"method": "flyp", "optim": {"learning_rate": 1e-4}}, [Unplugs(4), Unplugs(9)]),
    "testing and saving": (
        {"optim": {"learning_rate": 1e-2}},
        [Unplugs(0, "testing the last and the chosen epoch"), Unplugs(0, "saving")],
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "texts trained" else ()) for n in RUNS]
)
def test_the_same_call_goes_on_to_the_same_record(lab: Lab, name: str) -> None:
    """Interrupted twice and more; checkpoints lie some steps back, so that steps and looks come again."""
    changes, places = RUNS[name]
    config = lab.config(**changes)
    whole = lab.run(config)
    for place in places:
        place.doing = ""
    found = interrupted(lab, config, places, CheckpointSchedule(epoch_seconds=0, steps=2))
    same_end(whole, found)
    assert not [text for place in places for text in place.warnings]


def test_it_goes_on_and_does_not_begin_again(lab: Lab) -> None:
    """The positive control of the test above: from the checkpoint, not from the start."""
    told = Unplugs()
    config, out = lab.config(PLAIN), lab.tmp()
    with pytest.raises(Unplugged):
        lab.run(config, out, reporter=Unplugs(8), schedule=CheckpointSchedule(steps=3))
    (path,) = out.iterdir()
    assert (path / "checkpoint.pt").is_file()
    record, folder = lab.run(
        config, out, reporter=told, keep_checkpoint=True, schedule=CheckpointSchedule(steps=3)
    )
    assert told.steps == [7, 8, 9, 10]
    course = Course.read(folder.path / "checkpoint.pt", record.key)
    assert course is not None
    assert course.history == list(record.history)[: len(course.history)]
    told = Unplugs(1)
    with pytest.raises(Unplugged):  # what was kept is no start of a repetition
        lab.run(config, out, again=True, reporter=told)
    assert told.steps == [1]


def test_a_run_of_another_key_is_not_gone_on_from(lab: Lab) -> None:
    """A checkpoint copied from elsewhere is said and left alone."""
    config, out = lab.config(PLAIN), lab.tmp()
    with pytest.raises(Unplugged):
        lab.run(config, out, reporter=Unplugs(8), schedule=CheckpointSchedule(steps=3))
    (folder,) = out.iterdir()
    state = load_state(folder / "checkpoint.pt")
    assert state is not None
    save_state(folder / "checkpoint.pt", state | {"key": "another"})
    told = Unplugs(1)
    with pytest.raises(Unplugged):
        lab.run(config, out, reporter=told)
    assert told.steps == [1]
    assert told.warnings == [
        f"{folder / 'checkpoint.pt'}: of another run or version; the training starts again"
    ]


# --- when a checkpoint is written


def written(
    schedule: CheckpointSchedule, clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[float]:
    """The times at which checkpoints are written, of steps at the given times."""
    now = 0.0
    monkeypatch.setattr("clipdrift.training.course.time.monotonic", lambda: now)
    times: list[float] = []
    monkeypatch.setattr("clipdrift.training.course.save_state", lambda *_: times.append(now))
    course = Course("key")
    monkeypatch.setattr(course.progress, "state", dict)
    keeper = CheckpointWriter(tmp_path / "x", course, schedule, Stops())
    for number, now in enumerate(clock, 1):  # noqa: B007 - the clock reads it
        course.progress.step = number
        keeper.pause(len(clock), 10)
        keeper.looked(number % 10 == 0)
    return times


def test_checkpoints_are_written_by_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once a minute, and at an epoch's end unless that was a moment ago; a tiny run writes none."""
    every_second = [float(second) for second in range(1, 201)]
    found = written(CheckpointSchedule(), every_second, monkeypatch, tmp_path)
    assert found == [float(t) for t in range(10, 201, 10)]
    slow = [7.0 * second for second in range(1, 31)]  # an epoch is 70 s
    assert written(CheckpointSchedule(), slow, monkeypatch, tmp_path) == [
        63.0,
        70.0,
        133.0,
        140.0,
        203.0,
        210.0,
    ]
    assert written(CheckpointSchedule(), [0.01 * t for t in range(200)], monkeypatch, tmp_path) == []
    assert written(CheckpointSchedule(steps=70), every_second[:150], monkeypatch, tmp_path)[:2] == [
        10.0,
        20.0,
    ]


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of some gigabytes on a slow disk is written less often."""
    now = [0.0]
    times: list[float] = []
    monkeypatch.setattr("clipdrift.training.course.time.monotonic", lambda: now[0])

    def slow(*_: Any) -> None:
        times.append(now[0])
        now[0] += 10

    monkeypatch.setattr("clipdrift.training.course.save_state", slow)
    course = Course("key")
    monkeypatch.setattr(course.progress, "state", dict)
    keeper = CheckpointWriter(tmp_path / "x", course, CheckpointSchedule(), Stops())
    while now[0] < 1000:
        now[0] += 1
        keeper.pause(1000, 10)
    assert times[0] == 60
    assert all(later - earlier >= 200 for earlier, later in pairwise(times))


# --- being asked to stop


@dataclass
class Asks(Silent):
    """Sends this process a signal after some step, as a user or a cluster does; a second one on request."""

    number: int
    after: int = 4
    twice: bool = False

    def step(self, step: int, steps: int, loss: float) -> None:
        if step == self.after:
            signal.raise_signal(self.number)
            if self.twice:
                signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_a_step_that_is_kept(
    lab: Lab, undisturbed: tuple[Record, RunFolder], number: int, status: int
) -> None:
    """The message says where; handlers are those of before; the same call goes on from that very step."""
    config, out = lab.config(PLAIN), lab.tmp()
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=r"^stopped at step 7 of 10 \(epoch 2\); the same command goes on$"
    ) as end:
        lab.run(config, out, reporter=Asks(number, after=7))
    assert (end.value.number, end.value.exit_status) == (number, status)
    assert signal.getsignal(number) is before
    (path,) = out.iterdir()
    folder = RunFolder(path)
    assert folder.state().kind == "interrupted"
    assert folder.state().epoch == 1
    assert not (path / "failure.json").exists()
    assert not (path / "owner.json").exists()
    told = Unplugs(8 if number == signal.SIGINT else -1)
    with suppress(Unplugged):
        same_end(undisturbed, lab.run(config, out, reporter=told))
    assert told.steps[0] == 8


def test_a_second_signal_stops_at_once(lab: Lab, undisturbed: tuple[Record, RunFolder]) -> None:
    """Before the checkpoint is written; nothing is lost but the way from the last one."""
    config, out = lab.config(PLAIN), lab.tmp()
    with pytest.raises(Interrupted, match=r"^stopped while training; the same command goes on$"):
        lab.run(config, out, reporter=Asks(signal.SIGINT, twice=True))
    (path,) = out.iterdir()
    assert not (path / "checkpoint.pt").exists()
    same_end(undisturbed, lab.run(config, out))


def test_outside_of_training_a_signal_stops_at_once(lab: Lab, undisturbed: tuple[Record, RunFolder]) -> None:
    """There is nothing to wait for while images are decoded or the result is tested."""

    @dataclass
    class Early(Silent):
        at: str

        def stage(self, text: str) -> None:
            if text.startswith(self.at):
                signal.raise_signal(signal.SIGTERM)

    config, out = lab.config(PLAIN), lab.tmp()
    for at in ("decoding", "saving"):
        with pytest.raises(Interrupted, match=f"^stopped while {at}.*; the same command goes on$"):
            lab.run(config, out, reporter=Early(at), schedule=CheckpointSchedule(steps=5))
    same_end(undisturbed, lab.run(config, out))


def test_in_another_thread_signals_are_left_alone() -> None:
    """Python lets the main thread alone handle them; a run elsewhere must still work."""
    handlers = []

    def inside() -> None:
        with stops():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_an_ignored_signal_stays_ignored() -> None:
    """Under nohup or in a shell's background Ctrl-C is not for this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stops() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked.number is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_points_survive_a_checkpoint(undisturbed: tuple[Record, RunFolder]) -> None:
    """They go through text: every float must come back to the last bit."""
    record, _ = undisturbed
    assert [Point.model_validate_json(p.model_dump_json()) for p in record.history] == list(record.history)
