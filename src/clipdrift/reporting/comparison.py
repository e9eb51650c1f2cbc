"""Write a comparison: JSON, CSV, figures, and the page that shows all of it."""

from __future__ import annotations

from pathlib import Path

from clipdrift.comparison import Comparison
from clipdrift.comparison.verdict import verdict
from clipdrift.figures.comparing import write_figures
from clipdrift.pages.compare import write_page


def report(found: Comparison, folder: str | Path) -> Path:
    """Write everything into ``folder`` and return the page, ``index.html``.

    The page is written last: where it is there, the rest is.
    """
    place = Path(folder)
    found.save(place)
    figures = {file.stem: file for file in write_figures(found, found.maps, place)}
    return write_page(found, found.maps, figures, place / "index.html", verdict=verdict(found))
