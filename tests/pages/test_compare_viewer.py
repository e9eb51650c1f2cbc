"""The attention viewer in a real browser: the address names the view; numbers and colours are the maps'."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import looked_at, needs_browser
from clipdrift.comparison import Comparison
from clipdrift.figures.panels import ATTENTION, CHANGE
from clipdrift.pages.compare import write_page
from clipdrift.runs.maps import Maps
from made_comparisons import ODD, made_comparison, made_maps

pytestmark = needs_browser


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Maps, Path]:
    """A page whose names try to become markup."""
    comparison = made_comparison(3, 4, (6, 6), name=ODD)
    maps = made_maps(comparison, 3)
    path = tmp_path_factory.mktemp("page") / "index.html"
    return comparison, maps, write_page(comparison, maps, {}, path, verdict=("Made up.",))


def test_the_address_names_image_block_head_and_patch(
    odd: tuple[Comparison, Maps, Path], tmp_path: Path
) -> None:
    _, maps, path = odd
    page, console = looked_at(path, tmp_path, "#image=2&block=3&head=2&patch=15")
    assert console == []
    before, after = (maps.of(side, 1, 3, 2).ravel() for side in ("before", "after"))
    said = page.id("view-values").text
    assert said.startswith(f"{ODD}, block 3, head 2; patch in row 3, column 3: ")
    values = [
        float(found.replace("−", "-"))
        for found in re.findall(r"(?:BASE|TUNED|difference) ([+−]?[\d.]+(?:e−\d+)?)", said)
    ]
    assert values == pytest.approx([before[14], after[14], after[14] - before[14]], rel=0.006, abs=2e-6)
    low, high = (e.text for e in page.elements if e["class"] in ("low", "high") and _within(e, "share"))
    assert (low, float(high)) == ("0", pytest.approx(max(before.max(), after.max()), rel=0.006))
    low, high = (e.text for e in page.elements if e["class"] in ("low", "high") and _within(e, "change"))
    widest = np.abs(after - before).max()
    assert (float(low.replace("−", "-")), float(high)) == pytest.approx((-widest, widest), rel=0.006)
    assert [e.text for e in page.all("option") if e.inside[-1]["id"] == "view-head"] == [
        "mean over heads",
        *(f"head {head}" for head in range(1, 5)),
    ]
    assert page.id("map-before")["aria-label"] == f"BASE: {ODD}, block 3, head 2"
    assert not [e for e in page.all("img") if e["src"] == "x"]
    shown = [e["data-heads"] for e in page.elements if e["data-heads"] and "hidden" not in e.attributes]
    assert shown == ["entropy"]


def test_canvases_have_the_colours_of_the_maps_and_a_wrong_address_the_last_block(
    odd: tuple[Comparison, Maps, Path], tmp_path: Path
) -> None:
    _, maps, path = odd
    probe = """
for (const id of ["before", "after", "change"]) {
  const kept = document.createElement("output");
  kept.id = `pixels-${id}`;
  kept.textContent = document.querySelector(`#map-${id} canvas`).toDataURL();
  document.body.append(kept);
}"""
    allowed = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = path.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{allowed}' ")
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8")
    page, console = looked_at(probed, tmp_path / "profile", "#image=9&block=x&head=7")
    assert console == []
    assert page.id("view-values").text == f"{ODD}, block 3, mean over heads"
    before, after = (maps.of(side, 0, 3, None) for side in ("before", "after"))
    most, widest = max(before.max(), after.max()), np.abs(after - before).max()
    for name, values, colours in (
        ("before", before / most, ATTENTION),
        ("after", after / most, ATTENTION),
        ("change", ((after - before) / widest + 1) / 2, CHANGE),
    ):
        pixels = base64.b64decode(page.id(f"pixels-{name}").text.partition(",")[2])
        drawn = np.asarray(Image.open(io.BytesIO(pixels)).convert("RGB")).astype(int)
        expected = np.asarray(colours(values.astype(float)))[..., :3] * 255
        assert drawn.shape == (6, 6, 3)
        assert np.abs(drawn - expected).max() < 12, name  # a neighbour among the 256 colours
        assert np.ptp(drawn) > 100


def _within(element: object, legend: str) -> bool:
    return element.inside[-1]["id"] == f"legend-{legend}"  # type: ignore[attr-defined]
