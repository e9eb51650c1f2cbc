"""Names and descriptions of methods, penalties, measures and models. Loads no torch.

Methods and penalties are described where their options are; other packages' entries are added to each table.
Contract tests hold these tables equal to those that do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clipdrift.config import methods, penalties
from clipdrift.config.base import MethodOptions, PenaltyOptions, name_of
from clipdrift.extensions import Found, extensions


@dataclass(frozen=True)
class Entry:
    """One line of a listing. ``unit``, ``family`` and ``range`` are those of a measure's values."""

    summary: str
    reference: str = ""
    unit: str = ""
    family: str = ""
    range: str = ""


def _described(
    built_in: Iterable[type[MethodOptions] | type[PenaltyOptions]], found: Found
) -> dict[str, Entry]:
    own = {name_of(options): Entry(options.summary, options.reference) for options in built_in}
    theirs = {
        name: Entry(f"{extension.spec.summary} (from {extension.distribution})", extension.spec.reference)
        for name, extension in found.usable.items()
    }
    return own | theirs


METHODS: dict[str, Entry] = _described(methods.BUILT_IN, methods.EXTENSIONS)

PENALTIES: dict[str, Entry] = _described(penalties.BUILT_IN, penalties.EXTENSIONS)

HEADS: dict[str, Entry] = {
    "linear": Entry(
        "drawn at random from the seed, on the projected embedding; stays in interpolation",
    ),
    "zero_shot": Entry(
        "begins as the class texts times the logit scale, on the normalised embedding; moves along in "
        "interpolation",
        "Wortsman et al. 2022",
    ),
}
"""What a run's classifier begins as, by the value of ``head``."""

