"""Methods, penalties and measures of another package: that of docs/extend.md, installed and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import small_runs
from clipdrift.config.base import name_of
from clipdrift.config.methods import BUILT_IN as METHODS
from clipdrift.config.penalties import BUILT_IN as PENALTIES
from clipdrift.extensions import extensions
from clipdrift.listing import broken_extensions, installed_extensions
from clipdrift.runs.record import DamagedRecordError, RecordError, read_record
from fresh import fresh

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
SCRIPT = """
import json, sys
from clipdrift.cli import main
def say(*words):
    try:
        main(list(words))
    except SystemExit as end:
        print(json.dumps({"said": words, "code": end.code or 0}), flush=True)
        sys.stderr.flush()
for words in json.loads(sys.argv[1]):
    say(*words)
"""


def install(folder: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a distribution: metadata and its entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for g, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with clip-extras, as the page has it, and two distributions that are broken."""
    folder = tmp_path_factory.mktemp("site")
    blocks = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    assert set(blocks) == {"pyproject.toml", "clip_extras/__init__.py", "clip_extras/work.py"}
    project = tomllib.loads(blocks.pop("pyproject.toml"))["project"]
    for name, text in blocks.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    install(folder, project["name"], project["version"], project["entry-points"])
    (folder / "bad.py").write_text("raise RuntimeError('no luck\\ntoday')\n")
    install(folder, "bad-luck", "0.1", {"clipdrift.methods": {"unlucky": "bad:SPEC"}})
    install(
        folder, "greedy", "2.0", {"clipdrift.methods": {"lora": "clip_extras:PROJECTION_ONLY"},
                                  "clipdrift.penalties": {"norm_keeper": "clip_extras:NORM_KEEPER"},
                                  "clipdrift.measures": {"wrong_kind": "clip_extras:NORM_KEEPER",
                                                         "seed": "clip_extras:EMBEDDING_NORM",
                                                         "last_norm": "clip_extras:EMBEDDING_NORM"}},
    )  # fmt: skip
    return folder


