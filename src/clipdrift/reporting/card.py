"""A section of a model card: what fine-tuning kept and moved, with metadata as the hub reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants

from clipdrift.config import DataSet
from clipdrift.data.catalog import CATALOG
from clipdrift.decision import CardFacts, CheckError, Estimate, HeadFacts
from clipdrift.errors import printable
from clipdrift.figures.card import card as figure
from clipdrift.figures.panels import style
from clipdrift.runs.files import write_atomically, write_text
from clipdrift.texts import decimal, percent

START, END = "<!-- clipdrift card: start -->", "<!-- clipdrift card: end -->"
PICTURE = "clipdrift.png"
_TASK = "zero-shot-image-classification"
_BY = "measured_by"
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?(?:\n|\Z)", re.S | re.M)
_ROWS = {
    "cka": "CKA of the image tower's states, mean over blocks (1: unchanged)",
    "cka/worst": "CKA of the block that moved most",
    "embedding_drift": "embedding drift (0: unchanged)",
    "weight_drift": "relative change of the image tower's weights",
    "entropy_drift": "change of attention entropy",
}


def write_card(facts: CardFacts, readme: Path, command: str, base_model: str | None = None) -> Path:
    """Write the section into a README and its figure beside it; what else is there stays as it is.

    Args:
        command: that made it, to be shown.
        base_model: the base's id on the hub; by default its name where that looks like one.

    Raises:
        CheckError: a README whose marks or metadata are broken.
        StorageError: no room, or no right to write there.
    """
    old = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    front, body = _split(old, readme)
    data = _metadata(facts, front, readme, base_model)
    text = _with_section(body, section(facts, command), readme)
    with style():
        made = figure(facts.comparison)
        write_atomically(
            readme.with_name(PICTURE),
            lambda stream: made.savefig(stream, format="png", dpi=150, metadata={"Software": None}),
        )
    write_text(readme, f"---\n{_merged(front, data)}---\n{text}")
    return readme


def section(facts: CardFacts, command: str) -> str:
    """The section in Markdown, without its marks."""
    found = facts.comparison
    lines = ["## What fine-tuning kept and moved", "", _answer(facts), ""]
    if found.transfer:
        lines += [
            "| zero-shot on | images | base | this model | kept (95 % interval) | same class as base |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, row in found.transfer.items():
            kept = _interval(facts.estimates.get(f"retention/{name}")) or "not measurable: base at chance"
            cells = (
                str(row.images),
                percent(row.before),
                percent(row.after),
                kept,
                percent(100 * row.agreement),
            )
            lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
        lines.append("")
    inside = [
        f"| {words} | {_interval(facts.estimates[name])} |"
        for name, words in _ROWS.items()
        if name in facts.estimates
    ]
    if inside:  # a text tower alone has nothing to tell here
        lines += ["| inside the image tower | value (95 % interval) |", "|---|--:|", *inside, ""]
    lines += [f"![Zero-shot accuracy before and after, CKA by block]({PICTURE})", "", _how(facts), ""]
    if facts.head is not None:
        lines += [_head(facts.head), ""]
    lines += ["```", printable(command), "```"]
    return "\n".join(lines)


def _answer(facts: CardFacts) -> str:
    """The first sentence: what was kept, in the reader's terms."""
    known = [
        f"{facts.estimates[f'retention/{name}'].value:.0f} % of the base's zero-shot accuracy on "
        f"{_cell(name)} ({row.before:.1f} → {row.after:.1f} %)"
        for name, row in facts.comparison.transfer.items()
        if f"retention/{name}" in facts.estimates
    ]
    cka = facts.estimates.get("cka")
    moved = f"CKA with the base is {decimal(cka.value)}" if cka else "its image tower is the base's own"
    return (
        f"It keeps {', '.join(known)}; {moved}."
        if known
        else f"What zero-shot ability is left was not measured; {moved}."
    )


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    show = percent if estimate.unit == "%" else decimal
    text = show(estimate.value)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return text
    return f"{text} ({show(estimate.low).removesuffix(' %')} to {show(estimate.high)})"


def _how(facts: CardFacts) -> str:
    found = facts.comparison
    prompts = {row.prompts[0] for row in found.transfer.values()}
    said = [
        f"Measured by {_version(facts)} against `{_cell(found.base.name)}`, both models on the same images "
        f"through the same preprocessing, in float32: internals on {found.images.count} images of "
        f"{_cell(found.images.source)}"
    ]
    if prompts:
        said.append(
            f"zero-shot with the prompt {', '.join(f'`{_cell(prompt)}`' for prompt in sorted(prompts))}"
        )
    if found.tuned.grafted:
        said.append(f"what this model lacks ({', '.join(found.tuned.grafted)}) is the base's")
    intervals = "Intervals are over images: bootstrap, for CKA jackknife."
    return f"{'; '.join(said)}. {intervals}"


def _head(head: HeadFacts) -> str:
    """What the classifier beside the model is and how it is used."""
    said = f"`head.safetensors` classifies the image embedding into the {head.classes} classes of the target"
    if head.kind == "linear":
        return f"{said}: a linear map of the projected embedding as it is, not normalised."
    texts = f" ({', '.join(f'`{_cell(prompt)}`' for prompt in head.prompts)})" if head.prompts else ""
    return f"{said}: a linear map of the normalised embedding that began as their texts{texts}."


