"""Pool the runs of several folders where they can be compared, and say where and why they cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from clipdrift.advice.errors import AdviceError
from clipdrift.analysis.runs import prepared
from clipdrift.config import ConfigError, EvaluationConfig, RunConfig, parse_config
from clipdrift.outcomes.columns import columns_of, outcome, zero_shot_of
from clipdrift.outcomes.places import Place, place_names
from clipdrift.outcomes.statuses import DONE
from clipdrift.study.tables import Tables

TOLERANCE = 0.1
"""Points by which the backbone's zero-shot accuracy may differ where nothing says which images it is of."""
_Where = tuple[str, str]
"""Target and backbone."""


class PooledTables(Tables):
    """Runs of several folders as one table."""

    def __init__(self, frame: pd.DataFrame, parts: Sequence[Tables]) -> None:
        super().__init__(frame)
        self._parts = parts

    @cached_property
    def history(self) -> pd.DataFrame:
        return self._joined(part.history for part in self._parts)

    @cached_property
    def paths(self) -> pd.DataFrame:
        return self._joined(part.paths for part in self._parts)

    def _joined(self, tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        some = [table for table in tables if not table.empty]
        if not some:
            return pd.DataFrame()
        whole = pd.concat(some, ignore_index=True)
        whole = whole.drop_duplicates(["run", *({"step", "alpha"} & set(whole))])
        return whole[whole["run"].isin(self._frame["run"])].reset_index(drop=True)


@dataclass(eq=False)
class Source:
    """One of several folders, or a table.

    Attributes:
        name: as it was given.
        runs: its runs, ``cell`` the same wherever the same was trained.
        facts: by target and backbone: what must be alike to be pooled, in words -> its values.
    """

    name: str
    tables: Tables
    runs: pd.DataFrame
    facts: dict[_Where, dict[str, frozenset[Any]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pool:
    """Runs of one target and backbone that can be compared."""

    place: Place
    tables: Tables


@dataclass(frozen=True, eq=False)
class Pooled:
    """Several folders, pooled where they can be.

    Attributes:
        name: of all of them. folders: those with records. notes: what was pooled, what was not and why.
        transfer: names of all transfer sets.
    """

    name: str
    pools: tuple[Pool, ...]
    folders: tuple[Path, ...]
    notes: tuple[str, ...]
    transfer: tuple[str, ...]


def pooled(places: Sequence[str | Path | Tables], transfer: str | None = None) -> Pooled:
    """Open several folders or tables of runs, and pool them target by target and backbone by backbone.

    Runs are pooled where their images of the target, transfer sets with their images, and the backbone's
    files are the same as far as both sides say them; else their places are apart, named after the folder.
    The same run in two folders counts once.

    Args:
        transfer: the set that counts; what differs in others is then of no matter.

    Raises:
        AdviceError: none is given.
        ResultsError: one of them has no run.
    """
    if not places:
        raise AdviceError("advise: give at least one folder of runs")
    sources = [_opened(place, i) for i, place in enumerate(places, start=1)]
    notes = [f"{source.name}: {note}" for source in sources for note in own_notes(source.tables)]
    notes += _once(sources)
    for source in sources:
        source.facts = _facts(source, transfer)
    wheres = list(dict.fromkeys(where for source in sources for where in source.facts))
    names = place_names(pd.DataFrame(wheres, columns=["target", "backbone"]))
    pools = []
    for where, name in zip(wheres, names, strict=True):
        here = [source for source in sources if where in source.facts]
        groups = _groups(here, where)
        for group in groups:
            shown = str(name) if len(groups) == 1 else f"{name} ({', '.join(s.name for s in group)})"
            pools.append(Pool(Place(*where, shown), _joined(group, where)))
        notes += _said(where, str(name), groups, sources, transfer)
    sets = dict.fromkeys(outcome(c).transfer for s in sources for c in columns_of("retention", s.runs))
    folders = tuple(source.tables.folder for source in sources if source.tables.folder is not None)
    title = " and ".join(
        source.tables.manifest.name if source.tables.manifest else "runs" for source in sources
    )
    return Pooled(title, tuple(pools), folders, tuple(notes), tuple(sets))


def own_notes(tables: Tables) -> Iterator[str]:
    """How a folder's runs were read, and how many do not count."""
    yield from (f"a record was left out: {problem}" for problem in tables.problems)
    yield from tables.notes
    out = {kind: count for kind, count in tables.ends.items() if kind != DONE and count}
    if out:
        said = ", ".join(f"{count} {kind}" for kind, count in out.items())
        yield f"{sum(out.values())} of {sum(tables.ends.values())} runs do not count: {said}"


def _opened(place: str | Path | Tables, number: int) -> Source:
    tables = place if isinstance(place, Tables) else Tables.open(place)
    name = str(place) if not isinstance(place, Tables) else str(tables.folder or f"table {number}")
    runs = tables.runs.copy()
    runs["backbone"] = runs["backbone"].astype(object).where(runs["backbone"].notna(), "").map(str)
    if "cell" not in runs:
        named = prepared(tables.runs.assign(status=DONE)).set_index("run")["cell"]
        runs["cell"] = runs["run"].map(named)
    return Source(name, tables, runs.assign(source=name))


def _once(sources: Sequence[Source]) -> Iterator[str]:
    """Give what was trained alike one cell; leave out, in place, runs that stand in an earlier source."""
    cells: dict[str, str] = {}
    for source in sources:
        for record in source.tables.records():
            if (cell := _trained(record["config"])) is not None:
                cells[record["key"]] = cell
    named: dict[str, str] = {}  # cells as records and the tables made from them name them
    for source in sources:
        pairs = zip(source.runs["cell"].map(str), source.runs["run"].map(str), strict=True)
        named |= {old: cells[run] for old, run in pairs if run in cells}
    for source in sources:
        new = source.runs["cell"].map(named)
        source.runs["cell"] = new.where(new.notna(), source.runs["cell"])
    for i, source in enumerate(sources):
        for earlier in sources[:i]:
            same = list(_same(earlier.runs, source.runs))
            if same:
                differing = sum(not alike for _, alike in same)
                said = f"{len(same)} of {len(source.runs)} runs stand in {earlier.name} too and count once"
                if differing:
                    said += f"; the numbers of {differing} differ, those of {earlier.name} count"
                yield f"{source.name}: {said}"
                source.runs = source.runs[~source.runs["run"].isin({run for run, _ in same})]
        used = {run for earlier in sources[:i] for run in earlier.runs["run"]}
        twice = source.runs["run"].isin(used)  # another run of the same name, which a table gave it
        source.runs["run"] = source.runs["run"].where(
            ~twice, source.name + ": " + source.runs["run"].map(str)
        )


def _trained(config: Mapping[str, Any]) -> str | None:
    """The key of what was trained and chosen, whatever it was tested on and with whichever seed; None where
    the configuration cannot be read here."""
    try:
        whole = parse_config(dict(config), RunConfig)
    except ConfigError:  # of a method that is not installed, or of another version
        return None
    chosen = {name: getattr(whole.evaluation, name) for name in ("least_retention", "prompt_ensemble")}
    data = whole.data.model_copy(update={"transfer": ()})
    same = {"seed": 0, "data": data, "evaluation": EvaluationConfig(**chosen)}
    return whole.model_copy(update=same).key


def _same(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    """The runs of ``other`` that stand in ``one``, and whether their numbers are alike.

    They are what the same was trained with the same seed, and have the same name or the same numbers.
    """
    known: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for row in one.to_dict("records"):
        known.setdefault((str(row["cell"]), str(row["seed"])), []).append(row)
    results = [
        c for c in other if c in one and outcome(str(c)).kind in ("accuracy", "retention", "zero-shot")
    ]
    for row in other.to_dict("records"):
        for before in known.get((str(row["cell"]), str(row["seed"])), ()):
            pairs = [(before[c], row[c]) for c in results if pd.notna(before[c]) and pd.notna(row[c])]
            alike = all(a == b for a, b in pairs)
            if str(before["run"]) == str(row["run"]) or (alike and len(pairs) > 1):
                yield row["run"], alike
                break


def _facts(source: Source, transfer: str | None) -> dict[_Where, dict[str, frozenset[Any]]]:
    """What must be alike, from records where there are some, else from columns."""
    found: dict[_Where, dict[str, set[Any]]] = {}
    for (target, backbone), part in source.runs.groupby(["target", "backbone"], sort=False):
        sets = [outcome(c).transfer for c in columns_of("retention", part) if part[c].notna().any()]
        sets = [name for name in sets if transfer in (None, name)]
        facts = found.setdefault((str(target), str(backbone)), {})
        facts["transfer sets"] = {", ".join(sorted(map(str, sets))) or "none"}
        for name in sets:
            column = f"backbone_{zero_shot_of(str(name))}"
            if column in part and part[column].notna().any():
                facts[f"zero-shot accuracy of the backbone on {name}"] = {float(part[column].mean())}
    here = set(source.runs["run"])
    for record in source.tables.records():
        config = record["config"]
        where = str(config["data"]["target"]["name"]), str(config["model"]["name"])
        if record["key"] in here and where in found:
            for name, value in _of_record(record, where[0], transfer):
                found[where].setdefault(name, set()).add(value)
    return {where: {name: frozenset(v) for name, v in facts.items()} for where, facts in found.items()}


def _of_record(record: Mapping[str, Any], target: str, transfer: str | None) -> Iterator[tuple[str, Any]]:
    sets = {name: facts for name, facts in record.get("transfer", {}).items() if transfer in (None, name)}
    for name, facts in {target: record["target"], **sets}.items():
        kept = facts.get("images", {}).get("test")
        if kept is not None and kept.get("fingerprint"):
            yield f"test images of {name}", kept["fingerprint"]
    if (files := record["config"]["model"].get("fingerprint")) is not None:
        yield "files of the backbone", files


def _groups(sources: Sequence[Source], where: _Where) -> list[list[Source]]:
    """Sources that can be pooled: nothing that two of a group both say differs."""
    groups: list[list[Source]] = []
    for source in sources:
        for group in groups:
            if not any(_difference(one, source, where) for one in group):
                group.append(source)
                break
        else:
            groups.append([source])
    return groups


def _difference(one: Source, other: Source, where: _Where) -> str | None:
    """The first thing that both say and that differs, in words."""
    a, b = one.facts[where], other.facts[where]
    for name in (name for name in a if name in b):
        if name.startswith("zero-shot"):
            known = name.replace("zero-shot accuracy of the backbone on", "test images of")
            (before,), (after,) = a[name], b[name]
            if abs(before - after) > TOLERANCE and not (known in a and known in b):
                return f"{name}: {before:.1f} % in {one.name}, {after:.1f} % in {other.name}"
        elif a[name] != b[name]:
            if name == "transfer sets":
                return f"{name}: {min(a[name])} in {one.name}, {min(b[name])} in {other.name}"
            return f"other {name} in {one.name} than in {other.name}"
    return None


def _joined(group: Sequence[Source], where: _Where) -> Tables:
    parts = [_here(source, where) for source in group]
    whole = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True)
    named = whole.groupby("cell")["source"].agg(lambda names: " and ".join(dict.fromkeys(names)))
    return PooledTables(whole.assign(source=whole["cell"].map(named)), [source.tables for source in group])


def _said(
    where: _Where, name: str, groups: list[list[Source]], sources: Sequence[Source], transfer: str | None
) -> Iterator[str]:
    """What was pooled, what was not, and why."""
    for group in groups:
        if len(group) > 1:
            counts = ", ".join(f"{len(_here(source, where))} runs of {source.name}" for source in group)
            yield f"{name}: pooled from {counts}"
    for group in groups[1:]:
        why = next(filter(None, (_difference(one, group[0], where) for one in groups[0])))
        hint = ""
        if why.startswith("transfer sets") and transfer is None:
            both = set.intersection(*({*min(g[0].facts[where]["transfer sets"]).split(", ")} for g in groups))
            if shared := sorted(both - {"none"}):
                hint = f"; --transfer {shared[0]} compares them by what both have"
        yield f"{name}: not pooled, {why}{hint}"
    lacking = [source.name for source in sources if where not in source.facts]
    if lacking:
        target, backbone = where
        of = f"{target} with {backbone}" if backbone else f"{target} (no backbone named)"
        yield f"{of}: no run of it in {', '.join(lacking)}"


def _here(source: Source, where: _Where) -> pd.DataFrame:
    runs = source.runs
    return runs[(runs["target"].map(str) == where[0]) & (runs["backbone"] == where[1])]
