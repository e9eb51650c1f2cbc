"""Fine-tune CLIP without breaking it.

The names of ``__all__`` are stable. They are loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipdrift import formulas
    from clipdrift.analysis import analyse
    from clipdrift.comparing.compare import compare
    from clipdrift.comparing.measuring import Measurement, measure
    from clipdrift.comparison import Comparison
    from clipdrift.config import RunConfig, load_config
    from clipdrift.engines.running import run_study
    from clipdrift.model.clip import Clip, load
    from clipdrift.model.trace import Traced, trace
    from clipdrift.record import Record
    from clipdrift.repair import interpolate, rewind, soften
    from clipdrift.repaired import Repaired
    from clipdrift.reporting import Report, report
    from clipdrift.runner import train
    from clipdrift.study import Study, load_study

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "Comparison",
    "Measurement",
    "Record",
    "Repaired",
    "Report",
    "RunConfig",
    "Study",
    "Traced",
    "__version__",
    "analyse",
    "compare",
    "formulas",
    "interpolate",
    "load",
    "load_config",
    "load_study",
    "measure",
    "report",
    "rewind",
    "run_study",
    "soften",
    "trace",
    "train",
]

_HOMES = {
    "Clip": "clipdrift.model.clip",
    "Comparison": "clipdrift.comparison",
    "Measurement": "clipdrift.comparing.measuring",
    "Record": "clipdrift.record",
    "Repaired": "clipdrift.repaired",
    "Report": "clipdrift.reporting",
    "RunConfig": "clipdrift.config",
    "Study": "clipdrift.study",
    "Traced": "clipdrift.model.trace",
    "analyse": "clipdrift.analysis",
    "compare": "clipdrift.comparing.compare",
    "interpolate": "clipdrift.repair",
    "load": "clipdrift.model.clip",
    "load_config": "clipdrift.config",
    "load_study": "clipdrift.study",
    "measure": "clipdrift.comparing.measuring",
    "report": "clipdrift.reporting",
    "rewind": "clipdrift.repair",
    "run_study": "clipdrift.engines.running",
    "soften": "clipdrift.repair",
    "trace": "clipdrift.model.trace",
    "train": "clipdrift.runner",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "formulas":
        return import_module("clipdrift.formulas")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clipdrift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
