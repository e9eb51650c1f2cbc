"""Which signal tells early that a run forgets: docs/early-warning.md from committed records.

    python tools/early_warning.py           # prints the tables
    python tools/early_warning.py --write   # puts them into the page

Thresholds are chosen on the records in evidence/photographs and tested on targets and methods left out of the
choice. Where evidence/captions and evidence/early-warning have records, the default rules, chosen before
those runs, are tested on them; the latter's looks begin with the first step, and test zero-shot each time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from early_looks import dense_tables
from marked import between
from warning_records import JUDGED, KEPT, LEVELS, SHARES, found, held_out, number, read

from clipdrift.analysis.warning import auc, judged, looks
from clipdrift.rules.ruling import DRIFT_BELOW

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "early-warning.md"
START, END = "<!-- tables: written by tools/early_warning.py -->", "<!-- end of tables -->"


def tables() -> Iterator[str]:
    place = ROOT / "evidence" / "photographs"
    count, by_target = found(place, "target")
    _, by_method = found(place, "method")
    yield f"## Photographs: {count} runs\n"
    for level in LEVELS:
        lost = next(r.lost for r in by_target if r.level == level and not r.held and r.share == 1)
        yield f"### Below {level:.0f} % of the backbone's zero-shot accuracy: {lost} of {count} runs\n"
        for share in SHARES:
            after = f"Read after {100 * share:.0f} % of the training"
            yield f"{after}; each target tested with the threshold of the others:\n"
            yield from held_out(by_target, share, level)
            yield ""
        yield "Read at the end; each method tested with the threshold of the others:\n"
        yield from held_out(by_method, 1.0, level)
        yield ""
    yield "## The default rules\n"
    yield from default_rules(place, "photographs, on which the thresholds were chosen")
    captions = ROOT / "evidence" / "captions"
    if any(captions.glob("*.xz")):
        yield ""
        yield from default_rules(
            captions, "captions, trained after the thresholds were chosen", apart="towers"
        )
    dense = ROOT / "evidence" / "early-warning"
    if any(dense.glob("*.xz")):
        words = "early-warning, trained after the thresholds were chosen"
        yield ""
        yield from default_rules(dense, words, apart="way")
        yield ""
        yield from default_rules(dense, f"{words}, by target", apart="target")
        yield ""
        yield from dense_tables(dense)


def default_rules(evidence: Path, words: str, apart: str = "") -> Iterator[str]:
    runs, history = read(evidence)
    """How they did on a study's runs, on all and on groups that have the same in the column ``apart``."""
    yield f"Study {words}:\n"
    yield f"| rule | read after | runs | lost | {' | '.join(JUDGED)} | AUC |\n|---|--:|--:|--:|--:|--:|--:|"
    groups = [("", runs)]
    if apart:
        groups += [(f", {name}", group) for name, group in runs.groupby(apart)]
    for name, group in groups:
        for level, threshold in DRIFT_BELOW.items():
            for share in (0.25, 1.0):
                seen = looks(history, group, share, ["embedding_drift"])
                values = seen["embedding_drift"].to_numpy(float)
                lost = (group[KEPT] < level).to_numpy()
                known = np.isfinite(values)
                sensitivity, specificity = judged(values[known], lost[known], threshold)
                cells = [
                    f"embedding_drift >= {threshold:g}: below {level:.0f} %{name}",
                    f"{100 * share:.0f} %",
                    str(int(known.sum())),
                    str(int(lost[known].sum())),
                    number(sensitivity),
                    number(specificity),
                    number(auc(values[known], lost[known])),
                ]
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    text = "\n".join(tables())
    if "--write" in sys.argv[1:]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
