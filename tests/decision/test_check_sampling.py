"""Intervals of a check: against SciPy's bootstrap and plain loops, and how often they hold the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from clipdrift import formulas
from clipdrift.comparison import Comparison
from clipdrift.comparison.samples import Samples
from clipdrift.decision.bootstrap import percentiles, resampled, unseen
from clipdrift.decision.numbers import NotMeasured, Number, number_of, spread_out
from clipdrift.decision.sampling import Interval, interval_of
from clipdrift.rules import parse_rule

Detailed = Callable[[float], tuple[Comparison, Samples]]


def estimated(detailed: Detailed, text: str, amount: float = 1.0) -> tuple[Number, Interval, Samples]:
    found, samples = detailed(amount)
    rule = parse_rule(text)
    number = number_of(found, rule)
    return number, interval_of(rule, number, samples), samples


def by_scipy(columns: tuple[np.ndarray, ...], statistic: Any) -> Any:
    return stats.bootstrap(
        columns, statistic, paired=True, vectorized=False, n_resamples=3000, method="percentile",
        rng=np.random.default_rng(1),
    )  # fmt: skip


def ratio(before: np.ndarray, after: np.ndarray) -> float:
    return 100 * float(after.mean() / before.mean())


def alike(found: Interval, theirs: Any) -> None:
    """Two bootstraps of some thousand draws differ by their draws alone."""
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    assert found.standard_error == pytest.approx(theirs.standard_error, rel=0.1)


# --- against SciPy


def test_retention_is_resampled_in_pairs(detailed: Detailed) -> None:
    number, found, samples = estimated(detailed, "retention/colours >= 50")
    test, before, after = samples.zero_shot["colours"]
    labels = torch.from_numpy(test.deck.labels)
    right = [side.right(labels).double().numpy() for side in (before, after)]
    assert number.value == pytest.approx(ratio(*right))
    assert 0 < found.standard_error < 30
    alike(found, by_scipy((right[0], right[1]), ratio))
    apart = stats.bootstrap(
        (right[0], right[1]), ratio, vectorized=False, n_resamples=2000, rng=np.random.default_rng(2)
    )
    assert apart.standard_error > 1.02 * found.standard_error  # as if they were other images


def test_embedding_drift_and_the_change_of_attention(detailed: Detailed) -> None:
    _, found, samples = estimated(detailed, "embedding_drift <= 1")
    before, after = (side.embedding.double().numpy() for side in (samples.before, samples.after))
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    alike(found, by_scipy((1 - (before * after).sum(1) / norms,), np.mean))
    number, found, samples = estimated(detailed, "entropy_drift/block_2 <= 1")
    old, new = (side.attention["entropy"][:, 1] for side in (samples.before, samples.after))
    assert number.value == pytest.approx(ratio(old, new) - 100)
    alike(found, by_scipy((old, new), lambda b, a: ratio(b, a) - 100))


def test_zero_shot_numbers(detailed: Detailed) -> None:
    _, _, samples = estimated(detailed, "cka >= 0")
    test, before, after = samples.zero_shot["colours"]
    old, new = before.logits, after.logits
    values = {
        "zero_shot_accuracy": 100 * after.right(torch.from_numpy(test.deck.labels)).double().numpy(),
        "zero_shot_agreement": (old.argmax(1) == new.argmax(1)).double().numpy(),
        "zero_shot_kl": torch.nn.functional.kl_div(
            new.log_softmax(1), old.log_softmax(1), log_target=True, reduction="none"
        ).sum(1).numpy(),
    }  # fmt: skip
    for name, each in values.items():
        number, found, _ = estimated(detailed, f"{name}/colours <= 0.5 {'%' if 'acc' in name else ''}")
        assert number.value == pytest.approx(each.mean()), name
        alike(found, by_scipy((each,), np.mean))


# --- CKA


def test_cka_is_left_out_image_by_image(detailed: Detailed) -> None:
    """The jackknife of the mean over blocks, by a plain loop."""
    number, found, samples = estimated(detailed, "cka >= 0.5")
    every = torch.arange(samples.before.images)
    pairs = list(zip(samples.before.states, samples.after.states, strict=True))
    left = np.array(
        [np.mean([float(formulas.cka(x[every != i], y[every != i])) for x, y in pairs]) for i in every]
    )
    n = len(every)
    assert found.standard_error == pytest.approx(math.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
    assert found.low < number.value < found.high < 1
    assert number.value - found.low > found.high - number.value  # wider away from 1
    assert found.high - found.low == pytest.approx(4 * found.standard_error, rel=0.2)


def test_the_worst_block_has_its_own_error(detailed: Detailed) -> None:
    found, samples = detailed(1.0)
    blocks = found.measures["cka"].value_blocks
    worst = number_of(found, parse_rule("cka/worst >= 0.5"))
    assert (worst.value, worst.block) == (min(blocks), blocks.index(min(blocks)) + 1)
    best = number_of(found, parse_rule("cka/worst <= 0.5"))
    assert best.value == max(blocks)
    named = parse_rule(f"cka/block_{worst.block} >= 0.5")
    assert interval_of(named, number_of(found, named), samples) == interval_of(
        parse_rule("cka/worst >= 0.5"), worst, samples
    )


# --- coverage


def test_coverage_of_retention() -> None:
    """95 % intervals of pairs that are drawn together hold the true ratio in about that share of samples."""
    generator = np.random.default_rng(5)
    held, samples = 0, 300
    for seed in range(samples):
        before = generator.random(150) < 0.8
        after = np.where(before, generator.random(150) < 0.85, generator.random(150) < 0.1)
        columns = np.stack([before, after], 1).astype(float)
        low, high = percentiles(resampled(columns, lambda m: 100 * m[:, 1] / m[:, 0], seed, 500))
        held += low <= 100 * (0.8 * 0.85 + 0.2 * 0.1) / 0.8 <= high
    assert 0.91 <= held / samples <= 0.985


def test_what_none_of_the_images_showed_is_not_certain() -> None:
    """The exact bound: with that share, none of n images shows it in one of forty samples."""
    assert (1 - unseen(60)) ** 60 == pytest.approx(0.025)
    assert unseen(60) == pytest.approx(stats.beta.ppf(0.975, 1, 60))  # Clopper and Pearson


def test_a_model_that_hardly_moved_is_not_kept_for_certain(detailed: Detailed) -> None:
    number, found, samples = estimated(detailed, "retention/colours >= 99", amount=1e-6)
    images = len(samples.zero_shot["colours"][0].deck)
    assert number.value == 100
    assert found.low < 100 < found.high
    assert "none of" in found.method
    assert 100 - found.low < 100 * 4 / (0.8 * images)
    _, agreement, _ = estimated(detailed, "zero_shot_agreement/colours >= 0.9", amount=1e-6)
    assert agreement.low == pytest.approx(1 - unseen(images))
    assert agreement.high == 1


def test_the_same_model_is_kept_for_certain(detailed: Detailed) -> None:
    for text in (
        "retention/colours >= 99",
        "cka >= 0.999",
        "weight_drift <= 0",
        "zero_shot_agreement/colours >= 1",
    ):
        number, found, _ = estimated(detailed, text, amount=0.0)
        assert found.low == found.high == number.value, text


# --- what has no interval, and what has no number


def test_weights_have_no_sampling_error_and_say_so(detailed: Detailed) -> None:
    for text in (
        "weight_drift <= 1",
        "weight_drift_q/block_1 <= 1",
        "effective_rank <= 99",
        "intruder_dimensions/q <= 9",
    ):
        number, found, _ = estimated(detailed, text)
        assert (found.low, found.high, found.standard_error) == (number.value, number.value, 0.0)
        assert "no sampling" in found.method


def test_some_numbers_have_no_interval_and_say_so(detailed: Detailed) -> None:
    for text in ("cka_biased >= 0.5", "head_diversity_of_mean >= 0", "cka_minibatch/block_1 >= 0"):
        _, found, _ = estimated(detailed, text)
        assert found.low is None
        assert found.resolvable
        assert "no interval" in found.method


def test_every_number_is_that_of_the_comparison(detailed: Detailed) -> None:
    """Rules read what `compare` says, whatever the measure."""
    found, _ = detailed(1.0)
    for name, entry in found.measures.items():
        value = entry.value if entry.value is not None else entry.after
        text = f"{name} >= 0 %" if entry.unit == "%" else f"{name} >= 0"
        assert number_of(found, parse_rule(text)).value == value
        if entry.drift is not None and not entry.absolute:
            assert number_of(found, parse_rule(f"{name}_drift >= 0")).value == entry.drift
    row = found.transfer["colours"]
    ranks = [spectrum.effective_rank for spectrum in found.spectra]
    expected = {
        "retention/colours": row.retention,
        "zero_shot_accuracy/colours": row.after,
        "effective_rank": float(np.mean(ranks)),
        "effective_rank/worst": min(ranks),
        "text_cka": 1.0,  # the text towers are the same
        "text_weight_drift": 0.0,
        "text_entropy_drift": 0.0,
    }
    for name, value in expected.items():
        assert number_of(found, parse_rule(f"{name} >= 0")).value == pytest.approx(value), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cka/block_3 >= 0.5", "the model has 2 blocks"),
        ("retention/other >= 50", "no transfer set other; tested: colours"),
        ("recall_at_1/text_to_image >= 0.5", "no captions"),
        ("accuracy >= 50", "needs a head"),
        ("text_entropy >= 1", "bound its _drift instead"),
        ("weight_drift_projection/worst <= 1", "none for each block"),
        ("weight_drift_drift <= 1", None),
    ],
)
def test_why_there_is_no_number(detailed: Detailed, text: str, said: str | None) -> None:
    if said is None:
        with pytest.raises(ValueError, match="unknown measure"):
            parse_rule(text)
        return
    with pytest.raises(NotMeasured, match=said):
        number_of(detailed(1.0)[0], parse_rule(text))


def test_no_retention_of_what_was_not_there(detailed: Detailed) -> None:
    found, _ = detailed(1.0)
    row = found.transfer["colours"].model_copy(update={"before": 26.0, "retention": 100.0})
    chance = found.model_copy(update={"transfer": {"colours": row}})
    with pytest.raises(NotMeasured, match=r"not above chance \(25.0 %.*not measurable"):
        number_of(chance, parse_rule("retention/colours >= 50"))
    assert number_of(chance, parse_rule("zero_shot_agreement/colours >= 0.5")).value == row.agreement


def test_a_rule_without_a_set_is_one_of_each() -> None:
    rules = [parse_rule(text) for text in ("retention >= 90", "cka >= 0.5", "recall_at_5 >= 0.5")]
    assert [rule.measure for rule in spread_out(rules, ["a", "b"])] == [
        "retention/a", "retention/b", "cka", "recall_at_5/image_to_text", "recall_at_5/text_to_image",
    ]  # fmt: skip
