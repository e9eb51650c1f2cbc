"""Text of numbers: one value, one text, and never a percentage with an exponent."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from clipdrift import texts
from clipdrift.errors import named_line, one_line


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 2, "0"), (0.000153, 2, "0.00015"), (219.6, 2, "220"), (1.3e-5, 2, "0.000013"), (0.5, 2, "0.50"),
        (-0.0496, 2, "-0.050"), (123456.0, 3, "123000"), (9.996, 3, "10.0"),
    ],
)  # fmt: skip
def test_fixed_has_its_digits_and_no_exponent(value: float, digits: int, text: str) -> None:
    assert texts.fixed(value, digits) == text
    assert float(texts.fixed(value, digits)) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) + 1e-9)
    assert math.isnan(float(texts.fixed(math.nan)))
    assert texts.fixed(math.inf, sign=True) == "+inf"


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (texts.decimal, 0.9531, "0.953"), (texts.decimal, 0.0, "0.000"), (texts.decimal, 1.23e-5, "1.2e-05"),
        (texts.percent, 63.66, "63.7 %"), (texts.percent, None, ""), (texts.percent, 0.0, "0.0 %"),
        (texts.share, 220.4, "220.4 %"), (texts.share, 0.5, "0.50 %"), (texts.share, 0.000153, "0.00015 %"),
        (texts.rate, 1e-5, "1e-5"), (texts.rate, 0.0003, "3e-4"), (texts.rate, 0.3, "0.3"),
        (texts.rate, 0.05, "5e-2"),
        (texts.option, 0.1, "0.1"), (texts.option, math.nan, ""), (texts.option, None, ""),
        (texts.option, "q+v", "q+v"),
        (texts.option, 8, "8"), (texts.p_value, 0.00001, "< 0.0001"), (texts.p_value, 0.0234, "0.023"),
        (texts.p_value, 0.314, "0.31"), (texts.number, 87849216, "87,849,216"),
        (texts.number, 0.01234, "0.0123"),
        (texts.number, -3.14159, "−3.142"), (texts.number, 1.5e-7, "1.50e-07".replace("-", "−")),
        (texts.signed, 0.0, "0"), (texts.signed, -0.0123, "−0.012"), (texts.signed, 130.2, "+130"),
        (texts.signed_hundredths, -3.994, "−3.99"), (texts.three_decimals, -0.5, "−0.500"),
        (texts.one_decimal, -0.04, "−0.0"),
    ],
)  # fmt: skip
def test_texts(function: object, value: object, text: str) -> None:
    assert callable(function)
    assert function(value) == text


@pytest.mark.parametrize("value", [*np.geomspace(1e-12, 1e6, 37), 0.0, 0.95, 0.949])
def test_a_percentage_never_has_an_exponent_and_keeps_its_sign(value: float) -> None:
    for sign in (1, -1):
        for text in (texts.change(sign * value, False), texts.share(sign * value), texts.drift(sign * value)):
            assert re.fullmatch(r"[+−-]?[\d,]+(\.\d+)? %", text), text
    if value:
        assert texts.change(value, False).startswith("+")
        assert texts.change(-value, False).startswith(texts.MINUS)


def test_error_lines_are_lines() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert named_line(KeyError("x\ny")) == r"KeyError: 'x\ny'"
    long = one_line("word " * 100, 20)
    assert long == "word word word …"  # between words
    assert one_line("x" * 100, 20) == f"{'x' * 18} …"
    assert one_line("see https://example.org/a/long/address for more", 30) == "see …"
