"""A study is done whole: nothing twice, nothing lost to one failure, and its folder says how it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import clipdrift.study.engines.here as here
from clipdrift.cli import main
from clipdrift.config import ConfigError
from clipdrift.runs.layout import RECORD
from clipdrift.runs.locks import claim
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.runs.store import Store
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import JobOutcome, StudyJob, StudyOptions, counted, jobs_of, manifest_of
from clipdrift.study.engines.on_ray import absolute
from clipdrift.study.folder import Manifest, StudyError, read_manifest, write_study_manifest
from clipdrift.study.frames import (
    blocks_frame,
    cells_frame,
    history_blocks_frame,
    history_frame,
    records_in,
    runs_frame,
    varied,
)
from clipdrift.study.plan import Study, study_of
from small_runs import Lab, settings


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[JobOutcome] = []

    def plan(self, jobs: tuple[StudyJob, ...]) -> None:
        self.planned = len(jobs)

    def begins(self, job: StudyJob) -> Reporter:
        self.begun.append(job.key)
        return Silent()

    def ends(self, job: StudyJob, outcome: JobOutcome) -> None:
        self.ended.append(outcome)


def small_plan(lab: Lab, **changes: Any) -> dict[str, Any]:
    base = settings(lab.model, lab.pictures)
    base["optim"]["epochs"] = 1
    return {
        "name": "small",
        "seeds": [1, 2],
        "base": base,
        "axes": {"method": ["linear_probe", {"name": "lora", "rank": 2}]},
    } | changes


def walk(
    lab: Lab, study: Study, out: Path, **how: Any
) -> tuple[tuple[StudyJob, ...], tuple[JobOutcome, ...], Notes]:
    jobs, notes = jobs_of(study), Notes()
    write_study_manifest(out, manifest_of(study, jobs))
    return jobs, run_here(jobs, StudyOptions(out=out, cache=lab.cache, device="cpu", **how), notes), notes


@pytest.fixture(scope="module")
def lab_once(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    from small_runs import write_folder

    root = tmp_path_factory.mktemp("studies")
    pictures = write_folder(root / "colours")
    return Lab(tiny_clip_dir, pictures, root / "cache", lambda: tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def done(lab_once: Lab) -> tuple[Path, tuple[StudyJob, ...]]:
    """A small study that was done once."""
    out = lab_once.tmp()
    jobs, outcomes, notes = walk(lab_once, study_of(small_plan(lab_once)), out)
    assert [outcome.ending for outcome in outcomes] == ["done"] * 4
    assert notes.begun == [job.key for job in jobs]
    assert notes.planned == 4
    return out, jobs


# --- doing


def test_what_is_done_is_not_done_again(lab_once: Lab, done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob(RECORD)}
    assert len(before) == 4
    _, outcomes, notes = walk(lab_once, study_of(small_plan(lab_once)), out)
    assert (notes.begun, [outcome.known for outcome in outcomes]) == ([], [True] * 4)
    assert {path: path.stat().st_mtime_ns for path in out.rglob(RECORD)} == before


def test_weights_are_kept_on_request_alone(lab_once: Lab, done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    assert not list(done[0].rglob("*.safetensors"))
    study = study_of(small_plan(lab_once)).limited(1)
    out = lab_once.tmp()
    (job,), _, _ = walk(lab_once, study, out, keep_weights=True)
    assert (out / job.key / "model" / "head.safetensors").is_file()


def test_a_failure_stops_no_other_and_is_tried_again_on_request(
    lab_once: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = here.run, True

    def breaks(config: Any, *args: Any, **options: Any) -> Any:
        if broken and config.method.name == "lora" and config.seed == 1:
            folder = Store(args[0]).folder(config.key)
            folder.open(config)
            folder.fail(ValueError("no such luck"))
            raise ValueError("no such luck")
        return run(config, *args, **options)

    monkeypatch.setattr(here, "run", breaks)
    out, study = lab_once.tmp(), study_of(small_plan(lab_once))
    jobs, outcomes, _ = walk(lab_once, study, out)
    assert [o.ending for o in outcomes] == ["done", "failed", "done", "done"]
    assert outcomes[1].reason == "no such luck"
    assert counted(outcomes) == {"done": 3, "failed": 1}
    # said again it is left alone, and still known to have failed
    _, outcomes, notes = walk(lab_once, study, out)
    assert (outcomes[1].ending, outcomes[1].known, notes.begun) == ("failed", True, [])
    broken = False
    _, outcomes, notes = walk(lab_once, study, out, retry_failed=True)
    assert notes.begun == [jobs[1].key]
    assert [o.ending for o in outcomes] == ["done"] * 4


def test_a_diverged_run_is_an_outcome(lab_once: Lab) -> None:
    plan = small_plan(lab_once, seeds=[1], axes={"optim.learning_rate": [1e-3, 1e30]})
    plan["base"]["method"] = "full_ft"
    out = lab_once.tmp()
    jobs, outcomes, _ = walk(lab_once, study_of(plan), out)
    assert [o.ending for o in outcomes] == ["done", "diverged"]
    frame = runs_frame(records_in(out, [job.key for job in jobs]))
    assert list(frame["status"]) == ["done", "diverged"]
    assert frame["accuracy"].isna().tolist() == [False, True]
    assert list(cells_frame(frame)["diverged"]) == [0, 1]


def test_a_run_that_another_process_does_is_left_to_it(lab_once: Lab) -> None:
    out, study = lab_once.tmp(), study_of(small_plan(lab_once))
    jobs = jobs_of(study)
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom clipdrift.runs.locks import claim\n"
        "with claim(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out / jobs[2].key)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        _, outcomes, _ = walk(lab_once, study, out)
        other.kill()
    assert [o.ending for o in outcomes] == ["done", "done", "elsewhere", "done"]
    assert str(other.pid) in (outcomes[2].reason or "")
    with claim(out / jobs[2].key):  # the dead process holds nothing
        pass
    _, outcomes, notes = walk(lab_once, study, out)
    assert notes.begun == [jobs[2].key]
    assert [o.ending for o in outcomes] == ["done"] * 4


def test_local_copies_have_one_fingerprint_and_final_keys(
    lab_once: Lab, done: tuple[Path, tuple[StudyJob, ...]]
) -> None:
    out, jobs = done
    assert {job.key for job in jobs} == {folder.path.name for folder in Store(out).runs()}
    assert all(job.config.data.target.fingerprint for job in jobs)
    here_ = absolute(jobs[0])
    assert here_.key == jobs[0].key
    assert Path(here_.config.data.target.path or "").is_absolute()


def test_the_same_images_under_two_names_are_no_two_runs(lab_once: Lab, tmp_path: Path) -> None:
    """The plan cannot know; the content does."""
    (tmp_path / "copy").mkdir()
    twin = tmp_path / "copy" / "colours"
    twin.symlink_to(lab_once.pictures)
    plan = small_plan(lab_once, seeds=[1], axes={"data.target": [str(lab_once.pictures), str(twin)]})
    with pytest.raises(ConfigError, match="are the same run"):
        jobs_of(study_of(plan))


# --- the folder


def test_a_folder_holds_one_study(
    lab_once: Lab, done: tuple[Path, tuple[StudyJob, ...]], tmp_path: Path
) -> None:
    out, jobs = done
    assert read_manifest(out).keys == tuple(job.key for job in jobs)
    other = Manifest(name="other", runs=())
    with pytest.raises(StudyError, match="holds the study small; give other another folder"):
        write_study_manifest(out, other)
    with pytest.raises(StudyError, match="no study here"):
        read_manifest(tmp_path)
    write_study_manifest(tmp_path, other)
    damages = {"{": "damaged", '{"schema_version": 9}': "schema 9", '{"schema_version": 1}': "name"}
    for damage, text in damages.items():
        (tmp_path / "study.json").write_text(damage)
        with pytest.raises(StudyError, match=text):
            read_manifest(tmp_path)
        write_study_manifest(tmp_path, other)  # a damaged plan is replaced, nothing is lost
        assert read_manifest(tmp_path) == other


# --- tables


def test_the_tidy_frame_holds_the_records(done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    out, jobs = done
    frame = runs_frame(records_in(out, [job.key for job in jobs]), read_manifest(out).labels)
    assert list(frame["run"]) == [job.key for job in jobs]
    assert list(frame["method"]) == ["linear_probe", "lora"] * 2
    assert list(frame["seed"]) == [1, 1, 2, 2]
    assert frame["label"].str.startswith("l").all()
    for _, row in frame.iterrows():
        record = Store(out).folder(row["run"]).record()
        best, last = record.best, record.last
        assert best is not None
        assert last is not None
        assert row["accuracy"] == best.test_accuracy
        assert row["cka"] == best.measures["cka"].mean
        assert row["entropy_drift"] == best.measures["entropy"].drift
        assert row["last_entropy"] == last.measures["entropy"].mean
        assert row["epoch1_gini_drift"] == record.history[0].measures["gini"].drift
        assert row["zero_shot_objects-100"] == best.transfer["objects-100"].accuracy
        assert row["trained_parameters"] == record.model.trained
        assert row["backbone_entropy"] == record.backbone.measures["entropy"].mean


def test_cells_are_means_over_seeds(done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    out, _ = done
    frame = runs_frame(records_in(out))
    cells = cells_frame(frame).set_index("method")
    assert list(cells["runs"]) == [2, 2]
    for method, group in frame.groupby("method"):
        assert cells.loc[method, "accuracy"] == pytest.approx(group["accuracy"].mean())
        assert cells.loc[method, "cka_sd"] == pytest.approx(np.std(group["cka"], ddof=1))
    assert varied(cells.reset_index())[0] == "method"
    assert cells_frame(runs_frame([])).empty


def test_blocks_and_moments(done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    out, jobs = done
    records = list(records_in(out))
    blocks = blocks_frame(records)
    record = Store(out).folder(jobs[1].key).record()
    assert record.best is not None
    rows = blocks[(blocks["run"] == record.key) & (blocks["measure"] == "entropy")]
    assert tuple(rows["value"]) == record.best.measures["entropy"].blocks
    assert tuple(rows["drift"]) == record.best.measures["entropy"].drift_blocks
    assert tuple(rows["block"]) == (1, 2)
    history = history_frame(records)
    assert len(history) == sum(len(r["history"]) for r in records)
    moments = history_blocks_frame(records, "entropy")
    assert len(moments) == 2 * len(history)


def test_damaged_records_are_left_out_and_named(
    done: tuple[Path, tuple[StudyJob, ...]], tmp_path: Path
) -> None:
    out, jobs = done
    text = (out / jobs[0].key / RECORD).read_text()
    whole = jobs[0].key
    for name, content in (
        (whole, text),
        ("b", text[:-40]),
        ("c", '{"schema_version": 7}'),
        ("d", ""),
        ("e", text),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(content)
    problems: list[str] = []
    frame = runs_frame(records_in(tmp_path, problem=problems.append))
    assert list(frame["run"]) == [jobs[0].key]
    assert [problem.split("/record.json")[0][-1] for problem in problems] == ["b", "c", "d", "e"]
    assert "schema 7" in problems[1]
    assert f"the record of another run ({whole})" in problems[3]  # copied there, or a folder that was renamed


# --- the command


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_command_runs_shows_and_resumes(
    lab_once: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan, out = tmp_path / "mine.toml", tmp_path / "out"
    base = settings(lab_once.model, lab_once.pictures)
    plan.write_text(
        'name = "mine"\nseeds = [1, 2]\n[base]\nmethod = "linear_probe"\n'
        + f"data = {_toml(base['data'])}\nmodel = {_toml(base['model'])}\noptim = {_toml(base['optim'])}\n"
        + "[axes]\n" + '"optim.learning_rate" = [1e-3, 1e-2]\n'
    )  # fmt: skip
    code, text, _ = said(capsys, "study", "plan", plan, "--quick")
    assert (code, text.count("linear_probe")) == (0, 0)
    assert "4 runs" in text
    options = ("--cache", lab_once.cache, "--device", "cpu")
    code, text, err = said(capsys, "study", "run", plan, "--out", out, "--limit", 2, *options)
    assert (code, err) == (0, "")
    assert "2 of 2 runs done" in text
    code, text, _ = said(capsys, "study", "run", plan, "--out", out, *options)
    assert "4 of 4 runs done (2 found done before)" in text
    code, text, _ = said(capsys, "study", "status", out)
    assert "4 of 4 finished: 4 done" in text
    key = read_manifest(out).keys[0]
    code, text, _ = said(capsys, "study", "show", key[:8], "--out", out)
    assert (code, f"run {key}" in text) == (0, True)
    code, text, _ = said(capsys, "study", "table", out, "--csv", tmp_path / "runs.csv")
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4
    assert "±" in text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)


QUICK = ("study", "run", "quickstart", "--out", "x")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("study", "run", "nothing", "--out", "x"), "study nothing: neither a file nor one of"),
        ((*QUICK, "--engine", "moon"), "--engine moon: unknown; legal: here, ray"),
        ((*QUICK, "--gpus-per-run", "1"), "--gpus-per-run: has a meaning with"),
        ((*QUICK, "--limit", "0"), "--limit 0: at least one run"),
        (("study", "status", "x"), "x: no study here"),
        (("study", "table", "x"), "x: no finished run here"),
        (("study", "show", "abc", "--out", "x"), "abc: no such run in x"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, *words)
    assert code == 2
    assert err.startswith(f"error: {text}")
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_failed_run_is_told_by_the_exit_status(
    lab_once: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Here one cell asks for more validation images than there are."""
    plan, base = tmp_path / "mine.toml", settings(lab_once.model, lab_once.pictures)
    plan.write_text(
        'name = "mine"\n[base]\nmethod = "linear_probe"\n'
        + f"data = {_toml(base['data'])}\nmodel = {_toml(base['model'])}\noptim = {_toml(base['optim'])}\n"
        + '[axes]\n"data.validation_per_class" = [1000, 2]\n'
    )
    out = tmp_path / "out"
    code, text, _ = said(
        capsys, "study", "run", plan, "--out", out, "--cache", lab_once.cache, "--device", "cpu"
    )
    assert code == 1
    assert "1 of 2 runs done, 1 failed" in text
    code, text, _ = said(capsys, "study", "status", out)
    assert "1 done, 1 failed" in text
    assert "1000" in text  # the reason
    key = read_manifest(out).keys[0]
    code, text, _ = said(capsys, "study", "show", key, "--out", out)
    assert "Traceback" in text


def test_status_and_show_load_no_torch(done: tuple[Path, tuple[StudyJob, ...]]) -> None:
    out, jobs = done
    asked = [["status", str(out)], ["table", str(out)], ["show", jobs[0].key, "--out", str(out)]]
    code = (
        "import json, sys\nfrom clipdrift.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try:\n        main(['study', *words])\n"
        "    except SystemExit as end:\n        assert not end.code, (words, end.code)\n"
        "    assert 'torch' not in sys.modules, words"
    )
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(asked)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
