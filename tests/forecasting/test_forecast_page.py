"""The page of a forecast: every number is its field, nothing is loaded, names are escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from clipdrift.decision.result import Estimate
from clipdrift.forecasting import FirstStep, Forecast, ForecastImages, Gradient, Suggestion, TransferFacts
from clipdrift.forecasting.tested import evidence
from clipdrift.reporting.forecast import write_page
from made_comparisons import ODD
from page_reading import Page, agrees


def made(name: str = "", **others: Any) -> Forecast:
    """A made-up forecast of a model and a target, judged by the evidence that ships."""
    shipped = evidence()
    base = {
        "base": name or "clipdrift/mini-photo",
        "images": ForecastImages(
            source=name or "photos", count=120, stepped=60, held_out=60, classes=("a", "b"), labelled=True
        ),
        "method": {"name": "full_ft"}, "steps": 1, "draws": 2, "batch_size": 32, "seed": 3,
        "weight_decay": 0.01,
        "zero_shot": Estimate(value=19.23, unit="%", low=15.81, high=22.64),
        "probe": Estimate(value=65.38, unit="%", low=61.19, high=69.57),
        "room": Estimate(value=46.15, unit="points", low=41.02, high=51.28),
        "entropy": Estimate(value=0.3904, low=0.3612, high=0.4201),
        "transfer": {
            name or "cifar100": TransferFacts(
                images=500, classes=100, overlap=0.6604,
                zero_shot=Estimate(value=58.81, unit="%", low=54.4, high=63.2),
            )
        },
        "gradient": Gradient(total=5.4553, spread=0.2113, blocks=(2.292, 2.28, 1.687), projection=1.4703),
        "first_steps": (
            FirstStep(
                rate=1e-5, drift=5.93e-5, drift_draws=(6.87e-5, 4.99e-5), cka_loss=8.11e-5,
                transfer_drift={name or "cifar100": 8.5e-6},
            ),
            FirstStep(rate=1e-3, drift=None, drift_draws=(), cka_loss=None, broken=2),
        ),
        "suggestion": Suggestion(
            level=90, threshold=0.000684, most=3.3e-5, low=3.1e-5, high=3.6e-5, open_above=False,
            sensitivity=0.88, methods=("full_ft",), source="so many runs",
        ),
        "tested": shipped.tested,
        "tested_on": "studies that ship",
        "notes": (name or "Only 120 images were read.",),
        "missing": {"zero_shot": name or "no names"},
        "timings": {"opened": 1.25},
    }  # fmt: skip
    return Forecast.model_validate(base | others)


def page_of(found: Forecast, folder: Path) -> tuple[Page, str]:
    path = write_page(found, folder / "page.html")
    text = path.read_text(encoding="utf-8")
    return Page.of(text), text


def field(found: Any, key: str) -> Any:
    for part in map(unquote, key.removeprefix("field:").split("/")):
        if isinstance(found, dict):
            found = found[part]
        else:
            found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    return found


@pytest.mark.parametrize("name", ["", ODD])
def test_every_number_is_the_field_that_its_key_names(name: str, tmp_path: Path) -> None:
    found = made(name)
    parsed, _ = page_of(found, tmp_path)
    assert parsed.errors == []
    keyed = [element for element in parsed.elements if element["data-key"]]
    for element in keyed:
        value = field(found, element["data-key"])
        assert agrees(element.text, value), f"{element['data-key']}: {element.text!r} for {value!r}"
    keys = {element["data-key"] for element in keyed}
    sets = {key for key in keys if key.startswith("field:transfer/")}
    assert len(sets) == 6
    assert keys >= {
        "field:zero_shot/value", "field:probe/low", "field:room/high", "field:entropy/value",
        "field:first_steps/0/drift", "field:first_steps/0/drift_draws/1", "field:first_steps/1/drift",
        "field:suggestion/threshold", "field:gradient/blocks/2", "field:batch_size",
    }  # fmt: skip
    rhos = [key for key in keys if re.fullmatch(r"field:tested/\d+/rho", key)]
    assert rhos


def test_it_says_what_follows_and_what_each_number_is_worth(tmp_path: Path) -> None:
    found = made()
    parsed, text = page_of(found, tmp_path)
    lines = [element.text for element in parsed.all("li")]
    assert lines[0].startswith("On photos the model knows 19.2 % (15.8 to 22.6)")
    assert any(line.startswith("full_ft: rates up to 3.3e-5") for line in lines)
    assert lines.count("Only 120 images were read.") == 1
    rates = next(e for e in parsed.all("section") if e["id"] == "rates").text
    assert "below" in rates
    assert "broke the model in 2 of 2 draws" in rates
    worth = next(e for e in parsed.all("section") if e["id"] == "worth").text
    drift = next(one for one in found.tested if one.number == "drift" and one.outcome.startswith("zero-shot"))
    assert drift.words in worth
    assert drift.verdict in worth
    assert drift.why in worth
    assert "clipdrift forecast clipdrift/mini-photo --images photos --labels" in text


def test_it_loads_nothing_and_has_its_figure_inside(tmp_path: Path) -> None:
    parsed, text = page_of(made(ODD), tmp_path)
    assert not parsed.all("script")
    assert not re.search(r"url\(|@import|https?://", text)
    assert [image["src"][:22] for image in parsed.all("img")] == ["data:image/png;base64,"]
    assert all("alt" in image.attributes for image in parsed.all("img"))
    for section in parsed.all("section"):
        assert section["aria-labelledby"] in {e["id"] for e in parsed.elements}


def test_what_was_not_computed_has_no_section(tmp_path: Path) -> None:
    nothing = {"zero_shot": None, "probe": None, "room": None, "entropy": None, "gradient": None}
    bare = made(**nothing, first_steps=(), suggestion=None, transfer={})
    parsed, _ = page_of(bare, tmp_path)
    assert [e["id"] for e in parsed.all("section")] == ["verdict", "notes", "figure", "missing", "how"]
