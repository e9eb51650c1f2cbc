"""Check a tuned model against rules: measure, estimate the sampling error, judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from clipdrift.comparison import Comparison
from clipdrift.comparison.architectures import Interpolate
from clipdrift.comparison.compare import TransferLike, compare_in_detail, transfer_sets
from clipdrift.comparison.images import ImagesLike
from clipdrift.comparison.measuring import LIMIT
from clipdrift.comparison.models import ModelLike
from clipdrift.comparison.samples import Samples
from clipdrift.config import DataSet
from clipdrift.decision.against import Options, compare_with_baseline, keep_baseline
from clipdrift.decision.asked import RulesLike, needs_flow, needs_spectra, refuse_unmeasurable, rules_given
from clipdrift.decision.baseline import Baseline, read_baseline, write_baseline
from clipdrift.decision.judging import judge, not_checked
from clipdrift.decision.numbers import NotMeasured, number_of, spread_out
from clipdrift.decision.result import Checked, CheckError, RuleResult
from clipdrift.decision.sampling import interval_of
from clipdrift.errors import printable
from clipdrift.rules import Rule
from clipdrift.runs.reporter import Reporter, Silent


def check(
    base: ModelLike | Baseline,
    tuned: ModelLike,
    images: ImagesLike | None,
    rules: RulesLike,
    *,
    transfer: TransferLike | Sequence[TransferLike] = (),
    strict: bool = False,
    save_baseline: str | Path | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    preprocess: object = None,
    any_base: bool = False,
    interpolate: Interpolate | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Checked:
    """Judge whether TUNED keeps what the rules ask for, each number with its 95 % interval over images.

    A rule holds or is broken where the whole interval is on one side of its threshold; else it is not
    resolved, which counts as broken with ``strict`` alone. ``.exit_status`` is 0, 1 or 2 as that of the
    command: kept, broken, could not be told.

    Args:
        base: as in :func:`clipdrift.compare`, or a baseline: what :func:`baseline` has written.
        tuned: as in :func:`clipdrift.compare`.
        images: as there; None: those that a baseline names.
        rules: ``"cka >= 0.9"``, ``"retention/cifar100 >= 90"``, or several.
        transfer: sets for zero-shot rules; with a baseline those it holds, unless some are named.
        strict: what is not resolved is broken.
        save_baseline: keep what was read of BASE in this file, for checks without BASE.
        limit, seed: which images; with a baseline its own.
        batch_size, preprocess, any_base, interpolate, cache, device, skip_bad: as in
            :func:`clipdrift.compare`.

    Raises:
        RuleError, CheckError: a rule that says nothing, one that cannot be measured here, a baseline that is
            damaged or of other images or another model; in one line.
        PairError, ModelError, DataError, ConfigError, MeasureError: as in :func:`clipdrift.compare`.
    """
    asked = rules_given(rules)
    if not asked:
        raise CheckError(
            "no rules: a check that judges nothing would always pass; give for example --min-cka"
        )
    if save_baseline is not None and interpolate == "base":
        raise CheckError("a baseline of an interpolated BASE is not kept; interpolate `tuned`")
    kept = base if isinstance(base, Baseline) else _baseline_in(base)
    sets = transfer_sets(transfer)
    if kept is not None:
        sets = _sets_of(kept, sets)
        if save_baseline is not None:
            raise CheckError("a baseline is made from BASE, not from another baseline")
        if interpolate is not None:
            raise CheckError("interpolating positions needs BASE itself: a baseline is of one image size")
        images = kept.facts.images.source if images is None else images
        limit, seed = kept.facts.limit, kept.facts.seed
    if images is None:
        raise CheckError("no images: name a folder or a data set with --images")
    refuse_unmeasurable(asked, [spec.name for spec in sets])
    options = Options(limit, seed, batch_size, preprocess, cache, device, skip_bad, reporter or Silent())
    if kept is not None:
        found, samples = compare_with_baseline(kept, tuned, images, sets, needs_flow(asked), options)
    else:
        found, samples = compare_in_detail(
            cast(ModelLike, base),
            tuned,
            images,
            transfer=sets,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            flow=needs_flow(asked) or save_baseline is not None,
            spectrum=needs_spectra(asked),
            shown=0,
            preprocess=preprocess,
            any_base=any_base,
            interpolate=interpolate,
            cache=cache,
            device=device,
            skip_bad=skip_bad,
            reporter=reporter,
        )
    if save_baseline is not None:
        _write(save_baseline, found, samples, sets, options)
    options.reporter.stage("sampling error of each rule")
    return judged(asked, found, samples, strict=strict, seed=seed)


def judged(
    rules: Sequence[Rule], found: Comparison, samples: Samples, *, strict: bool = False, seed: int = 0
) -> Checked:
    """Judge rules on a comparison and the samples behind it."""
    results = []
    for rule in spread_out(rules, list(found.transfer)):
        results.append(_result(rule, found, samples, seed))
    checked = Checked(
        base=found.base.name,
        tuned=found.tuned.name,
        source=found.images.source,
        images=found.images.count,
        rules=tuple(results),
        strict=strict,
        notes=found.notes,
        environment=found.environment,
    )
    checked._comparison = found
    return checked


def not_measured(
    rules: Iterable[Rule],
    error: object,
    *,
    base: str,
    tuned: str,
    source: str,
    transfer: Sequence[str] = (),
    strict: bool = False,
    internal: bool = False,
    baseline: str = "",
) -> Checked:
    """A check in which no rule could be checked, because something could not be loaded.

    Args:
        error: why, in one line.
        base, tuned, source: what was to be read, as it was named.
        transfer: names of the transfer sets.
        internal: the error is a mistake of ours.
        baseline: where BASE alone was to be kept.
    """
    reason = printable(str(error))
    return Checked(
        base=base,
        tuned=tuned,
        source=source,
        images=0,
        rules=tuple(not_checked(rule, reason) for rule in spread_out(rules, transfer)),
        strict=strict,
        error=reason,
        internal=internal,
        baseline=baseline,
    )


def baseline(
    path: str | Path,
    base: ModelLike,
    images: ImagesLike,
    *,
    transfer: TransferLike | Sequence[TransferLike] = (),
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    preprocess: object = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Keep in one file what a check needs of BASE, so that later checks need no backbone.

    Arguments are those of :func:`check`.
    """
    options = Options(limit, seed, batch_size, preprocess, cache, device, skip_bad, reporter or Silent())
    return keep_baseline(path, base, images, transfer_sets(transfer), options)


