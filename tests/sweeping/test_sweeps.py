"""Whole sweeps on the tiny CLIP: resumed, pruned, without an answer, on bad input, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import clipdrift
import small_runs
from clipdrift.errors import Interrupted
from clipdrift.repair.result import read_repaired
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import Engine, JobOutcome, StudyJob, StudyOptions, StudyWatcher
from clipdrift.study.tables import Tables
from clipdrift.sweeping import Sweep, SweepError
from commands import fails, runner
from small_runs import Lab

KEEP = 95.0


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that the tiny CLIP tells above chance, by the luck of their names."""
    root = tmp_path_factory.mktemp("sets") / "zoo"
    for label, name in enumerate(("one", "big", "stripe")):
        (root / "test" / name).mkdir(parents=True)
        for i in range(40):
            small_runs.picture(label, 5000 + i).save(root / "test" / name / f"im{i:02}.png")
    return root


@pytest.fixture(scope="module")
def base(lab: Lab, zoo: Path) -> dict[str, Any]:
    found = small_runs.settings(lab.model, lab.pictures, optim={"epochs": 3})
    found["data"]["transfer"] = [{"name": "zoo", "path": str(zoo)}]
    return found


def do(base: dict[str, Any], lab: Lab, out: Path, **changes: Any) -> Sweep:
    asked: dict[str, Any] = {"keep": KEEP, "budget": 3, "rates": "1e-4,1e-3,1e-2", "device": "cpu"}
    return clipdrift.sweep(base, out, cache=lab.cache, **(asked | changes))


@pytest.fixture(scope="module")
def done(base: dict[str, Any], lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return do(base, lab, tmp_path_factory.mktemp("sweeps") / "first")


def stopping(after: int) -> Engine:
    """An engine that is interrupted after so many runs."""
    left = [after]

    def engine(
        jobs: tuple[StudyJob, ...], how: StudyOptions, watcher: StudyWatcher
    ) -> tuple[JobOutcome, ...]:
        found: list[JobOutcome] = []
        for job in jobs:
            if not left[0]:
                raise Interrupted("asked to stop")
            left[0] -= 1
            found += run_here((job,), how, watcher)
        return tuple(found)

    return engine


def test_a_sweep_stays_within_its_budget_and_chooses_what_keeps_enough(done: Sweep) -> None:
    assert done.work <= done.asked.budget
    assert done.work == pytest.approx(sum(trial.epochs for trial in done.trials) / 3)
    assert len({trial.key for trial in done.trials}) == len(done.trials)
    chosen = done.chosen
    assert chosen is not None
    assert chosen.kept is not None
    assert chosen.kept >= KEEP
    allowed = [trial for trial in done.trials if trial.status == "done" and not trial.missed]
    assert chosen.accuracy == max(trial.accuracy or 0 for trial in allowed)
    gone = [trial.name for trial in done.trials if trial.promoted]
    assert gone == [trial.name for trial in done.trials if trial.rung == 2] != []


def test_what_was_chosen_is_saved_with_its_card_and_tested_on_other_images(done: Sweep) -> None:
    assert done.chosen is not None
    assert done.final is not None
    root = Path(done.folder)
    step = read_repaired(root / "chosen").chosen_step
    assert step is not None
    assert (step.alpha, step.accuracy) == (done.chosen.alpha, done.chosen.accuracy)
    assert step.test_accuracy == done.final.test_accuracy
    assert step.transfer["zoo"].retention == pytest.approx(done.chosen.kept)
    kept = done.final.kept["zoo"]
    assert (kept.images, kept.untouched, done.asked.choosing) == (60, True, {"zoo": 20})
    assert load_file(Path(done.final.model) / "head.safetensors")
    assert "What fine-tuning kept and moved" in Path(done.final.card).read_text()
    first = done.summary().splitlines()[0]
    assert f"to keep at least 95 % of zero-shot accuracy on zoo, take {done.chosen.name}" in first


def test_a_sweeps_folder_is_a_studys(done: Sweep) -> None:
    tables = Tables.of(done.folder)
    assert set(tables.runs["run"]) == {trial.key for trial in done.trials}
    assert done.advice == tuple(clipdrift.advise(done.folder, keep=KEEP).summary())
    written = json.loads((Path(done.folder) / "sweep.json").read_text())
    assert written == json.loads(json.dumps(done.to_dict()))


def test_a_sweep_that_was_stopped_goes_on_to_the_same(
    done: Sweep, base: dict[str, Any], lab: Lab, tmp_path: Path
) -> None:
    """Twice, in the midst of a batch and on the second rung; nothing is kept but the runs."""
    for after in (2, 3):
        with pytest.raises(Interrupted):
            do(base, lab, tmp_path, engine=stopping(after))
    before = len(list(tmp_path.glob("*/record.json")))
    assert 2 < before < len(done.trials)
    again = do(base, lab, tmp_path)
    assert again.trials == done.trials
    assert again.chosen == done.chosen
    assert again.final is not None
    assert done.final is not None
    assert again.final.kept == done.final.kept
    assert do(base, lab, tmp_path, engine=stopping(99)) == again


def test_a_run_that_drifts_too_far_is_pruned_and_says_why(
    base: dict[str, Any], lab: Lab, tmp_path: Path
) -> None:
    """Without mixes; then nothing is left to choose from, and only the nearest is saved, on request."""
    asked = {"methods": ["full_ft"], "rates": "1e-2", "budget": 2, "mix": False}
    found = do(base, lab, tmp_path, **asked)
    (trial,) = found.trials
    assert (trial.status, trial.promoted, found.answered, found.final) == ("pruned", False, False, None)
    assert "embedding_drift >= 0.28" in trial.why
    assert trial.why.endswith("beyond it, runs ended below 90 %")
    assert not (tmp_path / "chosen").exists()
    whole = do(base, lab, tmp_path, prune=False, **asked)
    assert [one.status for one in whole.trials] == ["done", "done"]
    assert whole.chosen is None
    assert whole.nearest is not None
    assert "no setting that was tried does" in whole.summary()
    assert "Nothing was saved" in whole.summary()
    assert not (tmp_path / "chosen").exists()
    nearest = do(base, lab, tmp_path, prune=False, nearest=True, **asked)
    assert nearest.trials == whole.trials
    assert nearest.chosen is None
    assert nearest.final is not None
    assert Path(nearest.final.model).is_dir()


def test_a_failed_run_is_named_and_stops_nothing(
    base: dict[str, Any], lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipdrift.study.engines.here as engine

    whole = engine.run

    def broken(config: Any, *arguments: Any, **options: Any) -> Any:
        if config.method.name == "lora":
            raise RuntimeError("no luck")
        return whole(config, *arguments, **options)

    monkeypatch.setattr(engine, "run", broken)
    found = do(base, lab, tmp_path, rates="1e-3", budget=2)
    assert {trial.method: trial.why for trial in found.trials if trial.status == "failed"} == {
        "lora": "no luck"
    }
    assert found.answered
    assert "- failed: lora at 1e-3, 1 epoch: no luck" in found.summary()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": 0}, "--keep 0"),
        ({"budget": 0.5}, "--budget 0.5: too little"),
        ({"budget": -1}, "--budget -1"),
        ({"keep_on": "cifar100"}, "--keep-on cifar100: no run is tested on it; there are zoo"),
        ({"choosing": 41}, "zoo: 41 images of each class"),
        ({"eta": 1}, "--eta 1"),
    ],
)
def test_what_has_no_sense_is_said_before_anything_is_done(
    base: dict[str, Any], lab: Lab, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SweepError, match=said):
        do(base, lab, tmp_path / "none", **changes)
    assert not (tmp_path / "none").exists()


