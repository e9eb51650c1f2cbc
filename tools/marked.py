"""The part of a page that is written by a program, between two comments."""

from __future__ import annotations


def between(page: str, start: str, end: str, text: str) -> str:
    """The page with ``text`` between its two marks.

    Raises:
        ValueError: a mark is missing, stands twice, or they are in the wrong order.
    """
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended) or start in rest or end in after:
        raise ValueError(f"the page needs the marks {start} and {end}, once each and in this order")
    return f"{before}{start}\n{text}\n{end}{after}"
