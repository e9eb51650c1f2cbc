"""Published values that a study can be laid beside, and their known defects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import pandas as pd

from clipdrift.outcomes.columns import outcome

BACKBONE = "openai/clip-vit-base-patch32"
EPOCHS = {"eurosat": 20, "pets": 30}
TRAIN_IMAGES = {"eurosat": 21_600, "pets": 3_680}
BATCH_SIZE = 64
PLAIN: Mapping[str, Any] = {"weight_decay": 0.01, "frozen_blocks": 0, "penalty": None, "penalty_weight": None}
LORA: Mapping[str, Any] = {"rank": 8, "matrices": "q+v"}
LIKE = {"full_ft": "E2", "lora": "E5"}
"""The exploratory runs that were done again on another backbone."""

DEFECTS = {
    1: "the best epoch was chosen on the test split, so accuracy is optimistic",
    2: "zero-shot accuracy of LoRA was first measured with inactive adapters; this is the corrected value",
    3: "mean CKA took in the encoder's input as a 0; shown times 13/12, over the 12 blocks",
    4: "head diversity of attention averaged over batches of 32 images, which depends on the batches",
    5: "batches were averaged unweighted: the last, of 8 images, counts four times as much",
    6: "structure is of the last epoch, zero-shot accuracy of the best",
    7: "class numbers stood in the prompts instead of the flowers' names",
    8: "class names may have kept their underscores; 60.22 and 61.33 % are both given for the same model",
}
"""Known defects of the published values, by their number in docs/statistics.md."""


@dataclass(frozen=True)
class Quantity:
    """Published quantity and the columns where our tables have it.

    Attributes:
        words: name for people, with its unit.
        columns: ours, the first that a table has; the first is that of the published moment.
        defects: keys of :data:`DEFECTS`.
        scale: what the printed number is multiplied by.
    """

    words: str
    columns: tuple[str, ...]
    defects: tuple[int, ...] = ()
    scale: float = 1.0

    @property
    def zero_shot(self) -> bool:
        """Whether it is accuracy on a transfer set."""
        return any(outcome(column).kind == "zero-shot" for column in self.columns)


def _drift(measure: str, ours: str, *defects: int) -> Quantity:
    columns = (f"last_{ours}_drift", f"{ours}_drift")
    return Quantity(f"drift of {measure}, %", columns, (*defects, 5, 6))


def _last(words: str, ours: str, *defects: int, scale: float = 1.0) -> Quantity:
    return Quantity(words, (f"last_{ours}", ours), (*defects, 5), scale)


QUANTITIES = {
    "best_val_acc": Quantity("best validation accuracy, %", ("validation_accuracy",), (1,)),
    "entropy_drift": _drift("entropy", "entropy"),
    "erf95_drift": _drift("effective receptive field", "erf95"),
    "gini_drift": _drift("Gini", "gini"),
    "head_diversity_drift": _drift("head diversity of mean attention", "head_diversity_of_mean", 4),
    "cifar100_acc": Quantity("zero-shot accuracy on cifar100, %", ("zero_shot_cifar100",), (6, 8)),
    "flowers102_acc": Quantity("zero-shot accuracy on flowers102, %", ("zero_shot_flowers102",), (6, 7)),
    "rollout_entropy_bits": _last("entropy of the rollout, bits", "rollout_entropy"),
    "rollout_erf95": _last("effective receptive field of the rollout", "rollout_erf95"),
    "rollout_gini": _last("Gini of the rollout", "rollout_gini"),
    "patch_to_patch_entropy_bits": _last("patch-to-patch entropy, bits", "patch_entropy"),
    "mean_cka_13_layers": _last("biased CKA, mean over blocks", "cka_biased", 3, scale=13 / 12),
}
UNTOUCHED = {
    "entropy_initial": Quantity("entropy of the backbone, nats", ("backbone_entropy",), (5,)),
    "erf95_initial": Quantity("effective receptive field of the backbone", ("backbone_erf95",), (5,)),
    "gini_initial": Quantity("Gini of the backbone", ("backbone_gini",), (5,)),
    "head_diversity_initial": Quantity(
        "head diversity of the backbone's mean attention", ("backbone_head_diversity_of_mean",), (4, 5)
    ),
    "cifar100_acc": Quantity("zero-shot accuracy on cifar100, %", ("backbone_zero_shot_cifar100",), (8,)),
    "flowers102_acc": Quantity(
        "zero-shot accuracy on flowers102, %", ("backbone_zero_shot_flowers102",), (7,)
    ),
}


@dataclass(frozen=True)
class Published:
    """One printed number and the runs it is of.

    Attributes:
        source: the table of ``clipdrift/replication/published`` that it stands in.
        cell: the table's row, in words.
        target, method, rates, options: the runs; ``None`` or empty where any will do. ``value`` is the mean
            over the rates.
        block: counted from 1, where it is of one block.
        swapped: whether the backbone is what the row is about, so that no other will do.
    """

    source: str
    cell: str
    quantity: Quantity
    value: float
    target: str | None = None
    method: str | None = None
    rates: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = BACKBONE
    block: int | None = None
    swapped: bool = False

    @property
    def defects(self) -> tuple[int, ...]:
        """Keys of :data:`DEFECTS` that apply."""
        corrected = self.method == "lora" and self.quantity.zero_shot
        return tuple(sorted({*self.quantity.defects, *((2,) if corrected else ())}))


def read(name: str) -> pd.DataFrame:
    """One of the tables in ``clipdrift/replication/published``."""
    with (resources.files("clipdrift.replication") / "published" / f"{name}.csv").open(
        encoding="utf-8"
    ) as file:
        return pd.read_csv(file)


def published_values() -> Iterator[Published]:
    """Every printed number that belongs to a cell, in the order of the tables."""
    grid, means = read("matched_grid_cells"), read("matched_grid_means")
    for row in grid.to_dict("records"):
        name = f"{row['dataset']} {row['method']} {row['learning_rate']:g}"
        yield from _numbers("matched_grid_cells", name, row, _matched(row, (row["learning_rate"],)))
    for row in means.to_dict("records"):
        rates = tuple(sorted(grid["learning_rate"].unique()))
        name = f"{row['dataset']} {row['method']}"
        yield from _numbers("matched_grid_means", name, row, _matched(row, rates))
    runs = {str(row["id"]): row for row in read("exploratory_runs").to_dict("records")}
    for target in EPOCHS:
        first = next(row for row in runs.values() if row["dataset"] == target)
        untouched = {"target": target}
        yield from _numbers("exploratory_runs", f"untouched, {target}", first, untouched, UNTOUCHED)
    for name, row in runs.items():
        yield from _numbers("exploratory_runs", name, row, _run(row))
    for row in read("zero_shot").to_dict("records"):
        name = f"{row['id']}, {row['evaluation']} evaluation"
        if row["id"] == "pretrained":
            yield from _numbers("zero_shot", name, row, {}, UNTOUCHED)
        else:
            yield from _numbers("zero_shot", name, row, _run(runs[row["id"]]))
    for row in read("auxiliary").to_dict("records"):
        yield from _numbers("auxiliary", str(row["id"]), row, _run(runs[row["id"]]))
    for row in read("backbones").to_dict("records"):
        other = {"backbone": row["backbone"], "swapped": True}
        like = runs[LIKE[row["method"]]]
        yield from _numbers("backbones", f"{row['method']} on {row['backbone']}", row, _run(like) | other)
    for row in read("blocks_most_affected").to_dict("records"):
        known = isinstance(row["id"], str)
        of = _run(runs[row["id"]]) if known else _matched(row, (row["learning_rate"],))
        cell = row["id"] if known else f"{row['dataset']} {row['method']} {row['learning_rate']:g}"
        quantity = Quantity(f"drift of entropy of block {row['block']}, %", (), (5, 6))
        value = float(row["entropy_drift"])
        yield Published("blocks_most_affected", cell, quantity, value, block=int(row["block"]), **of)


def _numbers(
    source: str,
    cell: str,
    row: Mapping[str, Any],
    of: Mapping[str, Any],
    quantities: Mapping[str, Quantity] = QUANTITIES,
) -> Iterator[Published]:
    for name, quantity in quantities.items():
        if name in row and not pd.isna(row[name]):
            yield Published(source, cell, quantity, float(row[name]) * quantity.scale, **of)


def _matched(row: Mapping[str, Any], rates: tuple[float, ...]) -> dict[str, Any]:
    options = {**PLAIN, **(LORA if row["method"] == "lora" else {})}
    return {"target": row["dataset"], "method": row["method"], "rates": rates, "options": options}


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    penalised = isinstance(row["regularizer"], str)
    options: dict[str, Any] = {
        "weight_decay": row["weight_decay"],
        "frozen_blocks": row["frozen_layers"],
        "penalty": row["regularizer"] if penalised else None,
        "penalty_weight": row["regularizer_weight"] if penalised else None,
    }
    if row["method"] == "lora":
        matrices = str(row["lora_targets"]).replace("_proj", "")
        options |= {"rank": int(row["lora_rank"]), "matrices": matrices}
    rates = (float(row["learning_rate"]),)
    return {"target": row["dataset"], "method": row["method"], "rates": rates, "options": options}
