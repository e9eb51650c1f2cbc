"""Write a forecast: JSON with its checksum, CSV, its sentences, the figure, the page that shows all of it."""

from __future__ import annotations

import io
from pathlib import Path

from clipdrift.figures.forecast import write_forecast
from clipdrift.forecasting import Forecast
from clipdrift.forecasting.words import words
from clipdrift.pages.forecast import write_forecast_page
from clipdrift.runs.files import write_bytes, write_text


def report(found: Forecast, folder: str | Path) -> Path:
    """Write ``forecast.json``, ``.csv``, ``.txt``, ``.png`` and, last, ``index.html``; return the folder."""
    place = Path(folder)
    found.save(place)
    write_text(place / "forecast.txt", found.summary() + "\n")
    write_bytes(place / "forecast.png", _picture(found))
    write_page(found, place / "index.html")
    return place


def write_page(found: Forecast, path: Path) -> Path:
    """Write the page alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {f"note: {note}" for note in found.notes}
    apart = [line for line in words(found) if line not in notes and not line.startswith("Not computed: ")]
    return write_forecast_page(found, _picture(found), apart, path)


def _picture(found: Forecast) -> bytes:
    picture = io.BytesIO()
    write_forecast(found, picture)
    return picture.getvalue()