def test_without_a_transfer_set_or_above_chance_nothing_can_be_kept(
    base: dict[str, Any], lab: Lab, tmp_path: Path
) -> None:
    with pytest.raises(SweepError, match="no transfer set"):
        do(small_runs.merged(base, {"data": {"transfer": []}}), lab, tmp_path)
    colours = {"name": "colours2", "path": str(lab.pictures)}
    with pytest.raises(SweepError, match="colours2: the backbone is not above chance"):
        do(small_runs.merged(base, {"data": {"transfer": [colours]}}), lab, tmp_path)


def test_the_command_sweeps_and_takes_bad_input_in_one_line(
    base: dict[str, Any], lab: Lab, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say = runner(capsys)
    out = tmp_path / "out"
    common = ["sweep", "--model", lab.model, "--data", f"colours={lab.pictures}", "--transfer", f"zoo={zoo}"]
    common += ["--out", out, "--cache", lab.cache, "--device", "cpu", "--set", "optim.epochs=3"]
    common += ["--set", "optim.batch_size=8", "--set", "data.train_per_class=12"]
    common += ["--set", "data.probe_per_class=4"]
    assert "--rates x: x is not a number" in fails(say(*common, "--rates", "x"))
    assert "too little" in fails(say(*common, "--budget", 1))
    said = say(*common, "--method", "linear_probe", "--rates", "1e-3,1e-2", "--budget", 2)
    assert (said.code, said.err) == (0, "")
    assert "take linear_probe at 1e-" in said.out
    assert str(out / "chosen" / "README.md") in said.out
    card = (out / "chosen" / "README.md").read_text()
    assert "clipdrift sweep" in card
    repeated = say(*common, "--method", "linear_probe", "--rates", "1e-3,1e-2", "--budget", 2, "--json")
    found = json.loads(repeated.out)
    assert found["answered"] is True
    assert found["chosen"]["alpha"] == found["final"]["kept"]["zoo"]["value"] / 100 == 1  # the head alone


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_on_ray_is_the_same(done: Sweep, base: dict[str, Any], lab: Lab, tmp_path: Path) -> None:
    """Runs and mixes are done by workers, all that a batch has at a time."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from clipdrift.study.engines.on_ray import RayEngine

    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    try:
        found = do(base, lab, tmp_path, engine=RayEngine())
    finally:
        ray.shutdown()
    assert found.trials == done.trials
    assert found.chosen == done.chosen


def test_without_optuna_one_line_says_how_to_install_it(
    base: dict[str, Any], lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SweepError, match=r"pip install 'clipdrift\[sweep\]'"):
        do(base, lab, tmp_path)
