"""Advise on a study, from its records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from clipdrift.advice.asked import Asked, asked
from clipdrift.advice.errors import AdviceError
from clipdrift.advice.judging import Judged, judged
from clipdrift.advice.picks import picks_of
from clipdrift.advice.pooling import Pooled, own_notes, pooled
from clipdrift.advice.proposing import LEAST, Tried, proposals
from clipdrift.advice.result import Advice, Missing, PlaceAdvice
from clipdrift.advice.settings import Setting, cell_settings, families, kept_of, settings_along
from clipdrift.analysis.runs import accuracy, prepared
from clipdrift.outcomes.chance import measurable
from clipdrift.outcomes.columns import chance_p_of, columns_of, outcome, retention_of
from clipdrift.outcomes.places import Place, places_of
from clipdrift.outcomes.statuses import DONE
from clipdrift.study.tables import Tables


def advise(
    place: str | Path | Tables | Sequence[str | Path | Tables] | Pooled,
    *,
    keep: float | None = None,
    max_drop: float | None = None,
    transfer: str | None = None,
) -> Advice:
    """Which setting of a study to take, how sure that is, and what to run next.

    Args:
        place: the folder of a study, of any runs or of monitors, a CSV of runs made elsewhere, or tables.
            Of several in a list the runs are pooled where they can be compared (see
            :func:`clipdrift.advice.pooling.pooled`); notes say where, and why not elsewhere.
        keep: least retention in percent: the most accurate setting is wanted. 90 where nothing is asked.
        max_drop: most points of accuracy below the most accurate setting; without ``keep`` the setting that
            keeps most is wanted.
        transfer: the transfer set that counts; None: the worst of all, run by run.

    Raises:
        AdviceError: a constraint without sense, an unknown transfer set.
        ResultsError, AnalyseError: no finished run, no table of runs.
    """
    wanted = asked(keep, max_drop, transfer)
    if not isinstance(place, str | Path | Tables):
        return _of_several(place if isinstance(place, Pooled) else pooled(place, transfer), wanted)
    tables = place if isinstance(place, Tables) else Tables.open(place)
    sets = [outcome(column).transfer for column in columns_of("retention", tables.runs)]
    _refuse_unknown(transfer, sets)
    every = _every(tables)
    runs = tables.prepared.assign(family=families(tables.prepared))
    columns = [transfer] if transfer is not None else sets
    found = [
        _advised(tables, where, runs[runs["place"] == name], every[every["place"] == name], columns, wanted)
        for name, where in places_of(every).items()
    ]
    name = tables.manifest.name if tables.manifest else "runs"
    return Advice(name, wanted, tuple(found), tuple(own_notes(tables)))


def _of_several(several: Pooled, wanted: Asked) -> Advice:
    """Advice for each place of several folders."""
    _refuse_unknown(wanted.transfer, several.transfer)
    found = []
    for pool in several.pools:
        tables = pool.tables
        sets = [outcome(column).transfer for column in columns_of("retention", tables.runs)]
        columns = [wanted.transfer] if wanted.transfer is not None else sets
        runs = tables.prepared.assign(family=families(tables.prepared))
        found.append(_advised(tables, pool.place, runs, _every(tables), columns, wanted))
    return Advice(several.name, wanted, tuple(found), several.notes)


def _refuse_unknown(transfer: str | None, sets: Sequence[str]) -> None:
    if transfer is not None and transfer not in sets:
        raise AdviceError(
            f"--transfer {transfer}: no run was tested on it; there are {', '.join(sets) or 'none'}"
        )


def _every(tables: Tables) -> pd.DataFrame:
    """All runs, finished or not, with the keys of those that are."""
    every = prepared(tables.runs.assign(status=DONE))
    ended = tables.runs.set_index("run")["status"]
    return every.assign(family=families(every), status=every["run"].map(ended))


def _advised(
    tables: Tables, place: Place, runs: pd.DataFrame, every: pd.DataFrame, sets: list[str], wanted: Asked
) -> PlaceAdvice:
    gained = accuracy(runs)
    usable = [name for name in sets if _known(runs, name)]
    lacks = list(_lacks(runs, every, sets, usable, gained))
    if not usable or gained not in runs:
        return PlaceAdvice(place, tuple(usable), gained, missing=tuple(lacks))
    columns = [retention_of(name) for name in usable]
    whole = runs.assign(gained=runs[gained].astype(float), kept=kept_of(_masked(runs, usable), columns))
    cells = judged(cell_settings(whole), wanted)
    if cells is None:
        lacks.append(
            Missing("runs", 1, f"no run has both its accuracy and what it keeps of {', '.join(usable)}")
        )
        return PlaceAdvice(place, tuple(usable), gained, missing=tuple(lacks))
    return PlaceAdvice(
        place,
        tuple(usable),
        gained,
        cells,
        judged(settings_along(whole, _epochs(tables, whole, columns), "epoch"), wanted),
        judged(settings_along(whole, _mixes(tables, whole, columns), "alpha"), wanted),
        _by_validation(whole, cells, wanted, gained),
        picks_of(whole, cells, wanted, gained),
        (*lacks, *_few(cells)),
        tuple(proposals(cells, wanted, _tried(every))),
    )


def _known(runs: pd.DataFrame, transfer: str) -> bool:
    """Whether some run has a retention on the set that says something."""
    column = retention_of(transfer)
    return column in runs and bool(_masked(runs, [transfer])[column].notna().any())


def _masked(runs: pd.DataFrame, sets: list[str]) -> pd.DataFrame:
    """The runs without retentions where their backbone is not above chance."""
    out = runs.copy()
    for name in sets:
        if (p := chance_p_of(name)) in out:
            out[retention_of(name)] = out[retention_of(name)].where(out[p].map(measurable))
    return out


def _lacks(
    runs: pd.DataFrame, every: pd.DataFrame, sets: list[str], usable: list[str], gained: str
) -> Iterator[Missing]:
    """What keeps advice from being given at all, or for a transfer set."""
    if runs.empty:
        ended = ", ".join(f"{n} {status}" for status, n in every["status"].value_counts().items())
        yield Missing("runs", 1, f"no run is finished ({ended})")
        return
    if gained not in runs or runs[gained].isna().all():
        yield Missing("runs", len(runs), "no run has an accuracy on its target")
    if not sets:
        said = "no run was tested on a transfer set (data.transfer), so nothing says what was kept"
        yield Missing("transfer", 1, said)
    for name in sets:
        if name in usable:
            continue
        if (p := chance_p_of(name)) in runs and not runs[p].map(measurable).any():
            said = (
                f"what is kept of {name} is not measurable: the backbone is not above chance on it "
                f"(exact binomial test, p = {runs[p].iloc[0]:.2f})"
            )
            yield Missing("measurable", 1, said)
        else:
            yield Missing("transfer", 1, f"no run here was tested on {name}")


def _few(cells: Judged) -> Iterator[Missing]:
    """What there is too little of for an answer to be more than a description."""
    rates = {s.rate for s in cells.settings}
    if len(rates) == 1:
        yield Missing(
            "rates", 1, "one learning rate only; 1 more at least is needed to see where keeping ends"
        )
    if len(cells.settings) == 1:
        yield Missing("settings", 1, "one setting only: nothing to choose from; 1 more at least is needed")
    best = cells.best or cells.nearest
    if best is not None and best.n < LEAST:
        said = "one seed" if best.n == 1 else f"{best.n} seeds"
        more = LEAST - best.n
        yield Missing(
            "seeds", more, f"{said} of {best.name}; {more} more at least would give a usable interval"
        )


def _by_validation(runs: pd.DataFrame, cells: Judged, wanted: Asked, gained: str) -> Setting | None:
    if gained != "accuracy" or "validation_accuracy" not in runs:
        return None
    again = judged(cell_settings(runs.assign(gained=runs["validation_accuracy"].astype(float))), wanted)
    if again is None or again.best is None:
        return None
    return next((s for s in cells.settings if s.cell == again.best.cell), None)


def _epochs(tables: Tables, runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """``run, epoch, gained, kept`` of runs that were tested on transfer sets after each epoch."""
    history = tables.history
    if history.empty or not set(columns) <= set(history) or "validation_accuracy" not in history:
        return pd.DataFrame()
    ends = history[history["ends_epoch"] & history["run"].isin(runs["run"])]
    points = ends.assign(gained=ends["validation_accuracy"].astype(float), kept=kept_of(ends, columns))
    return points.dropna(subset=["gained", "kept"])


def _mixes(tables: Tables, runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """``run, alpha, gained, kept`` of runs with a path back to the backbone."""
    paths = tables.paths
    if paths.empty or not {"accuracy", *columns} <= set(paths):
        return pd.DataFrame()
    here = paths[paths["run"].isin(runs["run"])]
    points = here.assign(gained=here["accuracy"].astype(float), kept=kept_of(here, columns))
    return points.dropna(subset=["gained", "kept"])


def _tried(every: pd.DataFrame) -> Tried:
    rates = {
        str(family): tuple(sorted(set(map(float, part["learning_rate"]))))
        for family, part in every.groupby("family", sort=False)
    }
    seeds = tuple(dict.fromkeys(map(str, every["seed"])))
    return Tried(rates, tuple(sorted(set(map(float, every["learning_rate"])))), seeds)