def _version(facts: CardFacts) -> str:
    """``clipdrift 0.1.0``, that measured."""
    return f"clipdrift {facts.comparison.environment.get('packages', {}).get('clipdrift', '')}".strip()


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


# --- metadata


def _metadata(facts: CardFacts, front: str, readme: Path, base_model: str | None) -> dict[str, Any]:
    """The keys that are ours: set, or merged with what is there."""
    try:
        have = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise CheckError(f"{readme}: its metadata is not valid YAML ({where}); mend that first") from None
    if not isinstance(have, dict):
        raise CheckError(f"{readme}: its metadata is no table of keys; mend that first")
    data: dict[str, Any] = {}
    name = base_model or _hub_name(facts.comparison.base.name)
    if name and (base_model or "base_model" not in have):
        data["base_model"] = name
    if "base_model_relation" not in have and (name or "base_model" in have):
        data["base_model_relation"] = "adapter" if facts.adapter else "finetune"
    if "library_name" not in have:
        data["library_name"] = "peft" if facts.adapter else "transformers"
    if "pipeline_tag" not in have:
        data["pipeline_tag"] = _TASK
    index = have.get("model-index")
    results = [_result(facts, set_name) for set_name in facts.comparison.transfer]
    others = _others(index)
    if results or others:
        title = (
            index[0].get("name") if isinstance(index, list) and index and isinstance(index[0], dict) else None
        )
        data["model-index"] = [{"name": title or _title(facts), "results": [*others, *results]}]
    return data


def _others(index: Any) -> list[Any]:
    """Results in a model index that somebody else has put there."""
    if not isinstance(index, list):
        return []
    found = []
    for entry in index:
        for result in entry.get("results", []) if isinstance(entry, dict) else []:
            metrics = [metric for metric in result.get("metrics", []) if not _ours(metric)]
            if metrics:
                found.append(result | {"metrics": metrics})
    return found


def _ours(metric: Any) -> bool:
    args = metric.get("args") if isinstance(metric, dict) else None
    return isinstance(args, dict) and str(args.get(_BY, "")).startswith("clipdrift")


def _result(facts: CardFacts, name: str) -> dict[str, Any]:
    row, spec = facts.comparison.transfer[name], facts.sets[name]
    common: dict[str, Any] = {
        _BY: _version(facts),
        "images": row.images,
        "classes": row.classes,
    }
    common["prompt"] = row.prompts[0]
    metrics = []
    named = (
        ("accuracy", "zero-shot accuracy, %", f"zero_shot_accuracy/{name}"),
        ("retention", "zero-shot accuracy kept of the base's, %", f"retention/{name}"),
    )
    for kind, title, key in named:
        if key in facts.estimates:
            estimate = facts.estimates[key]
            args = common | ({"base": facts.comparison.base.name} if kind == "retention" else {})
            if estimate.low is not None and estimate.high is not None:
                args["interval_95"] = [round(estimate.low, 2), round(estimate.high, 2)]
            metrics.append({"type": kind, "value": round(estimate.value, 2), "name": title, "args": args})
    return {
        "task": {"type": _TASK, "name": "Zero-shot image classification"},
        "dataset": _dataset(spec),
        "metrics": metrics,
    }


def _dataset(spec: DataSet) -> dict[str, Any]:
    row = CATALOG.get(spec.name)
    found: dict[str, Any] = {"type": row.hub if row else spec.name, "name": spec.name}
    found["split"] = spec.test_split or (row.test_split if row else "test")
    revision = None if spec.path else _revision(found["type"])
    return found | ({"revision": revision} if revision else {})


def _revision(hub: str) -> str | None:
    """The commit of a data set in the hub's cache, as it was last fetched."""
    file = Path(constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}" / "refs" / "main"
    return file.read_text().strip() if file.is_file() else None


def _hub_name(name: str) -> str | None:
    """A name that is one on the hub, as far as it looks."""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None


def _title(facts: CardFacts) -> str:
    return Path(facts.comparison.tuned.name).name or facts.comparison.tuned.name


# --- the file


def _split(text: str, readme: Path) -> tuple[str, str]:
    """Metadata and body of a README."""
    found = _FRONT.match(text)
    if found is None:
        if text.startswith("---"):
            raise CheckError(f"{readme}: its metadata begins with --- and does not end; mend that first")
        return "", text
    return found[1], text[found.end() :]


def _merged(front: str, data: dict[str, Any]) -> str:
    """Metadata with our keys where older ones stood, new ones last; all other lines and comments stay."""
    if front and not front.endswith("\n"):
        front += "\n"
    left, text = dict(data), ""
    for part in re.split(r"^(?=[^\s#\-][^\n]*:)", front, flags=re.M):
        key = part.partition(":")[0].strip().strip("\"'")
        if key in left:
            comments = [line for line in part.splitlines(keepends=True) if line.startswith("#")]
            text += _dumped({key: left.pop(key)}) + "".join(comments)
        else:
            text += part
    return text + (_dumped(left) if left else "")


def _dumped(data: dict[str, Any]) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110))


def _with_section(body: str, text: str, readme: Path) -> str:
    made = f"{START}\n{text}\n{END}"
    if START not in body and END not in body:
        return f"{body.rstrip()}\n\n{made}\n" if body.strip() else f"\n{made}\n"
    before, _, rest = body.partition(START)
    _, ended, after = rest.partition(END)
    if not ended or START in rest or END in after or END in before:
        raise CheckError(f"{readme}: needs the marks {START} and {END} once each, in this order, or neither")
    return f"{before}{made}{after}"
