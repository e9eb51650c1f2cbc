"""``clipdrift advise``: what it prints, how it ends, and the study that it writes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from advice_studies import runs, table

import clipdrift
from clipdrift.advice import AdviceError
from clipdrift.advice.plan_file import toml_value, write_next
from clipdrift.cli import main
from clipdrift.config import RunConfig
from clipdrift.study.plan import load_study
from clipdrift.study.tables import Tables
from generated import generated_study


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, what is printed, what is printed as an error."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    found = capsys.readouterr()
    return int(ended.value.code or 0), found.out, found.err


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets, two methods, three rates, two seeds; some runs have paths, penalties and options."""
    place = tmp_path_factory.mktemp("advice") / "matched"
    generated_study(
        place, rates=(1e-6, 1e-5, 5e-5), seeds=(7, 11), epochs=4, extras=True, paths=True, blocks=3
    )
    return place


def test_words_come_first_and_the_table_after(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys, "advise", study, "--keep", "80")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("eurosat: to keep at least 80 % of zero-shot accuracy on cifar100, take ")
    assert lines[1].startswith("- ")
    head = next(i for i, line in enumerate(lines) if line.startswith("setting "))
    assert head > 3
    assert any(line.startswith("- Mixed with the backbone, the best allowed is ") for line in lines)


