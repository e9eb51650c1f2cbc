"""Reads a page as a browser's parser would, and looks its numbers up on its own. For tests."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import pandas as pd

from clipdrift.comparison import Comparison

VOID = {"meta", "link", "img", "br", "input", "hr"}


@dataclass(repr=False)
class Element:
    """A tag with its attributes, the text inside, and the elements that it stands in."""

    tag: str
    attributes: dict[str, str | None]
    inside: tuple[Element, ...]
    parts: list[str] = field(default_factory=list)

    @cached_property
    def text(self) -> str:
        return "".join(self.parts)

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""


@dataclass(repr=False)
class Page(HTMLParser):
    """All elements of a page in order; ``errors`` where tags do not fit."""

    elements: list[Element] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []

    @classmethod
    def of(cls, text: str) -> Page:
        page = cls()
        page.feed(text)
        page.close()
        page.errors += [f"never closed: {element.tag}" for element in page._open]
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.errors.append(f"{tag}: attribute twice in {names}")
        element = Element(tag, dict(attrs), tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.errors.append(f"</{tag}> inside {[element.tag for element in self._open]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.parts.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def id(self, name: str) -> Element:
        return next(element for element in self.elements if element["id"] == name)


class Tables:
    """The values that data-keys name, from the comparison's own tables."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for table, frame, names in (
            ("comparison.csv", comparison.to_frame(), ("measure", "set", "block")),
            ("heads.csv", comparison.heads_frame(), ("measure", "block", "head")),
        ):
            for row in frame.to_dict("records"):
                key = (table, *("" if pd.isna(row[name]) else str(row[name]) for name in names))
                self._rows.setdefault(key, []).append(row)

    def __getitem__(self, key: str) -> Any:
        table, _, rest = key.partition(":")
        parts = [unquote(part) for part in rest.split("/")]
        if table == "field":
            return self._field(parts)
        found = self._rows.get((table, *parts[:-1]), [])
        assert len(found) == 1, f"{key} names {len(found)} rows"
        value = found[0][parts[-1]]
        return None if pd.isna(value) else value

    def _field(self, parts: list[str]) -> Any:
        value: Any = self._comparison
        for part in parts:
            if isinstance(value, dict):
                value = value[part] if part in value else value[int(part)]
            else:
                value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
        return value


def agrees(text: str, value: Any) -> bool:
    """Whether a printed text stands for a value: equal to the last digit printed."""
    if value is None:
        return text == "n/a"
    if isinstance(value, bool | str):
        return text == str(value)
    if isinstance(value, tuple):
        return text == ", ".join(map(str, value))
    said = text.replace("−", "-").removesuffix(" %").replace(",", "")
    found = re.fullmatch(r"[+-]?(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?", said)
    if not found:
        return False
    step = 10.0 ** (int(found[3] or 0) - len(found[2] or ""))
    return math.isclose(float(said), float(value), rel_tol=1e-12, abs_tol=step * 0.5000001)
