"""A mixed model of drift on log rate by method, as a cross-check of the simple tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.rows import Row
from clipdrift.outcomes.keys import Estimand, Group

MIN_GROUPS = 3


def mixed(runs: pd.DataFrame, signal: str) -> Iterator[Row]:
    """``signal ~ log10 rate x method + target`` with a random intercept for each seed of each target.

    Targets are fixed effects: there are too few of them to estimate a variance. Fitted by REML; intervals and
    p-values are Wald's. Rows are of the question ``rate``, their family is that of this model.
    """
    plain = runs[runs["penalty"].isna()] if "penalty" in runs else runs
    known = plain.dropna(subset=["log_rate", signal])
    groups = known["place"].astype(str) + " " + known["seed"].astype(str)
    unit = "run"
    size = f"{len(known)} in {groups.nunique()} groups"
    about = Estimand("mixed model", signal)
    family = f"rate, mixed model of {signal}"
    row = Row("rate", Group(), about, unit, size, "mixed model, Wald z", family=family)

    def without(why: str) -> Row:
        return replace(row, note=why)

    if groups.nunique() < MIN_GROUPS:
        yield without(f"{groups.nunique()} seeds of targets; {MIN_GROUPS} are needed")
        return
    design = pd.DataFrame({"intercept": 1.0, "log_rate": known["log_rate"] - known["log_rate"].mean()})
    terms = {"log_rate": Estimand("mixed model", signal, "log_rate")}
    for method in sorted(known["method"].astype(str).unique())[1:]:
        chosen = (known["method"] == method).astype(float)
        design[method], design[f"log_rate x {method}"] = chosen, chosen * design["log_rate"]
        terms |= {method: Estimand("mixed model", signal, term=method)}
        terms |= {f"log_rate x {method}": Estimand("mixed model", signal, "log_rate", term=method)}
    for target in sorted(known["place"].astype(str).unique())[1:]:
        design[f"target {target}"] = (known["place"] == target).astype(float)
    values = known[signal].to_numpy(dtype=float)
    scale = float(np.std(values)) or 1.0  # the optimiser's tolerances are absolute
    values = values / scale
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1] or len(known) <= design.shape[1] + 1:
        yield without("missing cells: rates, methods and targets cannot be told apart")
        return
    fitted, *_ = np.linalg.lstsq(design.to_numpy(), values, rcond=None)
    residual = values - design.to_numpy() @ fitted
    if float(np.std(residual)) <= 1e-9:
        yield without("no variance that rate, method and target leave")
        return
    from statsmodels.regression.mixed_linear_model import MixedLM  # half a second: only when it is asked for

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            model = MixedLM(values, design, groups=groups.to_numpy())
            result = model.fit(reml=True, method=["bfgs", "powell"])
        except (np.linalg.LinAlgError, ValueError) as error:
            yield without(f"the model cannot be fitted: {error}")
            return
    variance = float(np.asarray(result.cov_re).item()) * scale**2
    notes = [f"variance between groups {variance:.4g}"]
    if not result.converged:
        notes.append("did not converge")
    elif said:
        notes.append("variance between groups at its bound")
    ends = result.conf_int()
    for name, term in terms.items():
        numbers: dict[str, Any] = {
            "value": float(result.fe_params[name]) * scale,
            "p": float(result.pvalues[name]),
        }
        numbers |= {
            "low": float(ends.loc[name].iloc[0]) * scale,
            "high": float(ends.loc[name].iloc[1]) * scale,
        }
        if not np.isfinite([*numbers.values()]).all():
            yield replace(row, statistic=term, note="singular fit")
            continue
        numbers |= {"interval": "Wald", "note": "; ".join(notes)}
        yield replace(row, statistic=term, **numbers)
