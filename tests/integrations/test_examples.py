"""The examples of the documentation, run as they stand."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from clipdrift.monitoring import log

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 40
"""Lines of an example."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them keep the generated images."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("name", "out", "steps"),
    [
        ("watch_loop", "drift/loop", [4, 8, 12]),
        ("watch_transformers", "tuned/drift", [4, 8]),
        ("watch_lightning", "drift", [4, 8]),
        ("watch_accelerate", "drift/accelerate", [2, 4]),
    ],
)
def test_it_runs_and_measures(
    name: str,
    out: str,
    steps: list[int],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each prints what is kept after as many steps as it says, and trains: the model moves."""
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(cache))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    rows, damaged = log.read(tmp_path / out)
    assert [row["step"] for row in rows] == steps
    assert not damaged
    assert rows[0]["drift/embedding_drift"] < rows[-1]["drift/embedding_drift"]
    assert rows[-1]["drift/text_embedding_drift"] > 0  # both towers are trained
    printed = capsys.readouterr().out
    assert len(re.findall(r"step \d+: +\d+ % kept", printed)) == len(steps)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("watch_*.py")), ids=lambda p: p.stem)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_all_of_them_are_named_in_the_documentation() -> None:
    page = (EXAMPLES.parent / "docs/monitor.md").read_text()
    assert not [path.name for path in EXAMPLES.glob("watch_*.py") if path.name not in page]
