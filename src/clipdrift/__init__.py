"""Fine-tune CLIP without breaking it.

The names of ``__all__`` are stable. They are loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipdrift.views import provide

if TYPE_CHECKING:
    from clipdrift import formulas
    from clipdrift.advice import Advice, advise
    from clipdrift.analysis import analyse
    from clipdrift.comparison import Comparison
    from clipdrift.comparison.compare import compare
    from clipdrift.comparison.indexing import index_memory
    from clipdrift.comparison.measuring import Measurement, measure
    from clipdrift.config import RunConfig, load_config
    from clipdrift.decision import Checked
    from clipdrift.decision.checking import baseline, check
    from clipdrift.exporting import Exported
    from clipdrift.exporting.job import export
    from clipdrift.forecasting import Forecast
    from clipdrift.forecasting.forecast import forecast
    from clipdrift.mixing import Mixed
    from clipdrift.mixing.mix import mix
    from clipdrift.model.clip import Clip, load
    from clipdrift.model.trace import Traced, trace
    from clipdrift.monitoring.frames import frame
    from clipdrift.monitoring.monitor import DriftMonitor
    from clipdrift.repair import Repaired
    from clipdrift.repair.interpolating import interpolate
    from clipdrift.repair.rewinding import rewind
    from clipdrift.repair.softening import soften
    from clipdrift.reporting import Report, report
    from clipdrift.rules import Rules
    from clipdrift.runs.record import Record
    from clipdrift.study.engines.running import run_study
    from clipdrift.study.plan import Study, load_study
    from clipdrift.sweeping import Sweep
    from clipdrift.sweeping.running import sweep
    from clipdrift.training.runner import train

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Checked",
    "Clip",
    "Comparison",
    "DriftMonitor",
    "Exported",
    "Forecast",
    "Measurement",
    "Mixed",
    "Record",
    "Repaired",
    "Report",
    "Rules",
    "RunConfig",
    "Study",
    "Sweep",
    "Traced",
    "__version__",
    "advise",
    "analyse",
    "baseline",
    "check",
    "compare",
    "export",
    "forecast",
    "formulas",
    "frame",
    "index_memory",
    "interpolate",
    "load",
    "load_config",
    "load_study",
    "measure",
    "mix",
    "report",
    "rewind",
    "run_study",
    "soften",
    "sweep",
    "trace",
    "train",
]

_HOMES = {
    "Advice": "clipdrift.advice",
    "Checked": "clipdrift.decision",
    "Clip": "clipdrift.model.clip",
    "Comparison": "clipdrift.comparison",
    "DriftMonitor": "clipdrift.monitoring.monitor",
    "Exported": "clipdrift.exporting",
    "Forecast": "clipdrift.forecasting",
    "Measurement": "clipdrift.comparison.measuring",
    "Mixed": "clipdrift.mixing",
    "Record": "clipdrift.runs.record",
    "Repaired": "clipdrift.repair",
    "Report": "clipdrift.reporting",
    "Rules": "clipdrift.rules",
    "RunConfig": "clipdrift.config",
    "Study": "clipdrift.study.plan",
    "Sweep": "clipdrift.sweeping",
    "Traced": "clipdrift.model.trace",
    "advise": "clipdrift.advice",
    "analyse": "clipdrift.analysis",
    "baseline": "clipdrift.decision.checking",
    "check": "clipdrift.decision.checking",
    "compare": "clipdrift.comparison.compare",
    "export": "clipdrift.exporting.job",
    "forecast": "clipdrift.forecasting.forecast",
    "frame": "clipdrift.monitoring.frames",
    "index_memory": "clipdrift.comparison.indexing",
    "interpolate": "clipdrift.repair.interpolating",
    "load": "clipdrift.model.clip",
    "load_config": "clipdrift.config",
    "load_study": "clipdrift.study.plan",
    "measure": "clipdrift.comparison.measuring",
    "mix": "clipdrift.mixing.mix",
    "report": "clipdrift.reporting",
    "rewind": "clipdrift.repair.rewinding",
    "run_study": "clipdrift.study.engines.running",
    "soften": "clipdrift.repair.softening",
    "sweep": "clipdrift.sweeping.running",
    "trace": "clipdrift.model.trace",
    "train": "clipdrift.training.runner",
}

provide("Comparison.summary", "clipdrift.comparison.verdict:verdict")
provide("Comparison.plot", "clipdrift.figures.compared_blocks:block_drift")
provide("DriftMonitor.report", "clipdrift.reporting.monitoring:write_report")
provide("Forecast.summary", "clipdrift.forecasting.words:words")
provide("Forecast.plot", "clipdrift.figures.forecast:forecast")
provide("Mixed.summary", "clipdrift.mixing.summary:words")
provide("Mixed.plot", "clipdrift.figures.mixed:mixed")
provide("Mixed.write_plot", "clipdrift.figures.mixed:write_mixed")
provide("Repaired.summary", "clipdrift.repair.summary:words")
provide("Repaired.plot", "clipdrift.figures.paths:path")
provide("Repaired.write_plot", "clipdrift.figures.paths:write_path")
provide("Sweep.summary", "clipdrift.sweeping.summary:words")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "formulas":
        return import_module("clipdrift.formulas")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clipdrift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
