"""Plans: from a study's file to runs, and what is refused."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clipdrift.config import ConfigError, RunConfig, legal_keys, parse_config
from clipdrift.study.plan import QUESTIONS, Study, built_in, load_study, study_of

BASE: dict[str, Any] = {"name": "mine", "base": {"data": {"target": "terrain-10", "transfer": []}}}


def facts(study: Study, *keys: str) -> Counter[tuple[Any, ...]]:
    """How many runs have which values of some keys."""
    found: Counter[tuple[Any, ...]] = Counter()
    for run in study.runs:
        values = []
        for key in keys:
            value: Any = run.config
            for part in key.split("."):
                value = getattr(value, part)
            values.append(value)
        found[tuple(values)] += 1
    return found


# --- what is built in


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("quickstart", 16),
        ("exploratory", 21),
        ("matched", 80),
        ("strict", 66),
        ("backbones", 18),
        ("multi-seed", 18),
        ("which-method", 156),
        ("captions", 168),
        ("heads", 54),
        ("interventions", 120),
        ("backbone-shapes", 96),
    ],
)
def test_built_in_studies_have_their_runs(name: str, runs: int) -> None:
    study = load_study(name)
    assert len(study.runs) == runs
    assert len({run.config.key for run in study.runs}) == runs
    assert study.name == name
    assert study.title
    assert study.questions
    assert set(study.questions) <= QUESTIONS.keys()


@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_file_begins_with_its_command_and_what_to_expect(name: str) -> None:
    head = [line for line in built_in()[name].splitlines() if line.startswith("#")]
    assert any(f"clipdrift study run {name} --out " in line for line in head)
    assert any(line.startswith("# Expected") for line in head)


def test_the_matched_matrix() -> None:
    study = load_study("matched")
    keys = ("data.target.name", "method.name", "optim.learning_rate", "seed")
    grid = itertools.product(
        ("eurosat", "pets"), ("full_ft", "lora"), (1e-6, 5e-6, 1e-5, 5e-5), (7, 11, 19, 42, 123)
    )
    assert facts(study, *keys) == Counter(grid)
    assert facts(study, "data.target.name", "optim.epochs") == {("eurosat", 20): 40, ("pets", 30): 40}
    assert facts(study, "data.protocol", "optim.batch_size", "optim.weight_decay") == {
        ("published", 64, 0.01): 80
    }
    assert {run.config.method.rank for run in study.runs if run.config.method.name == "lora"} == {8}  # type: ignore[attr-defined]


def test_the_exploratory_study_is_the_published_one() -> None:
    """Against the published list of runs: method, rank, targets, rate, decay, frozen blocks, penalty."""
    found = set()
    for run in load_study("exploratory").runs:
        config = run.config
        lora = config.method if config.method.name == "lora" else None
        penalty = config.penalty[0] if config.penalty else None
        found.add(
            (
                config.data.target.name,
                config.method.name,
                lora and lora.rank,  # type: ignore[attr-defined]
                lora and "".join(lora.targets),  # type: ignore[attr-defined]
                config.optim.learning_rate,
                config.optim.weight_decay,
                getattr(config.method, "frozen_blocks", 0),
                penalty and (penalty.name, penalty.weight),
            )
        )

    def full(
        rate: float = 1e-5, decay: float = 0.01, frozen: int = 0, penalty: Any = None
    ) -> tuple[Any, ...]:
        return ("eurosat", "full_ft", None, None, rate, decay, frozen, penalty)

    def lora_cell(rank: int, targets: str = "qv", target: str = "eurosat") -> tuple[Any, ...]:
        return (target, "lora", rank, targets, 1e-4, 0.01, 0, None)

    assert found == {
        full(),
        ("pets", "full_ft", None, None, 1e-5, 0.01, 0, None),
        *(lora_cell(rank) for rank in (4, 8, 16)),
        lora_cell(8, target="pets"),
        *(full(rate) for rate in (1e-6, 5e-6, 5e-5, 1e-4)),
        lora_cell(8, "qkvout"),
        *(full(frozen=n) for n in (3, 6, 9)),
        *(full(penalty=("apr", w)) for w in (0.01, 0.1, 1.0)),
        *(full(penalty=("entropy_floor", w)) for w in (0.01, 0.1)),
        *(full(decay=d) for d in (0.0, 0.1)),
    }


def test_the_strict_study() -> None:
    study = load_study("strict")
    assert facts(study, "method.name", "data.target.name") == {
        ("full_ft", "eurosat"): 12,
        ("full_ft", "pets"): 12,
        ("lora", "eurosat"): 12 + 6,
        ("lora", "pets"): 12,
        ("linear_probe", "eurosat"): 3,
        ("linear_probe", "pets"): 3,
        ("last_blocks", "eurosat"): 6,
    }
    sizes = ("data.target.name", "data.train_per_class", "data.validation_per_class", "data.probe_per_class")
    assert set(facts(study, *sizes)) == {("eurosat", 160, 30, 20), ("pets", 40, 10, 6)}
    assert set(facts(study, "data.protocol", "optim.epochs", "optim.batch_size")) == {("strict", 6, 32)}
    frozen = [r for r in study.runs if getattr(r.config.method, "train_projection", True) is False]
    assert len(frozen) == 6
    assert {t.name: t.per_class for t in study.runs[0].config.data.transfer} == {
        "cifar100": None,
        "cifar10": 200,
    }


def test_every_study_moves_to_another_backbone_and_data_set() -> None:
    """Without a network: what is changed by --set is changed in every run."""
    sets = ["model.name=clipdrift/mini", "data.target=terrain-10", "data.transfer=[]", "optim.epochs=1"]
    for name in built_in():
        study = load_study(name, sets)
        keys = ("model.name", "data.target.name", "data.transfer", "optim.epochs")
        assert set(facts(study, *keys)) == {("clipdrift/mini", "terrain-10", (), 1)}
        assert len(study.runs) + study.dropped == len(load_study(name).runs)


# --- how a plan is made


def test_axes_cells_and_seeds() -> None:
    study = study_of(
        BASE
        | {
            "seeds": [1, 2],
            "axes": {"optim.learning_rate": [1e-4, 1e-3], "method": ["full_ft", {"name": "lora", "rank": 2}]},
            "cells": [
                {"label": "probe", "change": {"method": "linear_probe"}, "seeds": [5]},
                {"change": {"optim": {"epochs": 3}}, "axes": {"penalty": [{"name": "apr", "weight": 0.5}]}},
            ],
        }
    )
    keys = ("method.name", "optim.learning_rate", "optim.epochs", "seed")
    grid = itertools.product(("full_ft", "lora"), (1e-4, 1e-3), (20,), (1, 2))
    cells = [("linear_probe", 1e-5, 20, 5), ("full_ft", 1e-5, 3, 1), ("full_ft", 1e-5, 3, 2)]
    assert facts(study, *keys) == Counter([*grid, *cells])
    assert {run.cell for run in study.runs} == {"axes", "cells.1", "cells.2"}
    assert "probe" in {run.label for run in study.runs}
    # the first runs of a plan cover every cell
    first = study.limited(6)
    assert {(r.cell, r.label) for r in first.runs} == {(r.cell, r.label) for r in study.runs}


def test_keys_that_change_together() -> None:
    together = [{"data.target": "terrain-10", "optim.epochs": 2}, {"data.target": "emblems-37", "seed": 9}]
    study = study_of({"name": "mine", "axes": {"target": together[:1]}})
    assert facts(study, "data.target.name", "optim.epochs") == {("terrain-10", 2): 1}
    assert study.runs[0].label == "terrain-10"


def test_as_many_keys_are_shown_as_tell_runs_apart() -> None:
    """Where the first alone does, it alone; one value is told by its first."""
    bundles = [
        {"method": "full_ft", "objective.towers": "both", "optim.epochs": 2},
        {"method": "full_ft", "objective.towers": "image", "optim.epochs": 2},
        {"method": {"name": "lora", "rank": 2}, "objective.towers": "both"},
    ]
    study = study_of({"name": "m", "base": {"objective": "contrastive"}, "axes": {"what": bundles}})
    assert [run.label for run in study.runs] == ["full_ft both", "full_ft image", "lora rank=2 both"]
    study = study_of({"name": "m", "base": {"objective": "contrastive"}, "axes": {"what": bundles[1:]}})
    assert [run.label for run in study.runs] == ["full_ft", "lora rank=2"]
    late = [{"method": "full_ft", "optim.epochs": 2, "optim.warmup": w} for w in (0.0, 0.1)]
    study = study_of({"name": "m", "axes": {"what": late}})
    assert [run.label for run in study.runs] == ["full_ft 2 0", "full_ft 2 0.1"]


def test_a_named_table_replaces_and_a_plain_one_adds() -> None:
    """The options of one method do not go over into another; those of optim stay."""
    base = {"method": {"name": "lora", "rank": 2}, "optim": {"epochs": 3, "batch_size": 8}}
    study = study_of(
        {"name": "m", "base": base, "axes": {"method": ["full_ft", {"name": "lora", "rank": 4}]}}
    )
    assert [run.config.method.name for run in study.runs] == ["full_ft", "lora"]
    assert study.runs[1].config.method.rank == 4  # type: ignore[attr-defined]
    study = study_of({"name": "m", "base": base, "cells": [{"change": {"optim": {"epochs": 5}}}]})
    assert (study.runs[0].config.optim.epochs, study.runs[0].config.optim.batch_size) == (5, 8)
    assert study.runs[0].config.method.rank == 2  # type: ignore[attr-defined]


def test_dotted_keys_of_the_base_are_read() -> None:
    """Nested and dotted are the same run, with cells and without."""
    nested = {"data": {"target": "terrain-10", "transfer": []}, "optim": {"epochs": 3}}
    dotted = {"data.target": "terrain-10", "data.transfer": [], "optim.epochs": 3}
    for more in ({}, {"cells": [{"change": {"optim.batch_size": 8}}]}):
        (one,), (other,) = (study_of({"name": "m", "base": base} | more).runs for base in (nested, dotted))
        assert one.config == other.config
        assert other.config.optim.epochs == 3


def test_a_plan_is_a_run_of_train() -> None:
    """A study's run has the key that the same configuration has alone."""
    run = load_study("quickstart").runs[0]
    alone = parse_config(run.config.model_dump(mode="json"), RunConfig)
    assert alone.key == run.config.key


