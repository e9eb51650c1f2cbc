"""Class names that a text encoder cannot read: codes, and names that its tokenizer makes equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_PREFIX = re.compile(r"(?:n\d{8}|\d+)[ ._-]+(?=\S)")
"""A number or WordNet id before a name, as in ``001.Black_footed_Albatross`` and ``n02085620-Chihuahua``."""

_CODE = re.compile(
    r"[a-z]{0,2}[ _-]?\d+|n\d{8}|/?m/0\w+|[0-9a-f]{8,}"
    r"|(?:class|cls|label|lbl|cat|category|id|type|kind|group|species|cluster)[ _-]?(?:\d+|[a-z])",
    re.IGNORECASE,
)
_MOSTLY = 0.8
"""Share of codes among names from which they are said to be codes."""


def without_codes(names: Sequence[str]) -> tuple[str, ...] | None:
    """Names without the number or WordNet id that all of them begin with.

    ``None`` where not all do, or where most of what is left is codes or some of it is not distinct.
    """
    matches = [_PREFIX.match(name) for name in names]
    left = [name[match.end() :] for name, match in zip(names, matches, strict=True) if match]
    if len(left) != len(names) or len(set(left)) != len(names) or len(names) < 2:
        return None
    readable = [name for name in left if any(letter.isalpha() for letter in name)]
    return None if not readable or are_codes(left) else tuple(left)


def are_codes(names: Sequence[str]) -> bool:
    """Whether most of the names are numbers or codes (``3``, ``c7``, ``n01440764``, ``class_2``)."""
    return sum(_CODE.fullmatch(name) is not None for name in names) >= _MOSTLY * len(names)


def as_read(name: str) -> str:
    """A name as a lower-casing tokenizer reads it."""
    return " ".join(unicodedata.normalize("NFKC", name).lower().split())


def alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Two names that a tokenizer which lower-cases reads as one; ``None`` if there are none."""
    seen: dict[str, str] = {}
    for name in names:
        if (key := as_read(name)) in seen:
            return seen[key], name
        seen[key] = name
    return None
