"""The page of a comparison: one HTML file with everything inside."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipdrift.comparison import Comparison
from clipdrift.pages import sections
from clipdrift.pages.cells import CellLookup
from clipdrift.pages.strips import HEIGHT
from clipdrift.pages.viewer import pack
from clipdrift.runs.files import write_text
from clipdrift.runs.maps import Maps

_FIGURES = {
    "block_drift": ("Drift by block", "Bars by block for every measure; the tables above hold the numbers."),
    "cka_matrix": ("CKA between blocks", "Heat map, blocks of BASE by blocks of TUNED; the numbers follow."),
    "weight_drift": ("Change of the weights", "Heat map, kinds of matrix by blocks; numbers under Weights."),
    "head_drift": (
        "Change of every head",
        "Heat map, heads by blocks; the largest changes are listed below.",
    ),
    "attention": ("Attention of some images", "Images with attention before, after, and the difference."),
    "spectrum": ("Spectra of the change", "Heat maps of rank and intruders; the numbers are under Spectra."),
    "transfer": ("Zero-shot ability", "Bars before and after by transfer set; numbers under Transfer."),
    "towers": (
        "Which tower's change",
        "Bars of each image tower with each text tower; numbers under Transfer.",
    ),
    "index_memory": (
        "An index built with BASE",
        "Bars of neighbours in common and of right finds by way of searching; numbers under Index.",
    ),
    "text_tower": ("The text tower by block", "Curves before and after by block; numbers under Text."),
}
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def write_page(
    comparison: Comparison,
    maps: Maps | None,
    figures: Mapping[str, Path],
    path: str | Path,
    *,
    verdict: Sequence[str],
) -> Path:
    """Write the page of a comparison: one file that loads nothing, works offline and in print.

    Args:
        maps: attention of some images for the viewer; without it there is no viewer.
        figures: PNG or SVG files by name (``block_drift`` ...), shown in this order.
        path: the HTML file.
        verdict: lines that open the page.

    Raises:
        ValueError: a figure of another format.
        UnresolvedError: the page asks for a number that the comparison's tables do not hold.
    """
    cells = CellLookup(comparison)
    data, said = (None, []) if maps is None or not len(maps.images) else pack(comparison, maps)
    environment = environment_of()
    script = Markup(part(environment, "viewer.js") + part(environment, "compare.js"))
    page = environment.get_template("compare.html.j2").render(
        c=comparison,
        field=cells.field,
        verdict=verdict,
        families=sections.families(comparison, cells),
        transfer=sections.transfer(comparison, cells),
        retrieval=sections.retrieval(comparison, cells),
        index=sections.index(comparison, cells),
        joint_space=sections.joint_space(comparison, cells),
        sensitivity=sections.sensitivity(comparison, cells),
        figures=[_figure(name, Path(file)) for name, file in figures.items()],
        matrix=sections.matrix(comparison, cells),
        heads=sections.heads(comparison),
        top=sections.TOP_HEADS,
        spectra=sections.spectra(comparison, cells),
        beside=sections.beside(comparison, cells),
        environment=sections.environment(comparison, cells),
        command=_command(comparison),
        viewer=data,
        said=said,
        css=part(environment, "compare.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        strip_height=HEIGHT,
    )
    out = Path(path)
    write_text(out, page)
    return out


def environment_of() -> Environment:
    return Environment(
        loader=PackageLoader("clipdrift.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def part(environment: Environment, name: str) -> Markup:
    """Read a file beside the template as it is: our own, so neither escaped nor filled in."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _figure(name: str, file: Path) -> dict[str, Any]:
    kind = _TYPES.get(file.suffix)
    if kind is None:
        raise ValueError(f"{file}: a page shows {' or '.join(_TYPES)} figures")
    title, alt = _FIGURES.get(name, (name, name))
    text = base64.b64encode(file.read_bytes()).decode()
    return {"name": name, "title": title, "alt": alt, "uri": f"data:{kind};base64,{text}"}


def _command(comparison: Comparison) -> str:
    """Command that makes the comparison again; empty where something was never on disk."""
    base, tuned = comparison.base, comparison.tuned
    kinds = [base.kind, tuned.kind, *(other.side.kind for other in comparison.beside)]
    if "in memory" in kinds or comparison.images.source.endswith("in memory"):
        return ""
    words = ["clipdrift", "compare", base.name, tuned.name, "--images", comparison.images.source]
    for name in comparison.transfer:
        words += ["--transfer", name]
    if comparison.index is not None:
        index = comparison.index
        if "memory" in index.source + index.queries_from:
            return ""
        words += ["--index", index.source]
        words += ["--queries", index.queries_from] if index.queries_from != index.source else []
    if comparison.head is not None:
        words += ["--target", comparison.head.target]
    for side in ("base", "tuned"):
        if getattr(comparison, side).interpolated_from is not None:
            words += ["--interpolate-positions", side]
    for other in comparison.beside:
        words += ["--beside", other.side.name]
    return shlex.join([*words, "--out", "compared"])