MEASURES: dict[str, Entry] = {
    "entropy": Entry(
        "entropy of CLS-to-patch attention, mean over heads", "Shannon 1948", "nats", "attention", "0 to ln P"
    ),
    "normalised_entropy": Entry(
        "the same divided by ln P, to compare patch sizes", "Shannon 1948", "", "attention", "0 to 1"
    ),
    "erf95": Entry(
        "effective receptive field: patches that hold 95 % of the attention",
        "",
        "share of patches",
        "attention",
        "1/P to 1",
    ),
    "gini": Entry("inequality of attention over patches", "Gini 1912", "", "attention", "0 to 1 - 1/P"),
    "head_diversity": Entry(
        "one minus the mean cosine between heads, per image", "", "", "attention", "0 to 1"
    ),
    "head_diversity_of_mean": Entry(
        "the same on attention averaged over the images first", "", "", "attention", "0 to 1"
    ),
    "cls_self": Entry("attention that the class token pays itself", "", "", "attention", "0 to 1"),
    "sink_share": Entry(
        "share of the attention that its largest patch takes",
        "Darcet et al. 2024",
        "",
        "attention",
        "1/P to 1",
    ),
    "sink_patches": Entry(
        "patches whose state is longer than 3 x the median of the image",
        "Darcet et al. 2024",
        "patches",
        "attention",
        "0 to P/2",
    ),
    "rollout_entropy": Entry(
        "entropy of attention rolled out over all blocks",
        "Abnar and Zuidema 2020",
        "bits",
        "flow",
        "0 to log2 P",
    ),
    "rollout_erf95": Entry(
        "effective receptive field of the rollout",
        "Abnar and Zuidema 2020",
        "share of patches",
        "flow",
        "1/P to 1",
    ),
    "rollout_gini": Entry(
        "inequality of the rollout over patches", "Abnar and Zuidema 2020", "", "flow", "0 to 1 - 1/P"
    ),
    "patch_entropy": Entry(
        "entropy of patch-to-patch attention, mean over patches and heads",
        "Shannon 1948",
        "bits",
        "flow",
        "0 to log2 P",
    ),
    "cka": Entry(
        "debiased linear CKA of CLS states, or of mean states, with the backbone's",
        "Nguyen et al. 2021",
        "",
        "representation",
        "about 0 to 1",
    ),
    "cka_biased": Entry(
        "the same, biased: near 1 for few images and wide states",
        "Kornblith et al. 2019",
        "",
        "representation",
        "0 to 1",
    ),
    "cka_embedding": Entry(
        "debiased linear CKA of the projected embedding",
        "Nguyen et al. 2021",
        "",
        "representation",
        "about 0 to 1",
    ),
    "cka_minibatch": Entry(
        "CKA from unbiased HSIC terms summed over batches of 100 images",
        "Nguyen et al. 2021",
        "",
        "representation",
        "about 0 to 1",
    ),
    "embedding_drift": Entry(
        "one minus the mean cosine of the projected embeddings", "", "", "representation", "0 to 2"
    ),
    "weight_drift": Entry(
        "relative change of the image tower's effective weights", "", "", "weights", "from 0"
    ),
    "weight_drift_projection": Entry("relative change of the visual projection", "", "", "weights", "from 0"),
    "weight_drift_q": Entry("relative change of the query matrices", "", "", "weights", "from 0"),
    "weight_drift_k": Entry("relative change of the key matrices", "", "", "weights", "from 0"),
    "weight_drift_v": Entry("relative change of the value matrices", "", "", "weights", "from 0"),
    "weight_drift_out": Entry("relative change of the output matrices", "", "", "weights", "from 0"),
    "weight_drift_fc1": Entry("relative change of the MLPs' first matrices", "", "", "weights", "from 0"),
    "weight_drift_fc2": Entry("relative change of the MLPs' second matrices", "", "", "weights", "from 0"),
    "weight_drift_fc1_g": Entry("relative change of gated MLPs' gates", "", "", "weights", "from 0"),
    "weight_drift_fc1_x": Entry("relative change of what gated MLPs gate", "", "", "weights", "from 0"),
    "weight_drift_conv1": Entry(
        "relative change of the first convolutions of residual blocks", "", "", "weights", "from 0"
    ),
    "weight_drift_conv2": Entry(
        "relative change of the second convolutions of residual blocks", "", "", "weights", "from 0"
    ),
    "weight_drift_conv3": Entry(
        "relative change of the third convolutions of residual blocks", "", "", "weights", "from 0"
    ),
    "weight_drift_conv_dw": Entry(
        "relative change of the depthwise convolutions", "", "", "weights", "from 0"
    ),
    "effective_rank": Entry(
        "rank of a matrix's change: exp of the entropy of its singular values",
        "Roy and Vetterli 2007",
        "",
        "weights",
        "1 to full rank",
    ),
    "intruder_dimensions": Entry(
        "leading singular vectors of a matrix that the backbone's has nothing like",
        "Shuttleworth et al. 2024",
        "of 10",
        "weights",
        "0 to 10",
    ),
    "task_vector_cosine": Entry(
        "cosine between what two models added to the backbone's weights",
        "Ilharco et al. 2023",
        "",
        "weights",
        "-1 to 1",
    ),
    "text_entropy": Entry(
        "entropy of the pooled token's attention over a text's n words",
        "Shannon 1948",
        "nats",
        "text",
        "0 to ln n",
    ),
    "text_normalised_entropy": Entry(
        "the same divided by ln n, to compare texts", "Shannon 1948", "", "text", "0 to 1"
    ),
    "text_erf95": Entry(
        "effective receptive field: words that hold 95 % of that attention",
        "",
        "share of words",
        "text",
        "1/n to 1",
    ),
    "text_gini": Entry("inequality of that attention over words", "Gini 1912", "", "text", "0 to 1 - 1/n"),
    "text_head_diversity": Entry(
        "one minus the mean cosine between heads, per text", "", "", "text", "0 to 1"
    ),
    "text_start_share": Entry(
        "attention that the pooled token pays the start token", "Xiao et al. 2024", "", "text", "0 to 1"
    ),
    "text_cka": Entry(
        "debiased linear CKA of the pooled token's states with the backbone's",
        "Nguyen et al. 2021",
        "",
        "text",
        "about 0 to 1",
    ),
    "text_cka_embedding": Entry(
        "debiased linear CKA of the projected text embedding",
        "Nguyen et al. 2021",
        "",
        "text",
        "about 0 to 1",
    ),
    "text_embedding_drift": Entry(
        "one minus the mean cosine of the projected text embeddings", "", "", "text", "0 to 2"
    ),
    "text_weight_drift": Entry(
        "relative change of the text tower's effective weights", "", "", "text", "from 0"
    ),
    "text_weight_drift_projection": Entry("relative change of the text projection", "", "", "text", "from 0"),
    "accuracy": Entry(
        "images of the target that the head classifies rightly", "", "%", "ability", "0 to 100"
    ),
    "zero_shot_accuracy": Entry(
        "images whose nearest class text is the right one, with one prompt or an ensemble",
        "Radford et al. 2021",
        "%",
        "ability",
        "0 to 100",
    ),
    "retention": Entry(
        "100 x zero-shot accuracy after / before", "", "%", "ability", "0 to 100, more where it gained"
    ),
    "zero_shot_agreement": Entry(
        "share of images whose zero-shot class is still the backbone's", "", "", "ability", "0 to 1"
    ),
    "zero_shot_kl": Entry(
        "KL divergence of the zero-shot distributions from the backbone's",
        "Kullback and Leibler 1951",
        "nats",
        "ability",
        "from 0",
    ),
    "recall_at_k": Entry(
        "captions (or images) found among the k nearest, where images have captions",
        "",
        "",
        "ability",
        "0 to 1",
    ),
    "subset_sensitivity": Entry(
        "coefficient of variation of a measure over disjoint subsets of the images",
        "",
        "",
        "stability",
        "from 0",
    ),
}

