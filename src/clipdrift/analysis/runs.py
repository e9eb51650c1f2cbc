"""Prepare the table of runs: name arms and cells, find signals and outcomes. Anyone's table will do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipdrift.errors import ClipdriftError
from clipdrift.outcomes.columns import MAGNITUDE_OF, TEXT_SIGNALS, columns_of
from clipdrift.outcomes.keys import Group
from clipdrift.outcomes.places import Place, place_names
from clipdrift.outcomes.statuses import DONE, status_of
from clipdrift.runs.record import OPTIONS
from clipdrift.texts import option

NEEDED = ("target", "method", "learning_rate")
ARM = ("target", "backbone", "method", *OPTIONS)
"""Columns that tell arms apart: runs of one arm differ in learning rate and seed only."""

PRIMARY = (
    "entropy_drift", "erf95_drift", "gini_drift", "head_diversity_drift", "representation_drift",
    "embedding_drift", "weight_drift",
)  # fmt: skip
"""Signals whose tests make a family of their own: declared beforehand, so that the many others, which are
looked at as well, cost them no power."""


class AnalyseError(ClipdriftError):
    """A table that no question can be asked of."""


def prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished runs in a fixed order, with what their table leaves out filled in.

    Runs that are not finished (:func:`clipdrift.outcomes.statuses.status_of`) are left out and counted, by
    status, in ``attrs["left_out"]``; a table without ``status`` is one of finished runs. Infinite values
    count as missing. Adds ``arm`` and ``cell`` where missing, ``place`` (the target, and the backbone where
    there are several), ``changed`` (the options that tell a run apart), ``variant`` (the method and these, in
    words), ``log_rate`` (log10), and at every moment ``representation_drift`` (1 - cka), that of texts and
    magnitudes.

    Raises:
        AnalyseError: a needed column is missing, a learning rate is no number, or a run stands twice.
    """
    if missing := [name for name in NEEDED if name not in frame]:
        raise AnalyseError(f"the table of runs has no column {missing[0]}; it needs {', '.join(NEEDED)}")
    runs = frame.reset_index(drop=True).copy()  # whole, or pandas warns of many columns put in one by one
    if "run" not in runs:
        runs["run"] = [f"run {i}" for i in range(1, len(runs) + 1)]
    if runs["run"].duplicated().any():
        raise AnalyseError(f"run {runs['run'][runs['run'].duplicated()].iloc[0]} stands twice in the table")
    try:
        runs["learning_rate"] = pd.to_numeric(runs["learning_rate"]).astype(float)
    except (TypeError, ValueError) as error:
        raise AnalyseError(f"column learning_rate: {error}") from None
    statuses = runs["status"] if "status" in runs else pd.Series(DONE, runs.index)
    runs["status"] = statuses.astype(object).map(status_of)
    for name, value in (("backbone", ""), ("seed", 0)):
        given = runs[name].astype(object) if name in runs else pd.Series(value, runs.index, dtype=object)
        runs[name] = given.where(given.notna(), value)
    runs["place"] = place_names(runs)
    out = runs["status"] != DONE
    left_out = {str(k): int(v) for k, v in runs.loc[out, "status"].value_counts().sort_index().items()}
    runs = runs[~out].sort_values(
        ["target", "backbone", "method", "learning_rate", "seed", "run"], key=_sortable
    )
    runs = runs.reset_index(drop=True)
    numbers = runs.select_dtypes("number").columns
    runs[numbers] = runs[numbers].replace([np.inf, -np.inf], np.nan)
    new = {"arm": _joined(runs, [name for name in ARM if name in runs])}
    if "cell" not in runs:
        new["cell"] = _joined(runs, [name for name in (*ARM, "learning_rate") if name in runs])
    new["changed"] = changes(runs)
    new["variant"] = pd.Series(map(_variant, runs["method"], new["changed"]), runs.index, dtype=object)
    new["log_rate"] = np.log10(runs["learning_rate"].where(runs["learning_rate"] > 0))
    for moment in ("", "epoch1_", "last_"):
        if f"{moment}cka" in runs:
            new[f"{moment}representation_drift"] = 1 - pd.to_numeric(runs[f"{moment}cka"])
        if f"{moment}text_cka" in runs:
            new[f"{moment}text_representation_drift"] = 1 - pd.to_numeric(runs[f"{moment}text_cka"])
        for name, signed in MAGNITUDE_OF.items():
            if f"{moment}{signed}" in runs:
                new[f"{moment}{name}"] = pd.to_numeric(runs[f"{moment}{signed}"]).abs()
    texts = [name for name in runs if isinstance(runs[name].dtype, pd.StringDtype)]
    runs[texts] = runs[texts].astype(object)  # Arrow's texts are slow to take apart, a thousand times
    runs = pd.concat([runs.drop(columns=[c for c in new if c in runs]), pd.DataFrame(new)], axis=1).copy()
    runs.attrs = {"left_out": left_out}
    return runs


def _sortable(column: pd.Series) -> pd.Series:
    return column if column.dtype.kind in "if" else column.map(str)


