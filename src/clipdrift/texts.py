"""Numbers as people read them: the one place that turns a value into text. Loads no torch.

Two styles: :func:`decimal`, :func:`percent` and :func:`drift` for terminals, in plain ASCII; :func:`number`,
:func:`change` and :func:`signed` for pages, tables and figures, with a true minus. A percentage never has an
exponent.
"""

from __future__ import annotations

import math
from decimal import Decimal

MINUS = "−"


def fixed(value: float, digits: int = 2, sign: bool = False) -> str:
    """``digits`` that count, without an exponent: ``0.00015``, ``0.50``, ``220``.

    Args:
        sign: put a plus before what is above 0.
    """
    if not math.isfinite(value):
        return f"{value:+}" if sign else f"{value}"
    if value == 0:
        return "0"
    rounded = Decimal(f"{value:.{digits - 1}e}")
    return f"{rounded:+f}" if sign else f"{rounded:f}"


# --- for terminals


def decimal(value: float) -> str:
    """Three decimals, unless nothing would be left of the value: ``0.953``, ``1.2e-05``."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def percent(value: float | None) -> str:
    """A percentage with one decimal: ``63.7 %``; empty where there is none."""
    return "" if value is None else f"{value:.1f} %"


def share(value: float) -> str:
    """A percentage that may be small: ``12.3 %``, ``0.50 %``, ``0.00015 %``."""
    return f"{value:.1f} %" if abs(value) >= 1 else f"{fixed(value)} %"


def drift(value: float | None, absolute: bool = False) -> str:
    """A change with its sign: ``+5.2 %``, or where absolute in the measure's own unit, ``+0.0123``."""
    found = value or 0.0
    return f"{found:+.3g}" if absolute else f"{found:+.1f} %"


def option(value: object) -> str:
    """An option's value: ``0.1``, ``q+v``; empty where it is missing."""
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def rate(value: float) -> str:
    """A learning rate: ``1e-5``, not ``1e-05``; ``0.3``."""
    mantissa, _, power = f"{value:.3g}".partition("e")
    if power:
        return f"{mantissa}e{int(power)}"
    exact = f"{value:.2e}".partition("e")
    return f"{float(exact[0]):g}e{int(exact[2])}" if value < 0.1 else mantissa


def age(seconds: float | None) -> str:
    """A time span for people."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- for pages, tables and figures


def number(value: float) -> str:
    """Format with at least three digits that count: ``0.0123``, ``3.142``, ``87,849,216``; exponents only
    below 1e-4."""
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 0.1 or size == 0:
        text = f"{value:.{1 if size >= 100 else 2 if size >= 10 else 3}f}"
    elif size >= 1e-4:
        text = f"{value:#.3g}"
    else:
        text = f"{value:.2e}"
    return typeset(text)


def short(value: float) -> str:
    """Two digits that count, without an exponent where that stays short: ``0.012``, ``13``."""
    if value == 0:
        return "0"
    return f"{value:#.2g}".removesuffix(".") if abs(value) < 99.5 else f"{value:.0f}"


def signed(value: float) -> str:
    """:func:`short` with its sign."""
    return "0" if value == 0 else f"{'+' if value > 0 else MINUS}{short(abs(value))}"


def signed_hundredths(value: float) -> str:
    """Two decimals with a sign: ``+1.83``, ``−3.99``."""
    return typeset(f"{value:+.2f}")


def one_decimal(value: float) -> str:
    """A percentage whose sign stands in the head of its column: ``63.7``."""
    return typeset(f"{value:.1f}")


def three_decimals(value: float) -> str:
    """``0.953``."""
    return typeset(f"{value:.3f}")


def change(value: float, absolute: bool) -> str:
    """A change with its sign: in percent, ``+0.26 %``, or where absolute in the measure's own unit."""
    if absolute:
        return "0" if value == 0 else f"{'+' if value > 0 else ''}{number(value)}"
    if value == 0:
        return "0 %"
    return typeset(f"{value:+.1f} %" if abs(value) >= 0.95 else f"{fixed(value, sign=True)} %")


def p_value(value: float) -> str:
    """``< 0.0001``, ``0.023``, ``0.31``."""
    return "< 0.0001" if value < 1e-4 else f"{value:#.2g}" if value < 0.1 else f"{value:.2f}"


def typeset(text: str) -> str:
    """A number's text with a true minus."""
    return text.replace("-", MINUS)
