"""No module hides a public function, whatever is imported first; views are where they say."""

from __future__ import annotations

from importlib import import_module

import pytest

from clipdrift import views
from fresh import fresh

CODE = """
import importlib, pkgutil, random, sys
import clipdrift
names = sorted(module.name for module in pkgutil.walk_packages(clipdrift.__path__, "clipdrift."))
optional = {"open_clip", "ray", "wandb", "mlflow", "optuna"}
assert len(names) > 200, len(names)
public = [n for n in clipdrift.__all__ if n != "__version__"]
kinds = {n: type(getattr(clipdrift, n)).__name__ for n in public}
for seed in range(2):
    for name in [n for n in sys.modules if n.split(".")[0] == "clipdrift"]:
        del sys.modules[name]
    import clipdrift
    order = random.Random(7).sample(names, len(names)) if seed else names
    for name in order:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert error.name in optional, (name, error.name)
    found = {n: type(getattr(clipdrift, n)).__name__ for n in public}
    assert found == kinds, {n: (found[n], kinds[n]) for n in public if found[n] != kinds[n]}
    for name in "train check compare measure report interpolate rewind soften export load analyse".split():
        try:
            getattr(clipdrift, name)()
        except TypeError as error:
            assert f"{name}() missing" in str(error), error  # it was called, and wants its arguments
        else:
            raise AssertionError(name)
print("ok", sorted(set(kinds.values())))
"""


def test_public_functions_are_functions_in_whatever_order_modules_are_imported() -> None:
    done = fresh(CODE)
    assert done.code == 0, done.err[-2000:]
    assert done.out.startswith("ok")


@pytest.mark.parametrize(("name", "home"), sorted(views.provided().items()))
def test_a_view_is_a_function_of_its_class(name: str, home: str) -> None:
    owner, method = name.split(".")
    function = views.view(name)
    assert callable(function)
    assert function.__module__ == home.partition(":")[0]
    assert owner in import_module("clipdrift").__all__, owner
    assert method


def test_an_unknown_view_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"Comparison\.sing"):
        views.view("Comparison.sing")