def test_a_package_adds_a_method_a_penalty_and_measures(
    site: Path, tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    greedy = next(site.glob("greedy-*"))
    aside = greedy.rename(site.parent / f"{site.name}-greedy")  # its claims are another test's
    run = tmp_path / "run.toml"
    method = {"name": "projection_only", "with_final_norm": True}
    run.write_text(small_runs.toml(small_runs.settings(tiny_clip_dir, pictures, method=method)))
    runs, cache = str(tmp_path / "runs"), str(tmp_path / "cache")
    try:
        asked = [
            ["ls", "methods"],
            ["ls", "measures"],
            ["train", str(run), "--out", runs, "--cache", cache, "--set", "penalty=norm_keeper"],
            ["train", str(run), "--out", runs, "--cache", cache, "--set", "method.with_norm=true"],
            ["train", str(run), "--out", runs, "--cache", cache, "--set", "method=unlucky"],
            ["compare", str(tiny_clip_dir), str(tiny_clip_dir), "--images", str(pictures), "--limit", "9",
             "--out", str(tmp_path / "compared"), "--cache", cache],
            ["study", "table", runs, "--csv", str(tmp_path / "runs.csv")],
        ]  # fmt: skip
        done = fresh(SCRIPT, json.dumps(asked), path=[site])
    finally:
        aside.rename(greedy)
    ends = [json.loads(line) for line in done.out.splitlines() if line.startswith('{"said"')]
    assert [end["code"] for end in ends] == [0, 0, 0, 2, 2, 0, 0], done.err
    assert re.search(
        r"projection_only +train the visual projection and the head \(from clip-extras 1\.2\.0\)", done.out
    )
    assert re.search(r"state_angle .* degrees +0 to 180", done.out)
    assert "legal keys of projection_only: with_final_norm" in done.err
    assert (
        "methods extension 'unlucky' of bad-luck 0.1 cannot be used (RuntimeError: no luck today)" in done.err
    )

    (folder,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    record = json.loads((folder / "record.json").read_text())
    assert record["environment"]["extensions"] == {
        f"{kind}": "clip-extras 1.2.0"
        for kind in (
            "method projection_only",
            "penalty norm_keeper",
            "measure embedding_norm",
            "measure state_angle",
        )
    }
    assert record["config"]["method"] == method
    width = json.loads((tiny_clip_dir / "config.json").read_text())
    sizes = width["vision_config"]["hidden_size"], width["projection_dim"]
    head = 3 * (sizes[1] + 1)
    assert record["model"]["trained"] == sizes[0] * sizes[1] + 2 * sizes[0] + head
    measures = record["last"]["measures"]
    assert measures["embedding_norm"]["drift"] is not None
    assert len(measures["state_angle"]["blocks"]) == 2
    assert measures["state_angle"]["mean"] == pytest.approx(0, abs=1e-3)  # blocks are frozen
    assert record["units"]["state_angle"] == "degrees"
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert (
        compared["measures"]["embedding_norm"]["before"]
        == compared["measures"]["embedding_norm"]["after"]
        > 0
    )
    assert (tmp_path / "runs.csv").read_text().splitlines()[0].count("embedding_norm_drift")


def test_names_that_are_taken_and_specs_of_another_kind_are_told(site: Path) -> None:
    code = """
import json, sys
from clipdrift.listing import METHODS, PENALTIES, MEASURES, broken_extensions
assert "torch" not in sys.modules
print(json.dumps([sorted(METHODS), sorted(PENALTIES), sorted(MEASURES), broken_extensions()]))
"""
    search = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    methods, penalties, measures, broken = json.loads(done.stdout)
    assert set(methods) == {*map(name_of, METHODS), "projection_only"}
    assert "norm_keeper" not in penalties
    assert "wrong_kind" not in measures
    assert {"embedding_norm", "state_angle"} < set(measures)
    told = "\n".join(broken)
    assert "'lora' of greedy 2.0: clipdrift uses that name itself" in told
    assert re.search(r"'norm_keeper' of greedy 2\.0: clip-extras 1\.2\.0 brings one of that name too", told)
    assert (
        "'wrong_kind' of greedy 2.0 cannot be used (TypeError: clip_extras:NORM_KEEPER is a PenaltySpec"
        in told
    )
    for name in ("seed", "last_norm"):
        assert f"'{name}' of greedy 2.0: clipdrift uses that name itself" in told
    assert len(broken) == 6


def test_nothing_is_installed_here_and_built_in_names_are_those_of_the_tables() -> None:
    assert installed_extensions() == {}
    assert broken_extensions() == ()
    for group in ("methods", "penalties", "measures"):
        assert not extensions(group, frozenset({"x"})).usable  # type: ignore[arg-type]
    assert len({name_of(o) for o in (*METHODS, *PENALTIES)}) == len(METHODS) + len(PENALTIES)  # type: ignore[arg-type]


def test_a_record_of_a_package_that_is_gone_says_which(tmp_path: Path) -> None:
    """It is whole, so it is not called damaged, and the run is not repeated."""
    path = tmp_path / "record.json"
    data: Any = small_record()
    data["config"]["method"] = {"name": "projection_only", "with_final_norm": True}
    data["environment"]["extensions"] = {"method projection_only": "clip-extras 1.2.0"}
    path.write_text(json.dumps(data))
    with pytest.raises(
        RecordError, match=r"method 'projection_only' is of a package that is not installed here"
    ) as told:
        read_record(path)
    assert "method projection_only by clip-extras 1.2.0" in str(told.value)
    assert not isinstance(told.value, DamagedRecordError)


def small_record() -> dict[str, object]:
    """A whole record of an earlier version."""
    with tarfile.open(Path(__file__).parent / "made_before" / "runs.tar.xz") as packed:
        member = packed.extractfile("./expected/finished.json")
        assert member is not None
        found: dict[str, object] = json.load(member)
    return found
