"""The tables of docs/which-method.md from the records of the study of that name.

``python tools/which_method.py runs/which-method`` prints them; ``--write`` puts them into the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from marked import between

from clipdrift.study.frames import cells_frame, records_in, runs_frame

PAGE = Path(__file__).resolve().parents[1] / "docs" / "which-method.md"
START, END = "<!-- tables: written by tools/which_method.py -->", "<!-- end of tables -->"
RESULTS = {"accuracy": 1, "cka": 3, "retention_objects-100": 1}
"""Columns and their decimals."""


def name_of(cell: pd.Series) -> str:
    """A method with the option that tells it from its kind."""
    if cell["frozen_blocks"]:
        return f"full_ft, first {cell['frozen_blocks']:.0f} of 6 blocks frozen"
    if cell["method"] == "last_blocks":
        return f"last_blocks({cell['tuned_blocks']:.0f})"
    if cell["train_projection"] is False:
        return "lora, projection frozen"
    return str(cell["method"])


def spread(cell: pd.Series, column: str, digits: int) -> str:
    return f"{cell[column]:.{digits}f} ± {cell[f'{column}_sd']:.{digits}f}"


def tables(root: Path) -> str:
    """Markdown: one table for each target and rate, a row for each method, the most accurate first."""
    runs = runs_frame(records_in(root))
    cells = cells_frame(runs)
    # of times the middle one: another program at work beside one run must not count
    cells["seconds"] = list(runs.groupby("cell", sort=False)["seconds"].median())
    cells["name"] = [name_of(cell) for _, cell in cells.iterrows()]
    parts = []
    for (target, rate), group in cells.groupby(["target", "learning_rate"]):
        seeds = sorted(set(group["runs"]))
        parts.append(f"### {target}, rate {rate:g}\n")
        parts.append(f"{' to '.join(map(str, seeds))} seeds each, mean ± standard deviation.\n")
        parts.append(
            "| method | trained | time | accuracy % | CKA | zero-shot kept % |\n|---|--:|--:|--:|--:|--:|"
        )
        full = group[group["name"] == "full_ft"].iloc[0]
        for _, cell in group.sort_values("accuracy", ascending=False).iterrows():
            found = [spread(cell, name, digits) for name, digits in RESULTS.items()]
            cost = [f"{cell['trained_parameters']:,}", f"{cell['seconds'] / full['seconds']:.2f}x"]
            parts.append(f"| {' | '.join([cell['name'], *cost, *found])} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    root = Path(sys.argv[1])
    text = tables(root)
    print(text)
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(between(page, START, END, f"\n{text}"), encoding="utf-8")


if __name__ == "__main__":
    main()
