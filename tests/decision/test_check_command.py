"""``clipdrift check`` as it is used: exit statuses, reports, baselines, and what it refuses in one line."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import clipdrift
from clipdrift.decision import CheckError
from clipdrift.decision.baseline import read_baseline
from commands import Say, fails, runner


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: ``say("check", base, tuned, ...)``."""

    return runner(capsys)


def test_kept_broken_and_not_resolved(
    say: Say, tiny_clip_dir: Path, moved: Callable[[float], Path], known: Path, tmp_path: Path
) -> None:
    """Exit statuses, with all the reports of one check."""
    common = (
        "check",
        tiny_clip_dir,
        moved(0.1),
        "--images",
        known,
        "--limit",
        "80",
        "--transfer",
        f"colours={known}",
    )
    report, summary = tmp_path / "deep" / "check.xml", tmp_path / "summary.md"
    said = say(*common, "--min-cka", "0.1", "--min-retention", "20", "--junit", report, "--summary", summary)
    assert (said.code, said.err) == (0, "")
    assert "Kept: all 2 rules hold." in said.out
    assert re.search(
        r"^holds +cka >= 0.1 +0\.\d{3} +0\.\d{3} to 0\.\d{3} +jackknife of 80 images", said.out, re.M
    )
    assert re.search(r"^holds +retention/colours >= 20 % .* bootstrap of 120 images", said.out, re.M)
    assert ElementTree.parse(report).getroot().get("tests") == "2"
    assert summary.read_text().startswith("### ✅ Kept")

    said = say(
        *common, "--min-cka", "0.9999", "--max-weight-drift", "9", "--min-accuracy", "1", "--junit", report
    )
    assert said.code == 1
    assert "Not kept: 1 of 3 rules fails: cka >= 0.9999, at 0." in said.out
    assert ElementTree.parse(report).getroot().get("failures") == "1"

    value = json.loads(say(*common, "--rule", "retention >= 20", "--json").out)["rules"][0]["value"]
    edge = ("--rule", f"retention/colours >= {value - 0.01}")
    assert say(*common, *edge, "--min-cka", "0.1").code == 0
    said = say(*common, *edge)
    assert said.code == 2
    assert "Could not be told: 80 images resolve none of 1 rule" in said.out
    assert say(*common, *edge, "--min-cka", "0.1", "--strict").code == 1


