"""Without OpenCLIP: what to install is said. Runs in every environment; in most it is not there anyway."""

from __future__ import annotations

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
