"""`tools/hub_pool.py` on a made pool in the layout of the hub's: one row each, gone on with, never twice."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import half_models as half
from clipdrift.comparison.compare import compare
from clipdrift.comparison.models import PairError

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    import hub_pool

    yield hub_pool
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def pool(tiny_clip_dir: Path, pictures: Path, tmp_path: Path) -> Path:
    """Two CLIPVisionModels, with config.json and weights alone, and one that is not there."""
    torch.manual_seed(0)
    for task in ("colours", "shades"):
        model = half.image_tower(half.load_plain(tiny_clip_dir))
        for weight in model.parameters():
            weight.data.add_(0.05 * torch.randn(weight.shape))
        half.saved_by_older(model, tmp_path / f"tiny_{task}")
        assert {file.name for file in (tmp_path / f"tiny_{task}").iterdir()} == {
            "config.json",
            "model.safetensors",
        }
        shutil.copytree(pictures, tmp_path / "data" / task)
    lines = ["base,tuned,task,accuracy_before,accuracy_after"]
    lines += [f"{tiny_clip_dir},tiny_colours,colours,40.5,90", f"{tiny_clip_dir},tiny_gone,shades,,"]
    lines += [f"{tiny_clip_dir},tiny_shades,shades,,"]
    file = tmp_path / "pool.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def go(tool: ModuleType, pool: Path, tmp_path: Path) -> Callable[..., tuple[int, Rows]]:
    """``go("--retry-failed")``: the exit status and the table's rows."""

    def make(*more: str, images: str | None = None) -> tuple[int, Rows]:
        data = f"{tmp_path}/data/{{task}}"
        code = tool.main(
            [
                *(str(pool), "--images", images or data, "--transfer", f"own={data}", "--limit", "8"),
                *("--out", str(tmp_path / "out.csv"), "--cache", str(tmp_path / "cache"), *more),
            ]
        )
        out = tmp_path / "out.csv"
        with out.open(newline="") as stream:
            return code, list(csv.DictReader(stream))

    return make


def test_a_row_each_and_gone_on_with(
    go: Callable[..., tuple[int, Rows]],
    tiny_clip_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, rows = go()
    assert code == 1
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    first, gone, _ = rows
    found = compare(
        tiny_clip_dir,
        tmp_path / "tiny_colours",
        tmp_path / "data" / "colours",
        transfer=f"own={tmp_path}/data/colours",
        limit=8,
        cache=tmp_path / "cache",
    )
    assert float(first["cka"]) == found.measures["cka"].value
    assert float(first["cka_worst"]) == min(found.measures["cka"].value_blocks)
    assert float(first["weight_drift"]) == found.measures["weight_drift"].value
    assert float(first["after/own"]) == found.transfer["own"].after
    assert first["grafted"] == "visual projection + text tower + logit scale"
    assert (first["task"], first["accuracy_before"], first["accuracy_after"]) == ("colours", "40.5", "90")
    assert "TUNED is an image tower alone" in first["notes"]
    assert "tiny_gone" in gone["reason"]
    assert gone["cka"] == ""

    def never(*_: object, **__: object) -> None:
        raise PairError("it was asked for again")

    with monkeypatch.context() as patch:
        patch.setattr("clipdrift.comparison.compare.compare", never)
        assert go() == (1, rows)
        code, again = go("--retry-failed")
        assert again[0] == rows[0]
        assert again[1] == rows[2]
        assert again[2]["reason"] == "it was asked for again"
    shutil.copytree(tmp_path / "tiny_shades", tmp_path / "tiny_gone")
    assert go()[0] == 1  # a failure is tried again on request alone
    code, mended = go("--retry-failed")
    assert code == 0
    assert {row["status"] for row in mended} == {"done"}
    said = capsys.readouterr().out
    assert "1/3" in said
    assert "tiny_colours: done, CKA" in said


def test_one_that_breaks_off_leaves_what_was_done(
    go: Callable[..., tuple[int, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a mistake of ours in one row does not take the others with it."""
    asked: list[str] = []

    def breaks(_base: str, tuned: str, *_: object, **__: object) -> None:
        asked.append(Path(tuned).name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        raise ZeroDivisionError("two\nlines")

    with monkeypatch.context() as patch:
        patch.setattr("clipdrift.comparison.compare.compare", breaks)
        code, rows = go()
    assert code == 130
    assert [row["status"] for row in rows] == ["failed"]
    assert rows[0]["reason"] == "ZeroDivisionError: two lines"
    assert len(go("--retry-failed")[1]) == 3


def test_a_text_tower_has_no_numbers_of_images(
    go: Callable[..., tuple[int, Rows]], pool: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """Those would compare BASE with itself."""
    model = half.text_tower(half.load_plain(tiny_clip_dir))
    for weight in model.parameters():
        weight.data.mul_(1.1)
    half.saved(model, tmp_path / "tiny_texts")
    pool.write_text(f"base,tuned,task\n{tiny_clip_dir},tiny_texts,colours\n")
    code, (row,) = go()
    assert code == 0
    assert not any(row[name] for name in ("cka", "cka_worst", "embedding_drift", "weight_drift"))
    assert row["after/own"] != ""
    assert row["grafted"].startswith("image tower + ")


def test_only_some(go: Callable[..., tuple[int, Rows]]) -> None:
    code, rows = go("--only", "shades")
    assert code == 0
    assert [row["tuned"] for row in rows] == ["tiny_shades"]


def test_rows_of_other_settings_are_not_mixed(
    go: Callable[..., tuple[int, Rows]],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, rows = go("--only", "shades")
    assert go("--only", "shades", images=str(pictures)) == (2, rows)
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "other settings" in said
    assert json.loads(rows[0]["settings"])["limit"] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base,model\na,b\n", "no column tuned"),
        ("base,tuned\n", "no rows"),
        ("base,tuned\na,\n", "line 2 names no tuned"),
        ("base,tuned\na,b\na,c\na,b\n", "line 4 names b against a a second time"),
    ],
)
def test_lists_that_cannot_be_used(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "pool.csv").write_text(text)
    (tmp_path / "out.csv").write_text("kept")
    arguments = [str(tmp_path / "pool.csv"), "--images", "x", "--out", str(tmp_path / "out.csv")]
    assert tool.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "kept"


def test_a_file_that_is_no_table_is_kept(
    tool: ModuleType, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.csv").write_text("mine\n1\n")
    assert tool.main([str(pool), "--images", "x", "--out", str(tmp_path / "out.csv")]) == 2
    assert "no table of this tool" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "mine\n1\n"


def test_the_committed_list(tool: ModuleType) -> None:
    """Twenty tasks for each of three sizes; what a card says of accuracy is a percentage, or left empty."""
    rows = tool.read_pool(tool.POOL)
    bases = {row.base for row in rows}
    assert bases == {f"openai/clip-vit-{size}" for size in ("base-patch32", "base-patch16", "large-patch14")}
    for base in bases:
        mine = [row for row in rows if row.base == base]
        assert len({row.task for row in mine}) == len(mine) == 20
        assert all(row.tuned == f"tanganke/{base.removeprefix('openai/')}_{row.task}" for row in mine)
    for row in rows:
        assert bool(row.accuracy_before) == bool(row.accuracy_after)
        assert all(0 < float(v) <= 100 for v in (row.accuracy_before, row.accuracy_after) if v)
