"""The command line: what it prints, how it ends, and that listings start at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

import clipdrift
import small_runs
from clipdrift import listing
from clipdrift.adapt.methods import METHODS
from clipdrift.adapt.penalties import PENALTIES
from clipdrift.cli import app, main
from clipdrift.comparison import FAMILIES
from clipdrift.config.models import Method, RunConfig
from clipdrift.data.catalog import CATALOG
from clipdrift.data.worlds import WORLDS
from clipdrift.errors import Interrupted
from clipdrift.measures import ATTENTION, FLOW, KINDS, REPRESENTATION
from clipdrift.model.clip import MINI, load
from clipdrift.runs.record import read_record
from clipdrift.runs.store import Store
from commands import Said, Say, fails, runner

WEIGHTS = ("weight_drift", "weight_drift_projection")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: ``say("ls", "models")``."""

    return runner(capsys)


@pytest.fixture
def run_file(tiny_clip_dir: Path, pictures: Path, tmp_path: Path) -> Path:
    """A run of two epochs on a few images."""
    path = tmp_path / "run.toml"
    path.write_text(small_runs.toml(small_runs.settings(tiny_clip_dir, pictures)))
    return path


@pytest.fixture
def places(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path_factory.getbasetemp() / "cli-cache")]


# --- help


def test_help_names_every_command(say: Say) -> None:
    """Who starts without documentation starts here."""
    said = say("--help")
    assert said.code == 0
    wanted = {
        "train",
        "compare",
        "check",
        "advise",
        "card",
        "forecast",
        "study",
        "sweep",
        "report",
        "watch",
        "figure",
        "replicate",
        "interpolate",
        "rewind",
        "soften",
        "export",
        "mix",
        "demo",
        "pretrain",
        "ls",
        "status",
    }
    assert set(COMMANDS) == wanted
    for name, command in COMMANDS.items():
        assert re.search(rf"\b{name}\b", said.out)
        assert command.get_short_help_str(200).split(":")[0].split(",")[0][:20] in said.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_commands_help_says_all_it_takes(say: Say, name: str) -> None:
    """An option without a word on it does not exist for a user."""
    said = say(name, "--help")
    assert said.code == 0
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
        argument = parameter.metavar or parameter.name
        shown = parameter.opts[-1] if parameter.param_type_name == "option" else argument
        assert shown in said.out, f"{name} --help does not mention {shown}"


def test_no_command_at_all_shows_the_help(say: Say) -> None:
    """Not an error message: the newcomer's first command."""
    said = say()
    assert "Usage" in said.out + said.err


def test_the_version_is_that_of_the_package(say: Say) -> None:
    """Every bug report begins with it."""
    assert say("--version") == Said(0, f"clipdrift {clipdrift.__version__}\n", "")


def test_an_unknown_command_or_option_exits_with_2(say: Say) -> None:
    """As every command line does."""
    for arguments in (["trian"], ["train", "--learning-rate", "1"], ["ls"]):
        said = say(*arguments)
        assert said.code == 2
        assert said.err


# --- listings


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", listing.MODELS),
        ("datasets", [*CATALOG, *WORLDS]),
        ("methods", listing.METHODS),
        ("heads", listing.HEADS),
        ("penalties", listing.PENALTIES),
        ("measures", listing.MEASURES),
    ],
)
def test_a_listing_has_a_whole_line_for_each_entry(say: Say, what: str, names: Any) -> None:
    """Piped, one line per entry and nothing cut, so that grep and cut work on it."""
    said = say("ls", what)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line for line in lines[1:] if line.strip()] == lines[1:]
    assert [next(n for n in names if line.startswith(n + " ")) for line in lines[1:]] == list(names)
    assert "…" not in said.out


def test_an_unknown_listing_names_the_legal_ones(say: Say) -> None:
    """The message is the documentation."""
    legal = "models, datasets, methods, heads, penalties, measures, studies, figures"
    assert fails(say("ls", "nonsense")) == f"error: ls nonsense: unknown; legal: {legal}\n"


