"""Write a forecast: JSON with its checksum, CSV, its sentences, the figure."""

from __future__ import annotations

import io
from pathlib import Path

from clipdrift.figures.forecast import write_forecast
from clipdrift.forecasting import Forecast
from clipdrift.runs.files import write_bytes, write_text


def report(found: Forecast, folder: str | Path) -> Path:
    """Write ``forecast.json``, ``.csv``, ``.txt`` and ``.png`` into ``folder`` and return it."""
    place = Path(folder)
    found.save(place)
    write_text(place / "forecast.txt", found.summary() + "\n")
    picture = io.BytesIO()
    write_forecast(found, picture)
    write_bytes(place / "forecast.png", picture.getvalue())
    return place
