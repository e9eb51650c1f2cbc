"""Proposed runs as a study's file that ``clipdrift study run`` takes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdrift.advice.errors import AdviceError
from clipdrift.advice.proposing import Proposal
from clipdrift.advice.result import Advice
from clipdrift.advice.words import proposed
from clipdrift.config import ConfigError, RunConfig, parse_config, put
from clipdrift.runs.files import write_text
from clipdrift.runs.layout import CONFIG
from clipdrift.study.plan import Study, study_of

QUESTIONS = ("rate", "methods", "choosing")
_WHOLE = ("model", "method", "penalty", "objective")
"""Sections that are written as one value: what they hold depends on their name."""
_PARTS = ("data", "optim", "evaluation")

Leaves = dict[str, Any]
"""Dotted key -> value of a configuration, as far as it is not the default."""


def write_next(advice: Advice, roots: Path | Sequence[Path] | None, file: Path) -> Study | None:
    """Write the proposed runs as a study's file, and return the study; None where nothing is proposed.

    Runs that stand in ``roots`` already, however they ended, are left out.

    Args:
        roots: the folders of the records that the advice is from, whose configurations are repeated.

    Raises:
        AdviceError: a setting has no record, or the file cannot be made to say what is meant.
    """
    if not advice.proposals:
        return None
    folders = [roots] if isinstance(roots, Path) else list(roots or ())
    if any(_config_of(proposal, folders) is None for proposal in advice.proposals):
        raise AdviceError(
            f"{file}: a table of runs or a monitor's log has no configurations to repeat, so no study can be "
            "written; the runs to do stand in the advice itself"
        )
    wanted = _wanted(advice.proposals, folders)
    if not wanted:
        return None
    text = _file(advice, wanted)
    study = study_of(tomllib.loads(text))
    keys = [_bare(run.config).key for run in study.runs]
    expected = [_bare(config).key for _, configs in wanted for config in configs]
    if sorted(keys) != sorted(expected):
        raise AdviceError(f"{file}: these configurations cannot be written as a study; please report it")
    write_text(file, text)
    return study


def _config_of(proposal: Proposal, roots: Iterable[Path]) -> Path | None:
    """The configuration of one of the runs that a proposal goes on from; None: no folder has one."""
    files = (root / run / CONFIG for run in proposal.like.runs for root in roots)
    return next((file for file in files if file.is_file()), None)


def _wanted(proposals: Iterable[Proposal], roots: Sequence[Path]) -> list[tuple[Proposal, list[RunConfig]]]:
    """The new runs of each proposal: none that exists, none twice."""
    known = {_bare(config).key for root in roots for config in _existing(root)}
    found = []
    for proposal in proposals:
        file = _config_of(proposal, roots)
        assert file is not None
        base = _read(file)
        new = []
        for seed in proposal.seeds:
            data = put(base, "optim.learning_rate", proposal.rate, "advice") | {"seed": int(seed)}
            config = parse_config(data, RunConfig)
            if (key := _bare(config).key) not in known:
                known.add(key)
                new.append(config)
        if new:
            found.append((proposal, new))
    return found


def _existing(root: Path) -> Iterable[RunConfig]:
    for file in sorted(root.glob(f"*/{CONFIG}")):
        try:
            yield parse_config(_read(file), RunConfig)
        except (
            AdviceError,
            ConfigError,
        ):  # damaged or of another version: no run that could be planned again
            continue


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdviceError(f"{file}: cannot be read ({error})") from None
    if not isinstance(data, dict):
        raise AdviceError(f"{file}: no configuration")
    return data


def _bare(config: RunConfig) -> RunConfig:
    """The configuration before copies on this machine were looked at: without their checksums."""
    return parse_config(_without_prints(config.model_dump(mode="json")), RunConfig)


def _without_prints(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_prints(v) for k, v in value.items() if k != "fingerprint"}
    return [_without_prints(part) for part in value] if isinstance(value, list) else value


def _leaves(config: RunConfig) -> Leaves:
    data = _without_prints(config.model_dump(mode="json"))
    usual = RunConfig().model_dump(mode="json")
    found = {name: data[name] for name in _WHOLE if data[name] != usual[name]}
    found |= {"head": config.head} if config.head != RunConfig().head else {}
    for part in _PARTS:
        found |= {f"{part}.{k}": v for k, v in data[part].items() if v != usual[part][k]}
    found["data.target"] = data["data"]["target"]  # the default of a target is no name for what was done
    found["data.transfer"] = data["data"]["transfer"]
    if data["optim"]["clip_norm"] is None:
        found["optim.clip_norm"] = "none"
    found["optim.learning_rate"] = data["optim"]["learning_rate"]
    return {name: _without_none(value) for name, value in found.items()}


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def _file(advice: Advice, wanted: Sequence[tuple[Proposal, list[RunConfig]]]) -> str:
    leaves = [_leaves(configs[0]) for _, configs in wanted]
    first = leaves[0]
    shared = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in leaves)}
    name = f"{advice.name}-next"
    out = [
        f"# Runs that would tell more about the study {json.dumps(advice.name)}, by `clipdrift advise`.",
        "# Start it where that study was started, because paths may be relative, and give it its own --out.",
        f"name = {toml_value(name)}",
        f"title = {toml_value(f'Runs that would tell more about {advice.name}')}",
        f"questions = {toml_value(list(QUESTIONS))}",
        f"seeds = [{wanted[0][1][0].seed}]",
        "",
        "[base]",
        *(f"{_key(key)} = {toml_value(value)}" for key, value in shared.items()),
    ]
    for (proposal, configs), own in zip(wanted, leaves, strict=True):
        place = configs[0].data.target.name
        out += ["", *(f"# {line}" for line in f"{place}: {proposed(proposal)}".splitlines()), "[[cells]]"]
        out += [
            f"label = {toml_value(f'{place}, {proposal.like.variant}, {proposal.kind}')}",
            f"seeds = {toml_value([config.seed for config in configs])}",
            "[cells.change]",
        ]
        out += [f"{_key(k)} = {toml_value(v)}" for k, v in own.items() if k not in shared]
    return "\n".join(out) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """A value as TOML writes it, tables inline.

    Raises:
        AdviceError: a value that TOML has no word for.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(str(k))} = {toml_value(v)}' for k, v in value.items())}}}"
    raise AdviceError(f"{value!r} cannot be written in TOML")