def test_listings_equal_the_tables_that_work() -> None:
    """Described in one place, done in another: neither may know more than the other."""
    tags = {
        tag
        for model in get_args(get_args(Method)[0])
        for tag in get_args(model.model_fields["name"].annotation)
    }
    assert set(listing.METHODS) == set(METHODS) == tags
    by_kind = tuple(f"weight_drift_{kind}" for kind in KINDS)
    assert {*ATTENTION, *FLOW, *REPRESENTATION, *WEIGHTS, *by_kind} < set(listing.MEASURES)
    assert {entry.family for entry in listing.MEASURES.values()} == {*FAMILIES, "stability"}
    assert MINI in listing.MODELS
    assert set(listing.PENALTIES) == set(PENALTIES)
    assert tuple(listing.HEADS) == get_args(RunConfig.model_fields["head"].annotation)
    for table in (listing.METHODS, listing.HEADS, listing.PENALTIES, listing.MEASURES, listing.MODELS):
        assert all(entry.summary and "\n" not in entry.summary for entry in table.values())


# --- train


def test_train_from_file_to_files(say: Say, run_file: Path, places: list[str]) -> None:
    """The main command, end to end: every file it names is there, every number is the record's."""
    said = say("train", run_file, *places)
    assert (said.code, said.err) == (0, "")
    found = {key: Path(path) for key, path in re.findall(r"^(record|weights) +(\S+)", said.out, re.M)}
    assert set(found) == {"record", "weights"}
    record = read_record(found["record"])
    assert (found["weights"] / "head.safetensors").is_file()
    assert record.best is not None
    assert f"run {record.key}" in said.out
    assert re.search(rf"test accuracy +{record.best.test_accuracy:.1f} %", said.out)
    assert f"chosen epoch {record.best.epoch}" in said.out
    for name in ("entropy", "erf95", "gini", "head_diversity"):
        values = record.best.measures[name]
        assert re.search(rf"{name}.* {values.mean:.3f} +{re.escape(f'{values.drift:+.1f}')} %", said.out)
    for name in ("cka", "embedding_drift", "weight_drift"):
        assert re.search(rf"{name} .*{record.best.measures[name].mean:.3f}", said.out)
    kept = record.best.transfer["objects-100"]
    assert f"{kept.accuracy:.1f} %" in said.out
    assert f"{kept.accuracy:.1f} %  not measurable" in said.out  # a random backbone is at chance
    assert "note: objects-100: the backbone's zero-shot accuracy" in said.out
    assert "is not above chance" in record.transfer["objects-100"].notes[-1]
    assert "entropy drift by block" in said.out
    for epoch in (1, 2):  # no terminal: a line per epoch for the log
        assert re.search(rf"^epoch {epoch} +loss", said.out, re.M)
    assert (found["record"].parent / "metrics.jsonl").is_file()
    again = say("train", run_file, *places)
    assert again.code == 0
    assert "epoch 1 " not in again.out  # done already
    assert "epoch 1 " in say("train", run_file, *places, "--again").out


def test_a_name_alone_and_sets_are_enough(
    say: Say, run_file: Path, places: list[str], tmp_path: Path
) -> None:
    """--set changes one key, and the record's key changes with it."""
    sets = ["--set", "method=lora", "--set", "method.rank=2", "--set", "optim.epochs=1"]
    said = say("train", run_file, *sets, *places)
    assert said.code == 0
    (folder,) = Store(tmp_path / "runs").runs()
    record = folder.record()
    assert record.config.method.model_dump()["rank"] == 2
    assert record.artefacts["kind"] == "adapter"
    assert len(record.history) == 1


def test_show_config_prints_all_of_it_and_does_nothing(say: Say, run_file: Path, tmp_path: Path) -> None:
    """The whole configuration, defaults included, as JSON that loads again."""
    out = tmp_path / "runs"
    said = say("train", run_file, "--set", "seed=7", "--show-config", "--out", out)
    assert (said.code, said.err) == (0, "")
    shown = json.loads(said.out)
    assert shown["seed"] == 7
    assert shown["optim"]["weight_decay"] == 0.01
    assert not out.exists()


def test_a_diverged_run_exits_with_1_and_names_its_record(
    say: Say, run_file: Path, places: list[str]
) -> None:
    """Neither success nor a mistake of the command: a result, and scripts can tell."""
    said = say("train", run_file, *places, "--set", "optim.learning_rate=1e30")
    assert said.code == 1
    assert "diverged" in said.out
    path = re.search(r"^record +(\S+)", said.out, re.M)
    assert path is not None
    assert read_record(Path(path[1])).status == "diverged"


