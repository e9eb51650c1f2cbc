"""Plan of a study: its runs and the questions asked of them. From TOML to an ordered list; no torch."""

from __future__ import annotations

import copy
import itertools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from clipdrift.config import ConfigError, RunConfig, legal_keys, parse_config, put, read_toml, read_value
from clipdrift.config.base import Frozen
from clipdrift.rules.run_rules import resolve_rules

Question = Literal[
    "rate",
    "methods",
    "penalties",
    "options",
    "depth",
    "predictors",
    "choosing",
    "onset",
    "measures",
    "convergence",
    "interpolation",
]
QUESTIONS: dict[str, str] = {
    "rate": "does drift grow with the learning rate?",
    "methods": "do methods differ at matched rate, matched weight drift, matched accuracy?",
    "penalties": "does a penalty change drift, accuracy or retention against none?",
    "options": "what does an option of a method change?",
    "depth": "where in the tower is the drift?",
    "predictors": "which measure goes with retention, and how early?",
    "choosing": "which label-free signal picks a good run?",
    "onset": "when does entropy begin to fall?",
    "measures": "which measures move together?",
    "convergence": "has accuracy settled at the end?",
    "interpolation": "what lies between backbone and adapted model?",
}


class StudyCell(Frozen):
    """Part of a study: axes of its own over changes to the base."""

    label: str | None = Field(None, description="For people; no part of a run's key.")
    change: dict[str, Any] = Field({}, description="Configuration keys, dotted or nested, over the base.")
    axes: dict[str, tuple[Any, ...]] = Field({}, description="Configuration key -> its values.")
    seeds: tuple[int, ...] | None = Field(None, description="Instead of the study's.")


class StudyFile(Frozen):
    """A study's file.

    An axis is named by a configuration key, as in ``"optim.learning_rate" = [1e-5, 1e-4]``. An axis of any
    other name has tables of keys as values, which then change together:
    ``target = [{"data.target" = "eurosat", "data.train_per_class" = 160}, ...]``.
    """

    name: str = Field(min_length=1)
    title: str = ""
    questions: tuple[Question, ...] = ()
    seeds: tuple[int, ...] = Field((42,), min_length=1)
    base: dict[str, Any] = Field({}, description="Configuration keys of every run, dotted or nested.")
    axes: dict[str, tuple[Any, ...]] = Field({}, description="Configuration key -> its values.")
    cells: tuple[StudyCell, ...] = ()


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    config: RunConfig
    label: str
    cell: str
    """Where in the file it comes from: ``axes`` or ``cells.N``."""


@dataclass(frozen=True)
class Study:
    """An ordered list of runs, seeds outermost: the first runs of a plan cover every cell once.

    Attributes:
        dropped: runs that fell together with another one because of ``--set``.
    """

    name: str
    title: str
    questions: tuple[str, ...]
    runs: tuple[Planned, ...]
    dropped: int = 0

    def limited(self, count: int | None) -> Study:
        """The first ``count`` runs."""
        if count is not None and count < 1:
            raise ConfigError(f"--limit {count}: at least one run")
        return self if count is None else replace(self, runs=self.runs[:count])


def built_in() -> dict[str, str]:
    """Names of the studies that come with the package, and their files' text."""
    folder = resources.files("clipdrift.study") / "studies"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {
        f.name.removesuffix(".toml"): f.read_text(encoding="utf-8")
        for f in sorted(files, key=lambda f: f.name)
    }


def load_study(name: str | Path, overrides: Iterable[str] = ()) -> Study:
    """A study by its name or from a TOML file, changed by ``key=value`` texts.

    ``seeds=[1, 2]`` and ``axes.KEY=[...]`` change the plan. Any other key changes every run; where it is an
    axis, the axis has this one value, and runs that fall together are done once.

    Raises:
        ConfigError: no such study or file, unknown keys, contradictions, duplicates.
    """
    known = built_in()
    if str(name) in known:
        data = tomllib.loads(known[str(name)])
    elif Path(name).suffix == ".toml" or Path(name).is_file():
        data = read_toml(name)
    else:
        raise ConfigError(f"study {name}: neither a file nor one of {', '.join(known)}")
    return study_of(data, overrides)


