"""One folder of pictures with captions for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair_runs import write_captions


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captions(tmp_path_factory.mktemp("pairs") / "captioned")
