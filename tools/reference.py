"""Write what the documentation copies from the code: the reference, the rooms, the tree of files.

``--check`` writes nothing and fails where a copy is out of date; the tests call it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marked import between
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from clipdrift.config import (
    DataConfig,
    DataSet,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RulesConfig,
    RunConfig,
    methods,
    penalties,
)
from clipdrift.config.base import name_of
from clipdrift.data.catalog import CATALOG
from clipdrift.data.worlds import WORLDS
from clipdrift.listing import HEADS, MEASURES, METHODS, MODELS, PENALTIES

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- tree: written by make docs -->", "<!-- end of tree -->"

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("", RunConfig),
    ("model", ModelConfig),
    ("data", DataConfig),
    ("data.target, data.transfer", DataSet),
    *((f"method = {name_of(options)}", options) for options in methods.BUILT_IN),
    *((f"penalty = {name_of(options)}", options) for options in penalties.BUILT_IN),
    ("optim", OptimConfig),
    ("evaluation", EvaluationConfig),
    ("rules", RulesConfig),
)


def reference() -> str:
    """The whole of docs/reference.md."""
    parts = [
        "# Reference",
        "Written by `make docs` from the code. Prose is in the other pages.",
        "## Keys of a run",
        "In a TOML file, or as `--set section.key=value`. A string stands for a table with that `name`; one "
        "that starts with `/`, `./`, `../` or `~` is a path. Keys marked * name places or speed of one "
        "machine, or what is shown and said; they do not enter the run's key.",
    ]
    for title, model in SECTIONS:
        rows = list(_keys(model))
        if title:
            parts.append(f"### {title}")
            parts.append(_first(model))
        if rows:
            parts.append(_table(("key", "type", "default", "meaning"), rows))
    parts += [
        "## Keys of a pretraining",
        _table(("key", "type", "default", "meaning"), list(_keys(PretrainConfig))),
    ]
    parts += ["## Methods", _table(("name", "trains", "reference"), _entries(METHODS))]
    parts += ["## Heads", _table(("head", "what", "reference"), _entries(HEADS))]
    parts += ["## Penalties", _table(("name", "what", "reference"), _entries(PENALTIES))]
    measures = [(f"`{n}`", e.family, e.summary, e.unit, e.range, e.reference) for n, e in MEASURES.items()]
    parts += [
        "## Measures",
        "Exact definitions: [measures](measures.md).",
        _table(("name", "family", "what", "unit", "range", "reference"), measures),
    ]
    parts += ["## Models", _table(("name", "what", "reference"), _entries(MODELS))]
    sets = [
        (f"`{n}`", str(len(r.classes or ())), f"hub `{r.hub}`", f"`{r.prompts[0]}`", r.note)
        for n, r in CATALOG.items()
    ]
    sets += [
        (f"`{n}`", str(len(w.classes)), "generated", f"`{w.templates[0]}`", w.note) for n, w in WORLDS.items()
    ]
    parts += ["## Data sets", _table(("name", "classes", "from", "default prompt", "note"), sets)]
    return "\n\n".join(parts) + "\n"


def _first(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _keys(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        star = "*" if isinstance(extra, dict) and extra.get("machine") else ""
        yield f"`{name}`{star}", _type(field.annotation), _default(field.default), field.description or ""


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for prefix in (
        "typing.",
        "clipdrift.config.models.",
        "clipdrift.config.methods.",
        "clipdrift.config.penalties.",
    ):
        text = text.replace(prefix, "")
    return f"`{text}`".replace("|", "\\|")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return f"`{name}`" if name else "see below"
    if isinstance(value, tuple):
        return ", ".join(_default(v) for v in value) or "none"
    return "none" if value is None else f"`{value}`"


def _entries(entries: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(f"`{name}`", entry.summary, entry.reference) for name, entry in entries.items()]


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _sentence(file: Path) -> str:
    """First sentence of a module's docstring, without its full stop."""
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(said.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def rooms() -> str:
    """One line per room: a package, or a module that stands alone."""
    lines = ["```", "src/clipdrift/"]
    for place in sorted((ROOT / "src/clipdrift").iterdir(), key=lambda p: (p.is_file(), p.name)):
        file = place / "__init__.py" if place.is_dir() else place
        if file.suffix == ".py" and file.is_file():
            name = f"{place.name}/" if place.is_dir() else place.name
            lines.append(f"  {name:14} {_sentence(file)}")
    return "\n".join([*lines, "```"])


def tree() -> str:
    """Every source file with the first sentence of its docstring, room by room."""
    lines = ["```", "src/clipdrift/"]
    for file in sorted((ROOT / "src/clipdrift").rglob("*.py"), key=lambda f: (f.parent.parts, f.name)):
        path = file.relative_to(ROOT / "src/clipdrift").as_posix()
        lines.append(f"  {path:33} {_sentence(file)}")
    return "\n".join([*lines, "```"])


def pages() -> dict[Path, str]:
    """Each page that copies from the code, as it should be."""
    copies = {ROOT / "README.md": rooms(), ROOT / "docs/architecture.md": tree()}
    made = {
        page: between(page.read_text(encoding="utf-8"), START, END, text) for page, text in copies.items()
    }
    return made | {ROOT / "docs/reference.md": reference()}


def main() -> int:
    stale = [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)}: out of date; run make docs")
        else:
            path.write_text(pages()[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