def _joined(runs: pd.DataFrame, names: list[str], by: str = " | ") -> pd.Series:
    """The columns' values in words, joined."""
    rows = zip(*(runs[name].map(str) for name in names), strict=True)
    return pd.Series([by.join(row) for row in rows], runs.index, dtype=object)


def changes(runs: pd.DataFrame) -> pd.Series:
    """Options that tell each run apart, with their values in words: ``(("rank", "4"),)``.

    An option is named where a run's value is not the usual one of its method on that target, which is the one
    that most runs have; where none is, each is named. A penalty is always named, and so is a head that is not
    linear: who reads of such runs must not train others.
    """
    options = [name for name in OPTIONS if name in runs]
    place = _joined(runs, ["target", "backbone", "method"])
    named = []
    for name in options:
        words = runs[name].map(option)
        if name == "head":
            words = words.where(words != "linear", "")
        elif name not in ("penalty", "penalty_weight"):
            words = words.where(words != "", "none")
            usual = place.map(words.groupby(place).agg(_most_frequent))
            words = words.where(words != usual, "")
        named.append([(name, word) if word else None for word in words])
    rows = zip(*named, strict=True) if named else [()] * len(runs)
    return pd.Series([tuple(filter(None, row)) for row in rows], runs.index, dtype=object)


def _variant(method: object, changed: tuple[tuple[str, str], ...]) -> str:
    """Method and options in words, as in ``lora rank=4``."""
    return " ".join([str(method), *(f"{name}={word}" for name, word in changed)])


def _most_frequent(words: pd.Series) -> str | None:
    """The most frequent word; None where two are."""
    counts = words.value_counts()
    return None if len(counts) > 1 and counts.iloc[0] == counts.iloc[1] else str(counts.index[0])


def plain(runs: pd.DataFrame) -> pd.Series:
    """Whether a run has no penalty and the options most common among such runs of its method in its place.

    Args:
        runs: One row a run, with place and method; penalty and the options where known.

    Returns:
        Booleans on the index of `runs`; finished runs alone decide what is common, where there are any. Of
        options equally common the first in order counts.
    """
    place = ["place", "method"]
    arms = _joined(runs, [*place, *(name for name in OPTIONS if name in runs)])
    free = runs["penalty"].isna() if "penalty" in runs else pd.Series(True, index=runs.index)
    known = runs["status"] == DONE if "status" in runs else pd.Series(True, index=runs.index)
    weights = pd.Series(np.where(known, 1.0, 1e-9), runs.index)  # others count where none is finished
    counts = weights[free].groupby([*(runs[name] for name in place), arms], sort=False).sum()
    usual = counts.groupby(level=place, sort=False).idxmax()
    return free & arms.isin([arm for *_, arm in usual])


def signals(runs: pd.DataFrame) -> list[str]:
    """Columns of signals without a moment: representation drift, agreement and every measure's drift."""
    return columns_of("drift", runs.select_dtypes("number").columns)


def text_signals(runs: pd.DataFrame) -> list[str]:
    """The declared signals of the text tower that some run has, at the chosen epoch."""
    return [name for name in TEXT_SIGNALS if name in runs and runs[name].notna().any()]


def retentions(runs: pd.DataFrame) -> list[str]:
    """Columns of retention without a moment, percent; without those that no run has."""
    found = columns_of("retention", runs.select_dtypes("number").columns)
    return [name for name in found if runs[name].notna().any()]


def outcomes(runs: pd.DataFrame) -> list[str]:
    """Columns in which methods and penalties are compared: drift, accuracy, retention, where the table has
    them."""
    wanted = ["entropy_drift", "representation_drift", "weight_drift", accuracy(runs), *retentions(runs)]
    numbers = set(runs.select_dtypes("number").columns)
    return [name for name in wanted if name in numbers]


def accuracy(runs: pd.DataFrame) -> str:
    """The column of test accuracy, or that of validation accuracy where there is none."""
    known = "accuracy" in runs and runs["accuracy"].notna().any()
    return "accuracy" if known or "validation_accuracy" not in runs else "validation_accuracy"


def arm_group(arm: pd.DataFrame) -> Group:
    """The group of all runs of an arm."""
    target, backbone, place, method, variant = (
        str(arm[name].iloc[0]) for name in ("target", "backbone", "place", "method", "variant")
    )
    return Group("arm", Place(target, backbone, place), method, variant)


def cell_means(runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per cell: ``place``, ``method``, the means of ``columns``; runs without one are left out."""
    values = runs[columns].to_numpy(dtype=float)
    whole = np.isfinite(values).all(axis=1)
    codes, cells = pd.factorize(runs["cell"].to_numpy()[whole])
    first = np.flatnonzero(whole)[np.unique(codes, return_index=True)[1]]
    counts = np.bincount(codes, minlength=len(cells))
    out = {name: runs[name].to_numpy()[first] for name in ("place", "method")}
    for i, name in enumerate(columns):
        out[name] = np.bincount(codes, values[whole, i], minlength=len(cells)) / counts
    return pd.DataFrame(out, index=pd.Index(cells, name="cell"))