def test_what_is_printed_is_the_table_of_runs(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: pandas on the study's own CSV, cell by cell, for both targets."""
    code, out, _ = say(capsys, "advise", study, "--keep", "80", "--json")
    data, frame = json.loads(out), Tables.of(study).runs
    assert code == 0
    for place in data["places"]:
        here = frame[frame["place"] == place["place"]]
        means = here.groupby("cell")[["accuracy", "retention_cifar100"]].mean()
        best = means[means["retention_cifar100"] >= 80]["accuracy"].idxmax()
        found = {s["name"]: s for s in place["cells"]["settings"]}
        assert found[place["cells"]["best"]]["cell"] == best
        assert found[place["cells"]["best"]]["accuracy"] == pytest.approx(means.loc[best, "accuracy"])
        assert len(found) == len(means)


def test_the_best_mix_is_that_of_the_paths(study: Path) -> None:
    """Oracle: pandas on paths.csv."""
    tables = Tables.of(study)
    paths = tables.paths.merge(tables.runs[["run", "place", "cell"]], on="run")
    for place in clipdrift.advise(study, keep=80).places:
        here = paths[paths["place"] == str(place.place)]
        means = here.groupby(["cell", "alpha"])[["accuracy", "retention_cifar100"]].mean()
        cell, alpha = means[means["retention_cifar100"] >= 80]["accuracy"].idxmax()
        assert place.mixes is not None
        assert place.mixes.best is not None
        assert (place.mixes.best.cell, place.mixes.best.alpha) == (cell, pytest.approx(alpha))


def test_the_best_epoch_is_that_of_the_course(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs that are tested on transfer sets after each epoch; these are not, so it is lent to them."""
    tables = Tables.of(study)
    history = tables.history.copy()
    history["retention_cifar100"] = 100 - 3 * history["epoch"] ** 2
    monkeypatch.setitem(vars(tables), "history", history)
    place = clipdrift.advise(tables, keep=85).places[0]
    ends = history[history["ends_epoch"]].merge(tables.runs[["run", "place", "cell"]], on="run")
    ends = ends[(ends["place"] == str(place.place)) & (ends["retention_cifar100"] >= 85)]
    cell, epoch = ends.groupby(["cell", "epoch"])["validation_accuracy"].mean().idxmax()
    assert place.epochs is not None
    assert place.epochs.best is not None
    assert (place.epochs.best.cell, place.epochs.best.epoch) == (cell, epoch)


def test_nothing_allowed_ends_with_one_and_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = say(capsys, "advise", table(runs(), tmp_path), "--keep", "99.9", "--max-drop", "1")
    assert code == 1
    assert "no setting that was run does" in out
    assert "Nearest comes lora at 1e-3" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "advise: name a study's folder"),
        (["nowhere"], "nowhere: no such folder"),
        (["STUDY", "--keep", "0"], "--keep 0"),
        (["STUDY", "--transfer", "birds"], "no run was tested on it; there are cifar100"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str], said: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(capsys, "advise", *(study if a == "STUDY" else a for a in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


# --- the study that it writes


@pytest.mark.parametrize(
    "asked",
    [
        ["--keep", "80"],
        pytest.param(["--max-drop", "2"], marks=pytest.mark.slow),
        pytest.param(["--keep", "99.9"], marks=pytest.mark.slow),
    ],
)
def test_the_next_study_is_taken_and_none_of_its_runs_exists(
    asked: list[str], study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "next.toml"
    _, out, _ = say(capsys, "advise", study, *asked, "--next", file)
    planned = load_study(file)
    keys = {run.config.key for run in planned.runs}
    assert f"{len(planned.runs)} runs in {file}" in out
    assert len(keys) == len(planned.runs) > 0
    assert not keys & {path.name for path in study.iterdir()}
    proposals = clipdrift.advise(study, **_asked(asked)).proposals  # type: ignore[arg-type]
    wanted = {(p.rate, int(seed)) for p in proposals for seed in p.seeds}
    assert {(run.config.optim.learning_rate, run.config.seed) for run in planned.runs} <= wanted
    code, _, err = say(capsys, "study", "plan", file)
    assert code == 0, err


def _asked(arguments: list[str]) -> dict[str, float]:
    return {arguments[0].removeprefix("--").replace("-", "_"): float(arguments[1])}


def test_new_runs_repeat_their_setting_but_for_rate_and_seed(study: Path, tmp_path: Path) -> None:
    advice = clipdrift.advise(study, keep=80)
    planned = write_next(advice, study, tmp_path / "next.toml")
    assert planned is not None
    configs = [RunConfig(**json.loads(p.read_text())) for p in study.glob("*/config.json")]

    def rest(config: RunConfig) -> str:
        optim = config.optim.model_copy(update={"learning_rate": 1.0})
        return config.model_copy(update={"seed": 0, "optim": optim}).key

    known = {rest(config) for config in configs}
    assert all(rest(run.config) in known for run in planned.runs)


def test_new_runs_begin_with_the_same_head(study: Path, tmp_path: Path) -> None:
    """An option that is no table of its own is written too."""
    import shutil

    place = Path(shutil.copytree(study, tmp_path / "matched"))
    for file in place.glob("*/config.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"head": "zero_shot"}))
    planned = write_next(clipdrift.advise(study, keep=80), place, tmp_path / "next.toml")
    assert planned is not None
    assert {run.config.head for run in planned.runs} == {"zero_shot"}


def test_a_second_round_leaves_out_what_was_done(study: Path, tmp_path: Path) -> None:
    """Runs that stand in the folder, however they ended, are not planned again."""
    import shutil

    from clipdrift.runs.store import Store

    place = tmp_path / "matched"
    shutil.copytree(study, place)
    advice = clipdrift.advise(place, keep=80)
    first = write_next(advice, place, tmp_path / "one.toml")
    assert first is not None
    for run in first.runs:
        Store(place).folder(run.config.key).open(run.config)
    assert write_next(advice, place, tmp_path / "two.toml") is None
    assert not (tmp_path / "two.toml").exists()


def test_a_table_has_no_configurations_to_repeat(tmp_path: Path) -> None:
    with pytest.raises(AdviceError, match="no configurations to repeat"):
        write_next(clipdrift.advise(table(runs(), tmp_path)), None, tmp_path / "next.toml")


@pytest.mark.parametrize(
    "value", ['a "b"\\\n', "ä\x7f", 1e-05, 3, True, [1, "x"], {"name": "x", "a b": [1.5]}]
)
def test_values_come_back_from_toml(value: object) -> None:
    import tomllib

    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_no_word_for_it_is_an_error() -> None:
    with pytest.raises(AdviceError, match="TOML"):
        toml_value(None)


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = say(capsys, "advise", "--help")
    assert "clipdrift advise runs/matched --max-drop 1" in out
    assert "clipdrift study run next.toml" in out


def test_advice_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from clipdrift.cli import main\n"
        f"try: main(['advise', {str(table(runs(), tmp_path))!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_of_a_table_are_finite(study: Path) -> None:
    data = clipdrift.advise(study).to_dict()
    frame = pd.DataFrame([s for place in data["places"] for s in place["cells"]["settings"]])
    assert all(math.isfinite(v) for v in frame[["accuracy", "kept"]].to_numpy().ravel())
