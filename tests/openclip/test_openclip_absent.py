"""Without OpenCLIP, in every environment: what to install is said, and nothing else needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from openclip_models import error_of


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32/openai", "hf-hub:lab/model", "open_clip:./folder"])
def test_openclip_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever form the name has."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    message = error_of(name)
    assert message.startswith("OpenCLIP cannot be imported (")
    assert message.endswith('; pip install "clipdrift[open-clip]"')


def test_it_is_not_imported_for_other_models() -> None:
    """Reading and comparing know OpenCLIP's classes by their names."""
    code = "import sys, clipdrift.model.towers, clipdrift.model.openclip; print('open_clip' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