def test_overrides_change_axes_seeds_and_runs() -> None:
    study = load_study("quickstart", ["seeds=[1]", "axes.optim.learning_rate=[0.1, 0.2]"])
    assert facts(study, "optim.learning_rate", "seed") == {(0.1, 1): 2, (0.2, 1): 2}
    moved = load_study("quickstart", ["optim.learning_rate=0.5"])
    assert set(facts(moved, "optim.learning_rate")) == {(0.5,)}
    assert (len(moved.runs), moved.dropped) == (4, 12)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nseeds = [1, 2]\n[base]\nmodel = "clipdrift/mini"\n')
    assert [run.config.seed for run in load_study(path).runs] == [1, 2]


# --- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axes": {"rate": [1, 2]}}, "axes.rate: no such configuration key"),
        ({"axes": {"optim.learning_rate": []}}, "axes.optim.learning_rate: no values"),
        ({"axes": {"optim.learning_rate": [1e-3, 0.001]}}, "axes.optim.learning_rate: 0.001 stands twice"),
        ({"axes": {"seed": [1]}}, "axes.seed: seeds are given by the key seeds"),
        ({"seeds": [3, 3]}, "a seed stands twice"),
        ({"seeds": []}, "seeds"),
        ({"base": {"optim": {"rate": 1}}}, "optim.rate = 1: unknown key"),
        ({"axes": {"method": ["full_ft", "magic"]}}, "axes with magic: method.name = 'magic': unknown"),
        ({"axes": {"t": [{"optim.rate": 1}]}}, "axes with 1: optim.rate = 1: unknown key"),
        ({"questions": ["why"]}, "questions.0 = 'why'"),
        ({"sedes": [1]}, "sedes = [1]: unknown key (did you mean seeds?)"),
        (
            {"cells": [{"change": {"optim.epochs": 2}, "axes": {"optim.epochs": [1, 2]}}]},
            "cells.1: optim.epochs is both an axis and changed",
        ),
        (
            {"cells": [{"change": {"method": "linear_probe", "penalty": "apr"}}]},
            "penalty apr with method linear_probe",
        ),
        (
            {"cells": [{"label": "a"}, {"label": "b", "change": {"method": "full_ft"}}]},
            "the run b of cells.2 is planned twice (as a of cells.1, key ",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(BASE | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_studies_and_overrides() -> None:
    with pytest.raises(ConfigError, match="neither a file nor one of backbone-shapes, backbones, captions, "):
        load_study("matchd")
    with pytest.raises(ConfigError, match=r"no axis optim.epochs; it has method, optim.learning_rate"):
        load_study("quickstart", ["axes.optim.epochs=[1]"])
    with pytest.raises(ConfigError, match=r"optim.epoch = 3: unknown key"):
        load_study("quickstart", ["optim.epoch=3"])
    with pytest.raises(ConfigError, match="at least one run"):
        load_study("quickstart").limited(0)


def test_legal_keys_are_the_configurations() -> None:
    assert {
        "optim.learning_rate",
        "method",
        "method.rank",
        "penalty",
        "data.target.per_class",
        "seed",
    } <= set(legal_keys())
    assert "optim.rate" not in legal_keys()
