"""Other models of BASE laid beside TUNED: cosines of task vectors, as numpy has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside import Adapter
from transformers import CLIPModel

import half_models
from clipdrift.comparison import BesideRow, Comparison, read_comparison
from clipdrift.comparison.models import PairError
from clipdrift.comparison.verdict import verdict
from clipdrift.reporting.comparison import report
from clipdrift.runs.store import RunFolder
from commands import Say, runner


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command in this process, on a wide page."""
    monkeypatch.setenv("COLUMNS", "300")
    return runner(capsys)


Against = Callable[..., Comparison]


def step(base: Path, tuned: Path, part: tuple[str, ...]) -> Any:
    """What one model added to another, as one long vector."""
    old, new = (CLIPModel.from_pretrained(folder).state_dict() for folder in (base, tuned))
    names = [name for name in old if name.startswith(part)]
    return np.concatenate([(new[name].double() - old[name].double()).numpy().ravel() for name in names])


@pytest.fixture(scope="module")
def laid(
    tuned_dir: Path, adapters: Callable[[str], Adapter], runs: Callable[[str], RunFolder], beside: Against
) -> Comparison:
    others = [adapters("whole").folder, tuned_dir, runs("last_blocks").path]
    return beside(tuned_dir, beside=others)


def test_the_cosines_are_numpys(
    laid: Comparison, tiny_clip_dir: Path, tuned_dir: Path, adapters: Callable[[str], Adapter]
) -> None:
    """Overall and block by block; an adapter as it merges. Beside itself, a model has 1."""
    whole, same, last = laid.beside
    for block, value in enumerate((whole.cosine, *whole.cosine_blocks)):
        part = (
            (f"vision_model.encoder.layers.{block - 1}.",)
            if block
            else ("vision_model.", "visual_projection.")
        )
        one = step(tiny_clip_dir, tuned_dir, part)
        other = step(tiny_clip_dir, adapters("whole").merged, part)
        wanted = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
        assert value == pytest.approx(wanted, abs=1e-6)
    assert (whole.side.kind, last.side.kind) == ("adapter", "run")
    assert (same.cosine, *same.cosine_blocks) == pytest.approx((1, 1, 1))
    assert same.weight_drift == pytest.approx(laid.measures["weight_drift"].value)
    assert last.cosine_blocks[0] is None
    assert last.cosine_blocks[1] is not None


def test_they_stand_in_every_form_of_the_result(laid: Comparison, tmp_path: Path) -> None:
    """Verdict, table, JSON, page."""
    whole, _, last = laid.beside
    line = next(
        line for line in verdict(laid) if line.startswith(f"Beside {whole.side.name}, which moved by")
    )
    assert f"is {whole.cosine:.3f} (1: the same way, 0: at right angles), from" in line
    frame = laid.to_frame().query("measure == 'task_vector_cosine'").set_index(["set", "block"])["value"]
    assert frame[last.side.name].iloc[0] == last.cosine
    assert np.isnan(frame[last.side.name].iloc[1])
    page = report(laid, tmp_path).read_text(encoding="utf-8")
    assert read_comparison(tmp_path).beside == laid.beside
    assert "Beside other models of BASE" in page
    assert page.count('data-key="field:beside/2/cosine_blocks/1"') == 1
    assert 'data-key="field:beside/2/cosine_blocks/0"' not in page


def test_what_is_no_model_of_base_is_refused(
    beside: Against, tuned_dir: Path, siglip_dir: Path, adapters: Callable[[str], Adapter]
) -> None:
    """As TUNED would be; and one that is named twice."""
    with pytest.raises(PairError, match="of different architectures"):
        beside(tuned_dir, beside=siglip_dir)
    folder = adapters("whole").folder
    with pytest.raises(PairError, match=f"--beside names {folder} twice"):
        beside(tuned_dir, beside=[folder, folder])


def test_what_half_a_model_beside_lacks_is_said_of_it(
    beside: Against, tuned_dir: Path, tmp_path: Path
) -> None:
    """Also where TUNED lacks the same."""
    one, other = (
        half_models.saved(half_models.image_tower(half_models.load_plain(tuned_dir)), tmp_path / name)
        for name in ("one", "other")
    )
    notes = beside(str(one), beside=other).notes
    for whose in ("TUNED", str(other)):
        assert any(note.startswith(f"{whose} is an image tower alone") for note in notes)


def test_without_any_nothing_is_said(changed: Comparison) -> None:
    """Nor is there an angle where one did not move, and which is said."""
    assert changed.beside == ()
    assert "Beside" not in changed.summary()
    for moved, still in ((0.0, "its"), (0.1, "TUNED's")):
        row = BesideRow(side=changed.base, weight_drift=moved, cosine=None, cosine_blocks=(None, None))
        said = changed.model_copy(update={"beside": (row,)}).summary()
        assert f"Beside {changed.base.name}: {still} image tower is BASE's own, so there is no angle." in said


def test_the_command_lays_models_beside(
    say: Say, tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, runs: Callable[[str], RunFolder]
) -> None:
    """A row for each."""
    other, quick = runs("last_blocks").path, ["--no-flow", "--no-spectra", "--limit", "8"]
    said = say("compare", tiny_clip_dir, tuned_dir, "--images", pictures, *quick, "--beside", other)
    assert said.code == 0
    row = next(line for line in said.out.splitlines() if line.startswith(str(other)))
    assert " -  " in row
