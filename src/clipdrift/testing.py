"""For tests of models: fail with a message in plain words where a tuned model lost what it should keep."""

from __future__ import annotations

from typing import Any

from clipdrift.decision import Checked


def assert_kept(base: Any, tuned: Any, images: Any, rules: Any, **options: Any) -> Checked:
    """Assert that every rule holds, as :func:`clipdrift.check` judges it.

    What cannot be told fails as well: a test that judges nothing must not pass.

    Args:
        base, tuned, images, rules, options: those of :func:`clipdrift.check`.

    Returns:
        What was found, for further assertions.

    Raises:
        AssertionError: names each rule that fails with its value, threshold and interval.
        ClipdriftError: the check cannot be made as it was asked for.
    """
    __tracebackhide__ = True
    from clipdrift.decision.checking import check

    checked = check(base, tuned, images, rules, **options)
    if not checked.kept:
        raise AssertionError(checked.summary())
    return checked
