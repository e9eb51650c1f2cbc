"""``clipdrift.testing.assert_kept``, also inside a pytest of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipdrift.testing import assert_kept


def test_it_passes_and_hands_back_what_it_found(
    kept: Path, moved: Callable[[float], Path], tmp_path: Path
) -> None:
    found = assert_kept(kept, moved(0.1), None, ["cka >= 0.1", "embedding_drift <= 1.5"], cache=tmp_path)
    assert found.rules[0].value == found.comparison.measures["cka"].value


def test_the_message_names_rule_value_threshold_and_interval(
    kept: Path, moved: Callable[[float], Path], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_kept(kept, moved(1.0), None, "cka >= 0.999", cache=tmp_path)
    said = str(caught.value)
    assert said.startswith("Not kept: 1 of 1 rule fails: cka >= 0.999, at 0.")
    assert "broken: cka >= 0.999; is 0." in said
    assert "(95 %: 0." in said


def test_what_cannot_be_told_fails(kept: Path, moved: Callable[[float], Path], tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match="Could not be checked: weight_drift <= 1: it needs BASE's weights"
    ):
        assert_kept(kept, moved(1.0), None, "weight_drift <= 1", cache=tmp_path)


def test_a_failing_test_shows_the_message_and_not_our_code(
    kept: Path, moved: Callable[[float], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a run of pytest of its own, in this process, with nothing of this one's settings."""
    file = tmp_path / "test_model.py"
    arguments = f"{str(kept)!r}, {str(moved(1.0))!r}, None, 'cka >= 0.999', cache={str(tmp_path)!r}"
    file.write_text(
        f"from clipdrift.testing import assert_kept\n\ndef test_drift():\n    assert_kept({arguments})\n"
    )
    ended = pytest.main(
        ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", "/dev/null", str(file)]
    )
    said = capsys.readouterr().out
    assert ended == pytest.ExitCode.TESTS_FAILED
    assert "Not kept: 1 of 1 rule fails: cka >= 0.999" in said
    assert "__tracebackhide__" not in said