def _result(rule: Rule, found: Comparison, samples: Samples, seed: int) -> RuleResult:
    try:
        number = number_of(found, rule)
    except NotMeasured as why:
        return not_checked(rule, str(why))
    return judge(rule, number.value, interval_of(rule, number, samples, seed))


def _baseline_in(base: object) -> Baseline | None:
    """The baseline that is named; None for anything that is a model."""
    if isinstance(base, str | Path) and str(base).endswith(".safetensors"):
        return read_baseline(base)
    return None


def _sets_of(kept: Baseline, sets: Sequence[DataSet]) -> list[DataSet]:
    """The sets to test: those named, which the baseline must have, else all that it has."""
    have = kept.facts.transfer
    for spec in sets:
        if spec.name not in have:
            listed = ", ".join(have) or "none"
            raise CheckError(f"{spec.name}: not in the baseline, whose transfer sets are: {listed}")
    named = [
        spec if spec.per_class else spec.model_copy(update={"per_class": have[spec.name].spec.per_class})
        for spec in sets
    ]
    return named or [entry.spec for entry in have.values()]


def _write(
    path: str | Path, found: Comparison, samples: Samples, sets: Sequence[DataSet], options: Options
) -> None:
    options.reporter.stage(f"writing {path}")
    write_baseline(
        path,
        base=found.base,
        shape=found.shape,
        probe=samples.probe,
        preprocess=samples.preprocess,
        internals=samples.before,
        tested={spec.name: (spec, *samples.zero_shot[spec.name][:2]) for spec in sets},
        limit=options.limit,
        seed=options.seed,
    )
