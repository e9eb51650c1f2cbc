"""Views of a result that upper rooms provide, looked up by name so that results never import upwards.

A result class is plain data in a low room; its words and pictures are made in upper ones. The package's front
registers them (``clipdrift/__init__.py``), and nothing is imported before a view is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_HOMES: dict[str, str] = {}


def provide(view: str, home: str) -> None:
    """Register a view.

    Args:
        view: class and method, as ``Comparison.plot``.
        home: module and function, as ``clipdrift.figures.compared_blocks:block_drift``.
    """
    _HOMES[view] = home


def view(name: str) -> Callable[..., Any]:
    """The function behind a registered view. Raises KeyError for one that nobody provides."""
    module, _, function = _HOMES[name].partition(":")
    made: Callable[..., Any] = getattr(import_module(module), function)
    return made


def provided() -> dict[str, str]:
    """Every registered view and its home."""
    return dict(_HOMES)
