"""``clipdrift compare`` on the command line: what it prints, writes, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import typer
from outside import Adapter
from printed import shown

from clipdrift.cli import app
from clipdrift.comparison import Comparison, TransferRow, read_comparison
from clipdrift.config import DataSet
from clipdrift.measures import CONVOLUTIONS, GATED
from commands import Say, fails, runner

COMMAND: Any = typer.main.get_command(app).commands["compare"]  # type: ignore[attr-defined]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command in this process, on a wide page: ``say("compare", base, tuned, ...)``."""
    monkeypatch.setenv("COLUMNS", "300")

    return runner(capsys)


# --- from two models to a page


def test_from_two_models_to_what_they_became(
    say: Say, tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """The whole command: verdict first, notes, tables, and files whose numbers are those printed."""
    out = tmp_path / "compared"
    said = say(
        "compare", tiny_clip_dir, tuned_dir, "--images", pictures, "--limit", "30",
        "--transfer", f"colours={pictures}", "--out", out, "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = read_comparison(out)
    verdict = found.summary().splitlines()
    places = [said.out.index(line) for line in (*verdict, "note: Only 30 images", "measure ", "zero-shot ")]
    assert places == sorted(places)
    assert f"{tiny_clip_dir}  against  {tuned_dir}" in said.out
    assert f"2 blocks, 2 heads, 16 patches; 30 images of {pictures}" in said.out
    for family in ("attention", "flow", "representation", "weights"):
        assert re.search(rf"^{family}\s*$", said.out, re.M)
    for name, values in found.measures.items():
        (line,) = re.findall(rf"^  {name}(?: \([\w ]+\))? .*$", said.out, re.M)
        if values.value is not None:
            assert f" {values.value:.3f} " in line, name
        elif not values.absolute:
            assert values.before is not None
            assert f" {values.before:.3f}" in line, name
            assert f" {values.drift:+.1f} %" in line, name
    row = found.transfer["colours"]
    assert row.images == 27
    kept = "not measurable" if row.retention is None else f"{row.retention:.1f} %"
    assert re.search(rf"^colours +{row.before:.1f} % +{row.after:.1f} % +{kept}", said.out, re.M)
    assert "over 5 disjoint subsets of 6 images these vary by entropy" in said.out
    files = {file.name for file in out.iterdir()}
    assert {"comparison.json", "comparison.csv", "heads.csv", "maps.npz", "index.html"} <= files
    assert {"block_drift.png", "cka_matrix.png", "attention.png", "transfer.png"} <= files
    assert f"page      {out}/index.html" in said.out
    page = (out / "index.html").read_text(encoding="utf-8")
    assert verdict[0] in page
    assert list((tmp_path / "cache" / "pixels").glob("*.npy"))


def test_without_out_it_only_prints(
    say: Say, tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """And what is switched off is not there."""
    monkeypatch.chdir(tmp_path)
    said = say(
        "compare", tiny_clip_dir, tuned_dir, "--images", pictures, "--limit", "8",
        "--no-flow", "--no-spectra", "--show", "0", "--batch-size", "3",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert "What is left of its zero-shot ability was not tested: name a set with --transfer." in said.out
    assert "rollout" not in said.out
    assert "page " not in said.out
    assert "disjoint subsets" not in said.out  # eight images are too few


def test_each_option_gets_where_it_belongs(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parsed, and given to `compare` under the right name."""
    given: dict[str, Any] = {}

    def work(*arguments: Any, **options: Any) -> Any:
        given.update(options, arguments=arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("clipdrift.comparison.compare.compare", work)
    say(
        "compare", "a/base", "b/tuned", "--images", "photos", "--transfer", "cifar100", "--transfer",
        f"mine={tmp_path}", "--transfer-per-class", "3", "--limit", "9", "--show", "2", "--no-flow",
        "--no-spectra", "--any-base", "--batch-size", "5", "--seed", "4", "--cache", tmp_path,
        "--device", "cpu", "--skip-bad-images", "--index", "catalogue", "--queries", "new",
        "--index-limit", "77",
        "--target", "land", "--interpolate-positions", "base",
        "--beside", "c/other", "--beside", "d/other",
    )  # fmt: skip
    assert given.pop("arguments") == ("a/base", "b/tuned", "photos")
    given.pop("reporter")
    assert given == {
        "transfer": [
            DataSet(name="cifar100", per_class=3),
            DataSet(name="mine", path=str(tmp_path), per_class=3),
        ],
        "limit": 9, "shown": 2, "flow": False, "spectrum": False, "any_base": True, "batch_size": 5,
        "seed": 4, "cache": tmp_path, "device": "cpu", "skip_bad": True, "index": "catalogue",
        "index_queries": "new", "index_limit": 77,
        "target": "land", "interpolate": "base",
        "beside": ["c/other", "d/other"],
    }  # fmt: skip


def test_transfer_on_so_many_images_of_each_class(
    say: Say,
    tiny_clip_dir: Path,
    tuned_dir: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sets, four pictures of each class; a set without a name of its own has its folder's."""
    out = tmp_path / "compared"
    monkeypatch.setattr("clipdrift.reporting.comparison.report", lambda found, to: found.save(to)[0])
    fast = ["--no-flow", "--no-spectra", "--show", "0", "--limit", "4", "--out", out]
    sets = ["--transfer", f"mine={pictures}", "--transfer", pictures, "--transfer-per-class", "4"]
    said = say("compare", tiny_clip_dir, tuned_dir, "--images", pictures, *sets, *fast)
    assert (said.code, said.err) == (0, "")
    found = read_comparison(out)
    assert {name: row.images for name, row in found.transfer.items()} == {"mine": 12, "colours": 12}
    assert re.search(r"^ability\s*$", said.out, re.M)
    assert re.search(r"^  zero_shot_accuracy \(%\) ", said.out, re.M)


def test_an_adapter_and_a_run_by_their_folders(
    say: Say,
    tiny_clip_dir: Path,
    pictures: Path,
    adapters: Callable[[str], Adapter],
    runs: Any,
    tmp_path: Path,
) -> None:
    """What people have in their hands after training."""
    fast = ["--images", pictures, "--no-flow", "--no-spectra", "--show", "0", "--limit", "4"]
    for tuned in (adapters("whole").folder, runs("lora").path):
        said = say("compare", tiny_clip_dir, tuned, *fast)
        assert (said.code, said.err) == (0, "")
        assert "The image tower hardly moved" in said.out
    strange = outside.copy_folder(adapters("whole").folder, tmp_path / "strange")
    outside.edit_json(strange / "adapter_config.json", base_model_name_or_path=str(adapters("whole").merged))
    assert "give that as BASE, or say --any-base" in fails(say("compare", tiny_clip_dir, strange, *fast))
    assert say("compare", tiny_clip_dir, strange, *fast, "--any-base").code == 0


# --- how it fails


def test_what_a_user_can_mend_is_one_line_and_status_2(
    say: Say, tiny_clip_dir: Path, siglip_dir: Path, tuned_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """A bad pair, model, image, set or device: never a traceback."""
    (tmp_path / "empty").mkdir()
    bad = outside.copy_folder(pictures / "test", tmp_path / "bad")
    (bad / "red" / "im03.png").write_bytes(b"no image")
    for base, tuned, images, more, said in (
        (tiny_clip_dir, siglip_dir, pictures, [], "are of different architectures: "),
        (tiny_clip_dir, tmp_path / "empty", pictures, [], r"config\.json: missing or unreadable"),
        ("no/such", tuned_dir, pictures, [], "no/such: not found in the local hub cache"),
        (tiny_clip_dir, "./nowhere", pictures, [], r"\./nowhere: no such folder"),
        (tiny_clip_dir, tuned_dir, tmp_path / "empty", [], "neither parquet files nor images in it"),
        (tiny_clip_dir, tuned_dir, "terain-10", [], "near: terrain-10"),
        (tiny_clip_dir, tuned_dir, bad, [], r"im03\.png"),
        (tiny_clip_dir, tuned_dir, pictures, ["--transfer", "x=/no/such"], "/no/such: no such folder"),
        (tiny_clip_dir, tuned_dir, pictures, ["--transfer", "a", "--transfer", "a"], "transfer names 'a' tw"),
        (tiny_clip_dir, tuned_dir, pictures, ["--device", "abacus"], "--device abacus: unknown"),
        (tiny_clip_dir, tuned_dir, pictures, ["--target", pictures], "--target tests the head of an image"),
        (tiny_clip_dir, tuned_dir, pictures, ["--interpolate-positions", "x"], "neither tuned nor base"),
    ):
        line = fails(say("compare", base, tuned, "--images", images, "--limit", "30", *more))
        assert re.search(said, line), line
    skipped = ["--limit", "30", "--skip-bad-images", "--no-flow", "--no-spectra", "--show", "0"]
    said_of_bad = say("compare", tiny_clip_dir, tuned_dir, "--images", bad, *skipped)
    assert said_of_bad.code == 0
    assert "note: 1 unreadable images were left out." in said_of_bad.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["a", "b"],
        ["a", "b", "--images", "x", "--limit", "3"],
        ["a", "b", "--images", "x", "--batch-size", "0"],
        ["a", "b", "--images", "x", "--transfer-per-class", "0"],
        ["a", "b", "--images", "x", "--seed", "-1"],
        ["a", "b", "--images", "x", "--unknown"],
    ],
)
def test_a_command_that_cannot_be_meant(say: Say, arguments: list[str]) -> None:
    """Missing, out of range, unknown."""
    said = say("compare", *arguments)
    assert said.code == 2
    assert said.err
    assert "Traceback" not in said.err


# --- help and listings


def test_help_mentions_every_option(say: Say) -> None:
    """With a word on each."""
    said = say("compare", "--help")
    assert said.code == 0
    wanted = {
        "base", "tuned", "images", "transfer", "out", "limit", "transfer_per_class", "show", "no_flow",
        "no_spectra", "any_base", "batch_size", "seed", "cache", "device", "skip_bad_images",
        "index", "queries", "index_limit",
        "target", "interpolate_positions",
        "beside",
    }  # fmt: skip
    assert {parameter.name for parameter in COMMAND.params} == wanted
    for parameter in COMMAND.params:
        assert parameter.help, parameter.name
        named = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name.upper()
        assert named in said.out, named
    assert "clipdrift compare openai/clip-vit-base-patch32" in said.out


def test_every_measure_of_a_comparison_is_listed(say: Say, changed: Comparison) -> None:
    """`ls measures` knows each name in the tables, with its family and unit."""
    said = say("ls", "measures")
    lines = {line.split()[0]: line for line in said.out.splitlines()[1:]}
    frame = changed.to_frame()
    for _, row in frame.drop_duplicates("measure").iterrows():
        assert row["family"] in lines[row["measure"]]
        assert row["unit"] in lines[row["measure"]]
    # not in the table: what is per k, per subset, of a run, of convolutions, of a third model, or not
    # measurable on these pictures, and the text tower's, which is the same
    texts = {f"weight_drift_{kind}" for kind in CONVOLUTIONS | GATED}
    texts |= {name for name in lines if name.startswith("text_")}
    assert set(lines) - set(frame["measure"]) - texts == {
        "accuracy", "recall_at_k", "retention", "subset_sensitivity", "task_vector_cosine",
    }  # fmt: skip


# --- what is shown


def test_names_are_shown_as_they_are(changed: Comparison) -> None:
    """Brackets are no markup, in a terminal that knows some."""
    row = next(iter(changed.transfer.values()))
    side = changed.base.model_copy(update={"name": "runs/[bold]x[/bold]"})
    notes = ("[red]odd[/red] [/] {x}",)
    images = changed.images.model_copy(update={"source": "photos [2024]"})
    update = {"base": side, "notes": notes, "images": images, "transfer": {"cifar[100]": row}}
    text = shown(changed.model_copy(update=update))
    for name in ("runs/[bold]x[/bold]", "[red]odd[/red] [/] {x}", "photos [2024]", "cifar[100]"):
        assert name in text


def test_tables_fit_into_eighty_columns(changed: Comparison) -> None:
    """Nothing is cut off in the narrowest usual terminal, twelve blocks and all."""
    longer = {}
    for name, values in changed.measures.items():
        update = {
            field: tuple(getattr(values, field)) * 6
            for field in ("before_blocks", "after_blocks", "drift_blocks", "value_blocks")
        }
        longer[name] = values.model_copy(update=update)
    row = next(iter(changed.transfer.values()))
    ensemble = row.model_copy(
        update={
            "images": 100,
            "before": 43.0,
            "ensemble_before": 41.0,
            "ensemble_after": 39.0,
            "prompts": ("{}",) * 18,
        }
    )
    found = changed.model_copy(update={"measures": longer, "transfer": {"cifar100": ensemble}})
    text = shown(found, width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for name in changed.measures:
        assert re.search(rf"^  {name}\b", text, re.M), name
    assert re.search(r"41\.0 % +39\.0 % +95\.1 % +18", text)


def test_small_numbers_are_not_rounded_to_nothing(changed: Comparison) -> None:
    """A weight that moved by 0.00002 has moved."""
    drift = changed.measures["weight_drift"].model_copy(
        update={"value": 2.1e-5, "value_blocks": (1.5e-5, 2.5e-5)}
    )
    found = changed.model_copy(update={"measures": {**changed.measures, "weight_drift": drift}})
    text = shown(found)
    assert re.search(r"weight_drift +2\.1e-05 .*1\.5e-05 to 2\.5e-05", text)
    assert "weights changed by 0.0021 %" in text


def test_a_base_that_knew_nothing_keeps_nothing(changed: Comparison) -> None:
    """An accuracy of zero before: no share of it."""
    row = TransferRow(images=5, classes=4, prompts=("{}",), before=0, after=20, agreement=0.5, kl=0.2)
    text = shown(changed.model_copy(update={"transfer": {"x": row}}))
    assert re.search(r"^x +0\.0 % +20\.0 % +not measurable +25\.0 %", text, re.M)