def study_of(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Study:
    """:func:`load_study` for the file's content."""
    data, changes = _override_plan(copy.deepcopy(dict(data)), overrides)
    plan = parse_config(data, StudyFile)
    parse_config(_merged({}, plan.base, "base"), RunConfig)
    changed = [key for key, _ in changes]
    cells = [("axes", StudyCell(axes=plan.axes))] if plan.axes or not plan.cells else []
    cells += [(f"cells.{i}", cell) for i, cell in enumerate(plan.cells, start=1)]
    # each cell's runs by seed; then seed by seed, so that a plan cut short has every cell
    columns = [list(_cell_runs(plan, where, cell, changes)) for where, cell in cells]
    depth = max((len(column) for column in columns), default=0)
    ordered = [run for row in range(depth) for column in columns if row < len(column) for run in column[row]]
    runs: dict[tuple[str | None, ...], Planned] = {}
    dropped = 0
    for run in ordered:
        twin = runs.get(_identity(run.config))
        if twin is None:
            runs[_identity(run.config)] = run
        elif changed:
            dropped += 1
        else:
            raise ConfigError(
                f"{plan.name}: the run {run.label} of {run.cell} is planned twice (as {twin.label} of "
                f"{twin.cell}, key {run.config.key}); take one of them out"
            )
    return Study(plan.name, plan.title, plan.questions, tuple(runs.values()), dropped)


def _identity(config: RunConfig) -> tuple[str | None, ...]:
    """Identity of a planned run: its key, and the folders whose content is not known yet."""
    paths = [spec.path for spec in (config.data.target, *config.data.transfer)]
    return (config.key, config.model.path, *paths)


def _override_plan(
    data: dict[str, Any], overrides: Iterable[str]
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Apply what changes the plan itself; return what changes each of its runs."""
    changes = []
    for text in overrides:
        key, value = read_value(text)
        if key == "seeds":
            data["seeds"] = value if isinstance(value, list) else [value]
            for cell in data.get("cells", ()):
                cell.pop("seeds", None)
        elif key.startswith("axes."):
            axis = key.removeprefix("axes.")
            found = [t for t in (data, *data.get("cells", ())) if axis in t.get("axes", {})]
            if not found:
                raise ConfigError(f"--set {text}: the study has no axis {axis}; {_axes_of(data)}")
            for table in found:
                table["axes"][axis] = value if isinstance(value, list) else [value]
        else:
            changes.append((key, value))
    return data, changes


def _axes_of(data: Mapping[str, Any]) -> str:
    names = sorted({axis for t in (data, *data.get("cells", ())) for axis in t.get("axes", {})})
    return f"it has {', '.join(names)}" if names else "it has none"


def _cell_runs(
    plan: StudyFile, where: str, cell: StudyCell, changes: list[tuple[str, Any]]
) -> Iterator[list[Planned]]:
    """A cell's runs, those of one seed together."""
    overlap = sorted(set(cell.axes) & set(_flat(cell.change)))
    if overlap:
        raise ConfigError(f"{where}: {overlap[0]} is both an axis and changed; take one of them out")
    base = _merged(_merged({}, plan.base, "base"), cell.change, f"{where}.change")
    seeds = cell.seeds if cell.seeds is not None else plan.seeds
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: a seed stands twice in {list(seeds)}")
    for name, values in cell.axes.items():
        _check_axis(where, name, values)
    for seed in seeds:
        together = []
        for values in itertools.product(*cell.axes.values()):
            chosen = dict(zip(cell.axes, values, strict=True))
            data = copy.deepcopy(base)
            for name, value in chosen.items():
                bundle = {name: value} if name in legal_keys() else value
                data = _merged(data, bundle, f"{where}.axes.{name}")
            data["seed"] = seed
            for key, value in changes:
                data = put(data, key, value, f"--set {key}")
            try:
                config = resolve_rules(parse_config(data, RunConfig))
            except ConfigError as error:
                raise ConfigError(f"{where} with {_shown(chosen, cell) or 'no axes'}: {error}") from None
            label = ", ".join(part for part in (cell.label, _shown(chosen, cell)) if part) or plan.name
            together.append(Planned(config, label, where))
        yield together


def _check_axis(where: str, name: str, values: tuple[Any, ...]) -> None:
    key = f"{where}.axes.{name}" if where != "axes" else f"axes.{name}"
    if not values:
        raise ConfigError(f"{key}: no values")
    seen = [json.dumps(value, sort_keys=True, default=str) for value in values]
    twice = next((v for i, v in enumerate(seen) if v in seen[:i]), None)
    if twice is not None:
        raise ConfigError(f"{key}: {twice} stands twice")
    if name == "seed":
        raise ConfigError(f"{key}: seeds are given by the key seeds")
    if name not in legal_keys() and not all(isinstance(value, Mapping) for value in values):
        raise ConfigError(
            f"{key}: no such configuration key; an axis of another name has tables of keys as values, as in "
            f'{name} = [{{"optim.epochs" = 2}}, ...]'
        )


def _shown(chosen: Mapping[str, Any], cell: StudyCell) -> str:
    """The values of a run's axes for people."""
    return ", ".join(_short(value, _telling(cell.axes[name])) for name, value in chosen.items())


def _short(value: Any, telling: int = 1) -> str:
    """One value; of keys that change together so many, from the first."""
    if not isinstance(value, Mapping):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if "name" not in value:
        return " ".join(_short(part) for part in list(value.values())[:telling])
    options = [f"{k}={_short(v)}" for k, v in value.items() if k != "name"]
    return " ".join([str(value["name"]), *options])


def _telling(values: tuple[Any, ...]) -> int:
    """How many of the keys that change together, from the first, tell an axis's values apart."""
    most = max((len(value) for value in values if isinstance(value, Mapping)), default=1)
    told = (n for n in range(1, most) if len({_short(value, n) for value in values}) == len(values))
    return next(told, most)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def _merged(data: Mapping[str, Any], change: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``data`` with the keys of ``change``, dotted or nested, put in.

    A table that has a name is a choice of its own (a method, a data set) and replaces what stood there.
    """
    out = copy.deepcopy(dict(data))
    for key, value in change.items():
        if isinstance(value, Mapping) and "name" not in value and key in legal_keys():
            for inner, deep in value.items():
                out = _merged(out, {f"{key}.{inner}": deep}, where)
        else:
            out = put(out, key, value, where)
    return out
