"""A page in headless Chromium: what stands there after its scripts ran. For tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from page_reading import Page

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None
)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr",
)  # fmt: skip
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")


def looked_at(path: Path, profile: Path, view: str = "") -> tuple[Page, list[str]]:
    """The page as it stands after its scripts ran, and what they wrote to the console.

    Args:
        profile: an empty folder, which the browser fills.
        view: what follows the address, as in ``#image=2``.
    """
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", f"file://{path}{view}"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return Page.of(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