def test_json_alone_on_stdout_and_rules_from_a_file(
    say: Say, kept: Path, moved: Callable[[float], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "drift.toml"
    rules.write_text('[rules]\ncka = { min = 0.9999, severity = "warn" }\nembedding_drift = "<= 1.5"\n')
    steps = tmp_path / "steps.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(steps))
    said = say("check", moved(1.0), "--baseline", kept, "--config", rules, "--json")
    assert said.code == 0
    data = json.loads(said.out)
    assert [(rule["status"], rule["severity"]) for rule in data["rules"]] == [
        ("broken", "warn"),
        ("holds", "error"),
    ]
    assert all(rule["standard_error"] > 0 for rule in data["rules"])
    assert "broken (warning)" in steps.read_text()


def test_each_shorthand_is_its_rule(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def work(base: Any, tuned: Any, images: Any, rules: Any, **_: Any) -> Any:
        asked.extend(map(str, rules))
        raise CheckError("enough")

    monkeypatch.setattr("clipdrift.decision.checking.check", work)
    say(
        "check", "a", "b", "--images", "c", "--min-cka", "0.9", "--min-worst-cka", "0.8", "--min-retention",
        "90", "--min-accuracy", "0.5", "--min-agreement", "0.7", "--max-embedding-drift", "1e-3",
        "--max-weight-drift", "0.05", "--max-entropy-drift", "10", "--rule", "gini <= 0.5",
    )  # fmt: skip
    assert asked == [
        "cka >= 0.9", "cka/worst >= 0.8", "retention >= 90 %", "zero_shot_accuracy >= 0.5 %",
        "zero_shot_agreement >= 0.7", "embedding_drift <= 0.001", "weight_drift <= 0.05",
        "|entropy_drift| <= 10 %", "gini <= 0.5",
    ]  # fmt: skip


# --- baselines


def test_a_baseline_stands_for_base(
    tiny_clip_dir: Path, moved: Callable[[float], Path], known: Path, kept: Path, tmp_path: Path
) -> None:
    """Every number and interval is what it is with BASE itself; what needs BASE's weights says so."""
    rules = [
        "cka >= 0.9", "cka/worst >= 0.9", "cka_embedding >= 0.9", "embedding_drift <= 0.1",
        "entropy_drift <= 1",
        "rollout_entropy <= 9", "retention >= 90", "zero_shot_kl <= 0.1", "zero_shot_agreement >= 0.9",
        "head_diversity_of_mean >= 0.1", "weight_drift <= 0.1",
    ]  # fmt: skip
    options: dict[str, Any] = {"transfer": f"colours={known}", "cache": tmp_path}
    written = tmp_path / "again.safetensors"
    whole = clipdrift.check(
        tiny_clip_dir, moved(1.0), str(known), rules, limit=80, save_baseline=written, **options
    )
    short = clipdrift.check(str(kept), moved(1.0), None, rules, cache=tmp_path)
    pairs = list(zip(whole.rules, short.rules, strict=True))
    for one, other in pairs[:-1]:
        assert one == other
    assert pairs[-1][0].status in ("holds", "broken")
    assert pairs[-1][1].status == "not checked"
    assert "which a baseline does not hold" in pairs[-1][1].reason
    facts = [read_baseline(file).facts for file in (written, kept)]
    assert facts[0].fingerprint == facts[1].fingerprint
    assert facts[0].tensors == facts[1].tensors


def test_a_baseline_is_refused_where_it_does_not_fit(
    say: Say, kept: Path, moved: Callable[[float], Path], pictures: Path, tmp_path: Path, known: Path
) -> None:
    check = ("check", "--baseline", kept, "--min-cka", "0.9")
    assert "not the images of the baseline (80 of" in fails(say(*check, moved(1.0), "--images", pictures))
    assert "not of the shape of" in fails(say(*check, "clipdrift/mini"))
    other = ("--transfer", f"colours={pictures}")
    assert "colours: its images and classes are not those" in fails(say(*check, moved(1.0), *other))
    assert "other: not in the baseline, whose transfer sets are: colours" in fails(
        say(*check, moved(1.0), "--transfer", f"other={known}")
    )
    assert "2 models: with --baseline" in fails(say(*check, "a", "b"))


@pytest.mark.parametrize("what", ["cut", "tensor", "facts", "foreign", "text", "missing"])
def test_a_damaged_baseline_is_told(kept: Path, tmp_path: Path, what: str) -> None:
    file = tmp_path / "base.safetensors"
    raw = kept.read_bytes()
    match what:
        case "cut":
            file.write_bytes(raw[:-100])
        case "tensor":
            file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        case "facts":
            file.write_bytes(raw.replace(b'\\"seed\\":0', b'\\"seed\\":1', 1))
        case "foreign":
            save_file({"a": torch.zeros(1)}, file)
        case "text":
            file.write_text("no safetensors")
    with pytest.raises(CheckError, match=r"baseline|damaged") as caught:
        read_baseline(file)
    assert "\n" not in str(caught.value)


def test_a_baseline_is_plain_safetensors(kept: Path) -> None:
    tensors = load_file(kept)
    assert tensors["states"].shape == (2, 80, 32)
    assert {"embedding", "attention.entropy", "attention.rollout_entropy", "colours.images"} <= tensors.keys()


# --- refusals


def test_what_can_be_mended_is_one_line(
    say: Say, tiny_clip_dir: Path, moved: Callable[[float], Path], known: Path, tmp_path: Path
) -> None:
    """Before any model is loaded, where it can be known then."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, said in (
        (("a", "b", "--images", "c"), "no rules: a check that judges nothing would always pass"),
        (("a", "b", "--min-cka", "0.9"), "no images"),
        (("a", "--images", "c", "--min-cka", "0.9"), "1 model: give BASE and TUNED"),
        (("a", "b", "c", "--images", "c", "--min-cka", "0.9"), "3 models: give BASE and TUNED"),
        (("a", "b", "--images", "c", "--rule", "cak >= 0.9"), r"unknown measure cak \(near: cka\)"),
        (("a", "b", "--images", "c", "--min-cka", "90"), "never above 1"),
        (("a", "b", "--images", "c", "--min-retention", "90"), "name one with --transfer"),
        (
            ("a", "b", "--images", "c", "--rule", "retention/x >= 90", "--transfer", f"y={known}"),
            "x is not among the",
        ),
        (("a", "b", "--images", "c", "--rule", "accuracy >= 90"), "needs a head"),
        (("a", "b", "--images", "c", "--config", "no.toml"), "no.toml: no such file"),
        (("a", "b", "--images", "c", "--min-cka", "0.9", "--junit", tmp_path), "a folder; name a file"),
        (
            ("a", "b", "--images", "c", "--min-cka", "0.9", "--junit", tmp_path / "file/j"),
            "cannot be written",
        ),
        (("b", "--baseline", "no.safetensors", "--min-cka", "0.9"), "no such baseline"),
        (
            (tiny_clip_dir, moved(1.0), "--images", tmp_path / "empty", "--min-cka", "0.9"),
            "it is empty",
        ),
        (
            (tiny_clip_dir, moved(1.0), "--images", tmp_path / "file", "--min-cka", "0.9"),
            "file: a file; give",
        ),
    ):
        assert re.search(said, fails(say("check", *arguments))), arguments


def test_nothing_to_keep_could_not_be_checked(
    say: Say, tiny_clip_dir: Path, moved: Callable[[float], Path], pictures: Path, tmp_path: Path
) -> None:
    """BASE is at chance on pictures that it does not know: status 2, and why, in words."""
    report = tmp_path / "check.xml"
    said = say(
        "check", tiny_clip_dir, moved(1.0), "--images", pictures, "--limit", "20", "--min-retention", "90",
        "--transfer", f"colours={pictures}", "--junit", report,
    )  # fmt: skip
    assert said.code == 2
    assert "Could not be checked: retention/colours >= 90 %" in said.out
    assert "is not above chance" in said.out
    assert ElementTree.parse(report).getroot().get("errors") == "1"


@pytest.mark.parametrize("missing", ["model", "images", "transfer set", "baseline"])
def test_what_cannot_be_loaded_is_in_every_report(
    say: Say, tiny_clip_dir: Path, known: Path, tmp_path: Path, missing: str
) -> None:
    nowhere, report, summary = tmp_path / "nowhere", tmp_path / "check.xml", tmp_path / "summary.md"
    models: list[object] = [tiny_clip_dir, nowhere if missing == "model" else tiny_clip_dir]
    if missing == "baseline":
        models[0:1] = ["--baseline", nowhere]
    images = nowhere if missing == "images" else known
    transfer = nowhere if missing == "transfer set" else known
    said = say(
        "check", *models, "--images", images, "--transfer", f"colours={transfer}", "--limit", "20",
        "--min-cka", "0.9", "--min-retention", "90", "--json", "--junit", report, "--summary", summary,
    )  # fmt: skip
    line = said.err.splitlines()[-1].removeprefix("error: ")
    assert said.code == 2
    assert str(nowhere) in line
    found = json.loads(said.out)
    assert (found["exit_status"], found["kept"], found["error"]) == (2, False, line)
    assert [rule["rule"] for rule in found["rules"]] == ["cka >= 0.9", "retention/colours >= 90 %"]
    errors = ElementTree.parse(report).getroot().findall("testsuite/testcase/error")
    assert len(errors) == 2
    assert all(line in str(error.get("message")) for error in errors)
    assert summary.read_text().count(line) == 1
    assert summary.read_text().startswith("### ❌ Could not be checked: ")


def test_a_mistake_of_ours_is_in_every_report(
    say: Say, tiny_clip_dir: Path, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the status that the command ends with."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("clipdrift.decision.checking.check", broken)
    report, summary = tmp_path / "check.xml", tmp_path / "summary.md"
    said = say(
        "check", tiny_clip_dir, tiny_clip_dir, "--images", known, "--min-cka", "0.9", "--json",
        "--junit", report, "--summary", summary,
    )  # fmt: skip
    line = "internal error: ZeroDivisionError: nothing to divide by"
    assert said.code == 70
    assert said.err.splitlines()[-1].startswith(line)
    found = json.loads(said.out)
    assert (found["exit_status"], found["internal"], found["error"]) == (70, True, line)
    (error,) = ElementTree.parse(report).getroot().findall("testsuite/testcase/error")
    assert line in str(error.get("message"))
    assert line in summary.read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_a_baseline_alone_has_reports_too(
    say: Say, tiny_clip_dir: Path, known: Path, tmp_path: Path, fails: bool
) -> None:
    """One case: kept, or why not."""
    file, report, summary = (tmp_path / name for name in ("base.safetensors", "check.xml", "summary.md"))
    images = tmp_path / "nowhere" if fails else known
    said = say(
        "check", tiny_clip_dir, "--images", images, "--limit", "8", "--save-baseline", file, "--json",
        "--junit", report, "--summary", summary,
    )  # fmt: skip
    assert said.code == (2 if fails else 0)
    found = json.loads(said.out)
    assert (found["exit_status"], found["kept"], found["baseline"]) == (said.code, not fails, str(file))
    (case,) = ElementTree.parse(report).getroot().findall("testsuite/testcase")
    assert case.get("name") == "baseline"
    line = said.err.splitlines()[-1].removeprefix("error: ") if fails else ""
    errors = [str(error.get("message")) for error in case.findall("error")]
    assert errors == ([f"BASE could not be kept: {line}"] if fails else [])
    wanted = f"### ❌ BASE could not be kept: {line}" if fails else f"### ✅ BASE is kept in {file}."
    assert summary.read_text().splitlines()[0] == wanted
    assert file.exists() is not fails