COLUMNS = frozenset(
    """
    run cell label status target backbone method head learning_rate seed rank matrices train_projection
    frozen_blocks tuned_blocks penalty penalty_weight weight_decay epochs batch_size protocol train_images
    trained_parameters seconds epoch step ends_epoch block measure value drift train_loss train_accuracy
    other_options validation_accuracy place variant arm log_rate plain representation_drift
    text_representation_drift stopped_epoch stopped_step
    """.split()  # noqa: SIM905
)
"""Columns of tidy tables beside those of measures; no measure may have such a name."""

MEASURE_EXTENSIONS = extensions("measures", frozenset(MEASURES) | COLUMNS)
"""Measures of other packages."""

MEASURES |= {
    name: Entry(
        f"{extension.spec.summary} (from {extension.distribution})",
        extension.spec.reference,
        extension.spec.unit,
        extension.spec.family,
        extension.spec.range,
    )
    for name, extension in MEASURE_EXTENSIONS.usable.items()
}


def why_absent(absent: Mapping[str, str], measure: str) -> str | None:
    """The reason why a model has no such measure; None where nothing is said.

    Args:
        absent: measures, or families of them, each with the reason.
        measure: a receptive field at another threshold than 0.95 counts as ``erf95``.
    """
    known = "erf95" if measure.startswith("erf") else measure
    if known in absent or known not in MEASURES:
        return absent.get(known)
    return absent.get(MEASURES[known].family)


def absences(absent: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each reason why measures, or families of them, are absent."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in absent.items():
        by_reason.setdefault(reason, []).append(_ABSENT.get(name, name))
    return tuple(f"No {' and no '.join(names)}: {reason}." for reason, names in by_reason.items())


_ABSENT = {
    "attention": "measures of attention over patches",
    "flow": "rollout or patch entropy",
    "sink_patches": "sink patches",
}


def installed_extensions() -> dict[str, str]:
    """Every usable extension and its distribution with version, for records: ``method tall: pkg 1.0``."""
    groups = (
        ("method", methods.EXTENSIONS),
        ("penalty", penalties.EXTENSIONS),
        ("measure", MEASURE_EXTENSIONS),
    )
    return {f"{kind} {name}": e.distribution for kind, found in groups for name, e in found.usable.items()}


def broken_extensions() -> tuple[str, ...]:
    """One line for each extension that is installed and cannot be used."""
    groups = (methods.EXTENSIONS, penalties.EXTENSIONS, MEASURE_EXTENSIONS)
    return tuple(line for found in groups for line in found.broken.values())


MODELS: dict[str, Entry] = {
    "clipdrift/mini": Entry("shipped: 6 blocks, 4 heads, 49 patches of 56x56 pixels; knows coloured shapes"),
    "clipdrift/mini-photo": Entry("shipped: the same shape; knows the hundred classes of CIFAR-100"),
    "openai/clip-vit-base-patch32": Entry(
        "12 blocks, 12 heads, 49 patches; from the hub", "Radford et al. 2021"
    ),
    "openai/clip-vit-base-patch16": Entry(
        "12 blocks, 12 heads, 196 patches; from the hub", "Radford et al. 2021"
    ),
    "google/siglip-base-patch16-224": Entry(
        "12 blocks, 12 heads, 196 patches; from the hub; read and compare only", "Zhai et al. 2023"
    ),
    "any other Hugging Face CLIP": Entry("hub id or directory"),
}