def test_bad_images_stop_or_are_left_out(
    say: Say, run_file: Path, places: list[str], pictures: Path, tmp_path: Path
) -> None:
    """The flag is a short form of a configuration key, and its effect is said aloud."""
    shutil.copytree(pictures, tmp_path / "colours")
    (tmp_path / "colours" / "train" / "red" / "im01.png").write_bytes(b"no image")
    target = ["--set", f"data.target={tmp_path / 'colours'}"]
    assert "im01.png" in fails(say("train", run_file, *places, *target, "--set", "data.train_per_class=14"))
    said = say("train", run_file, *places, *target, "--set", "data.train_per_class=14", "--skip-bad-images")
    assert said.code == 0
    assert "1 unreadable images left out" in said.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nofile.toml"], r"nofile\.toml: no such file"),
        (
            ["--set", "optim.learning_rat=1"],
            r"optim\.learning_rat = 1: unknown key \(did you mean learning_rate",
        ),
        (["--set", "optim.epochs=none"], r"optim\.epochs = 'none'"),
        (["--set", "method.rank=4"], r"method\.rank = 4: unknown key; legal keys of full_ft"),
        (["--set", "nonsense"], r"--set nonsense: write it as key=value"),
        (["--set", "model.path=/no/such"], r"model\.path = '/no/such': no such folder"),
        (["--device", "abacus"], r"--device abacus: unknown"),
        (["--set", "model=clipdrift/mini", "--set", "data.target=eurosatt"], r"eurosatt.*eurosat"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_2(
    say: Say, places: list[str], arguments: list[str], named: str
) -> None:
    """Every error names the key or file, the value, and what is legal; never a traceback."""
    assert re.search(named, fails(say("train", *arguments, *places)))


def test_broken_toml_names_file_and_line(say: Say, tmp_path: Path) -> None:
    """The most frequent mistake of all."""
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\n[optim\n")
    assert re.search(r"run\.toml: not valid TOML: .*line 2", fails(say("train", path)))


def test_a_folder_that_holds_no_images_is_named(
    say: Say, run_file: Path, places: list[str], tmp_path: Path
) -> None:
    """A wrong path is easily given; the layouts are what one needs to hear of."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("x")
    said = say("train", run_file, *places, "--set", f"data.target={tmp_path / 'papers'}")
    assert re.search(
        r"papers: neither parquet files nor images in it \(1 file was not read: 1 \.txt in \.", fails(said)
    )


def test_a_model_that_is_nowhere_is_named_offline(say: Say, run_file: Path, places: list[str]) -> None:
    """Without network the message is about the name and the network, not about sockets."""
    line = fails(say("train", run_file, *places, "--set", 'model={name="no-such/clip"}'))
    assert "no-such/clip: not found in the local hub cache and not to be had from the hub" in line


def test_an_interruption_says_that_nothing_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run_file: Path
) -> None:
    """Ctrl-C is a way to end, not a crash."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipdrift.training.runner.run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(run_file)])
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("interrupted; what is finished is kept")


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_a_run_that_was_stopped_says_where(
    say: Say, monkeypatch: pytest.MonkeyPatch, run_file: Path, number: int, status: int
) -> None:
    """One line without `error:`, and the exit status of a process that the signal has ended."""

    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("stopped at step 3 of 9 (epoch 1); the same command goes on", number)

    monkeypatch.setattr("clipdrift.training.runner.run", stopped)
    said = say("train", run_file)
    assert said.code == status
    assert said.err == "stopped at step 3 of 9 (epoch 1); the same command goes on\n"


def test_pretrain_stops_goes_on_and_names_the_model(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of `clipdrift/mini`, in miniature: interrupted, resumed, and of use to `train`."""
    monkeypatch.setattr("clipdrift.data.corpus._TOKENIZER_TEXTS", 500)
    shape = {"width": 16, "text_width": 16, "projection": 16, "blocks": 1, "text_blocks": 1, "heads": 2}
    small = shape | {"image_size": 16, "patch_size": 4, "images": 32, "batch_size": 8}
    path, out = tmp_path / "pretrain.toml", tmp_path / "model"
    path.write_text(small_runs.toml(small))
    command = ["pretrain", path, "--set", "seed=3", "--out", out, "--workers", "1"]
    first = say(*command, "--stop-after", "2")
    assert first.code == 0
    assert f"stopped; the same command goes on from {out}" in first.out
    second = say(*command)
    assert second.code == 0
    assert re.search(r"zero-shot: all \d+\.\d %, never-seen pairs \d+\.\d %", second.out)
    assert "step 4/4" in second.out
    assert "step 2/4" not in second.out
    assert load(out).image_size == 16
    assert "holds a pretraining with other settings" in fails(say(*command, "--set", "seed=4"))
    # --data says where the images are, and takes nothing back of what else is set of them
    few = ("--workers", "1", "--out", tmp_path / "third", "--set", "data.per_class=11")
    assert say("pretrain", path, *few, "--data", "objects-100").code == 0
    made = json.loads((tmp_path / "third/pretrain.json").read_text())["config"]["data"]
    assert (made["name"], made["per_class"]) == ("objects-100", 11)
    assert "drawn anew" in fails(say("pretrain", path, *few, "--data", "objects"))


# --- status


def test_status_tells_finished_unfinished_and_damaged_runs(
    say: Say, run_file: Path, places: list[str], tmp_path: Path
) -> None:
    """One folder with a run of each kind: none hides another, none stops the list."""
    root = tmp_path / "runs"
    epochs = ["--set", "optim.epochs=1"]
    for seed in (1, 2, 3):
        assert say("train", run_file, *places, *epochs, "--set", f"seed={seed}").code == 0
    say(
        "train",
        run_file,
        *places,
        *epochs,
        "--set",
        "seed=4",
        "--set",
        "optim.learning_rate=1e30",
        "--set",
        "optim.epochs=3",
    )
    records = {folder.record().config.seed: folder for folder in Store(root).runs()}
    (records[2].path / "record.json").unlink()
    damaged = records[3].path / "record.json"
    damaged.write_bytes(damaged.read_bytes()[:500])
    said = say("status", root)
    assert (said.code, said.err) == (0, "")
    lines = {
        seed: next(x for x in said.out.splitlines() if x.startswith(f.path.name))
        for seed, f in records.items()
    }
    best = records[1].record().best
    assert best is not None
    assert lines[1].split()[1:6] == ["done", "colours", "full_ft", "1e-3", "1"]
    assert f"{best.test_accuracy:.1f} %" in lines[1]
    assert f"{best.measures['cka'].mean:.3f}" in lines[1]
    assert f"objects-100 {best.transfer['objects-100'].retention:.0f} %" in lines[1]
    assert "interrupted" in lines[2]
    assert "damaged" in lines[3]
    assert "diverged" in lines[4]
    assert "…" not in said.out
    assert len(said.out.splitlines()) == 5


def test_status_of_a_folder_without_runs_says_so(say: Say, tmp_path: Path) -> None:
    """An empty table would look like success."""
    for place in (tmp_path, tmp_path / "none"):
        assert f"{place}: no runs here" in fails(say("status", place))


# --- starting at once

_WATCH = """
import json, sys
from clipdrift.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
    print(json.dumps([end.code, sorted(heavy)]), file=sys.stderr)
"""


_LIGHT = [
    *(["--help"], ["--version"], ["train", "--help"], ["demo", "--help"], ["pretrain", "--help"]),
    *(["ls", what] for what in ("models", "datasets", "methods", "measures", "figures")),
    *(["figure", "--help"], ["figure", "frontier", "."], ["report", "--help"], ["report", "."]),
    *(["ls", "nonsense"], ["status", "."], ["train", "--show-config"], ["train", "nofile.toml"]),
]


def test_light_commands_never_load_torch(tmp_path: Path) -> None:
    """Help, listings and mistakes must answer before torch would even be imported: none of them leaves it
    loaded behind it, one after the other in one process."""
    code = _WATCH.replace("try:", "for sys.argv[1:] in json.loads(sys.argv[1]):\n  try:", 1)
    code = re.sub(r"^(    main|except|    heavy|    print)", r"  \1", code, flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(_LIGHT)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stderr.splitlines() if re.fullmatch(r"\[\d+, \[.*\]\]", line)]
    assert len(found) == len(_LIGHT), done.stderr
    for arguments, (code_, heavy) in zip(_LIGHT, found, strict=True):
        assert heavy == [], arguments
        assert code_ in (0, 2), arguments


def test_status_of_real_runs_and_import_never_load_torch(
    say: Say, run_file: Path, places: list[str], tmp_path: Path
) -> None:
    """Reading records is part of every later report, on machines without torch."""
    say("train", run_file, *places, "--set", "method=linear_probe", "--set", "optim.epochs=1")
    code = "import clipdrift, sys; print('torch' in sys.modules);" + _WATCH.lstrip()
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("False\n")
    assert " done " in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    """The entry point of pyproject.toml, as a user has it on the path."""
    command = Path(sys.executable).with_name("clipdrift")
    if not command.exists():
        pytest.skip("not installed with its script")
    done = subprocess.run([command, "ls", "nonsense"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ls nonsense")
