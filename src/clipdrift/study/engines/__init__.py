"""Engines that do a study's runs: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from clipdrift.config import ConfigError
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import Engine

ENGINES = ("here", "ray")


def pick_engine(
    name: str,
    address: str | None = None,
    gpus_per_run: float | None = None,
    cpus_per_run: float | None = None,
) -> Engine:
    """An engine by name; the other arguments are those of Ray.

    Raises:
        ConfigError: no such engine, options without meaning for it, or Ray is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: unknown; legal: {', '.join(ENGINES)}")
    given = {"--address": address, "--gpus-per-run": gpus_per_run, "--cpus-per-run": cpus_per_run}
    if name == "here":
        said = [option for option, value in given.items() if value is not None]
        if said:
            raise ConfigError(f"{said[0]}: has a meaning with --engine ray alone")
        return run_here
    from clipdrift.study.engines.on_ray import RayEngine

    return RayEngine(address, gpus_per_run or 0.0, 1.0 if cpus_per_run is None else cpus_per_run)
