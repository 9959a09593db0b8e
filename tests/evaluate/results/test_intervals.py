"""Intervals that hold the truth as often as they say, paired tests against a baseline, and their correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from metis_lightning.evaluate.results import intervals
from metis_lightning.evaluate.results.estimates import half_widths, mean_interval
from metis_lightning.evaluate.results.intervals import (
    Estimate,
    PairedDifference,
    few_notes,
    holm,
    paired_test,
    too_few,
)
from metis_lightning.evaluate.results.rows import ErrorCounts, ResultRow
from metis_lightning.evaluate.results.summary import column_by_name

CLUSTERS = (5, 6, 8, 13, 20, 40)
REPETITIONS = 6_000

SIZES = {
    "equal": lambda count: np.full(count, 10.0),
    "one to eight": lambda count: np.round(np.geomspace(3, 24, count)),
    "one to thirty": lambda count: np.round(np.geomspace(2, 60, count)),
    "half is one speaker": lambda count: np.array([5.0 * (count - 1), *[5.0] * (count - 1)]),
}

SPREADS = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "exponential": lambda random, shape: random.exponential(size=shape) - 1.0,
    "lognormal": lambda random, shape: random.lognormal(size=shape) - np.exp(0.5),
}


def coverage(count: int, sizes: str, spread: str, within: float = 1.0) -> float:
    """How many intervals hold the truth, 0: speakers differ, and so do the utterances of each."""
    random = np.random.default_rng(count)
    utterances = np.broadcast_to(SIZES[sizes](count), (REPETITIONS, count))
    speakers = SPREADS[spread](random, utterances.shape)
    sums = utterances * speakers + within * np.sqrt(utterances) * random.standard_normal(utterances.shape)
    ratio = sums.sum(axis=1) / utterances.sum(axis=1)
    return float(np.mean(np.abs(ratio) <= half_widths(sums, utterances)))


def estimate(speakers: int) -> Estimate:
    return Estimate(mean=0.5, ci95_low=0.0, ci95_high=1.0, n_clusters=speakers, clusters="speakers")


@pytest.mark.parametrize("sizes", SIZES)
def test_at_least_93_percent_hold_the_truth_from_five_speakers_on(sizes: str) -> None:
    found = {count: coverage(count, sizes, "normal") for count in CLUSTERS}
    assert min(found.values()) >= 0.93, found
    if sizes == "equal":
        assert max(found.values()) <= 0.96, found


def test_utterances_that_are_all_that_differs_are_covered_too() -> None:
    found = {count: coverage(count, "one to eight", "normal", within=20.0) for count in CLUSTERS}
    assert min(found.values()) >= 0.93, found


def test_of_skewed_speakers_fewer_are_held_as_the_note_says() -> None:
    lowest = {spread: min(coverage(count, "equal", spread) for count in CLUSTERS[:4]) for spread in SPREADS}
    assert lowest["normal"] > 0.93 > lowest["exponential"] > 0.89 > lowest["lognormal"] > 0.82
    assert coverage(40, "equal", "exponential") > 0.92
    [note] = few_notes([estimate(6)])
    assert "fewer than 20 speakers" in note and "84 to 92%" in note
    assert few_notes([estimate(20)]) == []


def test_with_clusters_of_one_size_it_is_the_t_interval() -> None:
    sums, sizes = np.array([[3.0, 1.0, 4.0, 1.0, 5.0]]), np.full((1, 5), 2.0)
    expected = t.ppf(0.975, 4) * (sums / 2).std(ddof=1) / np.sqrt(5)
    assert half_widths(sums, sizes) == pytest.approx(expected)


def test_the_degrees_of_freedom_are_those_of_the_quadratic_form() -> None:
    random = np.random.default_rng(3)
    sizes, sums = random.integers(1, 30, (1, 9)).astype(float), random.standard_normal((1, 9))
    share = sizes[0] / sizes.sum()
    centring = np.eye(9) - share
    factor = share**2 / (1 - 2 * share + (share**2).sum())
    form = centring.T @ np.diag(factor) @ centring
    degrees = np.trace(form) ** 2 / np.trace(form @ form)
    ratios = sums[0] / sizes[0]
    assert half_widths(sums, sizes) == pytest.approx(t.ppf(0.975, degrees) * np.sqrt(ratios @ form @ ratios))


def test_below_five_clusters_there_is_none() -> None:
    values = [0.2, 0.4, 0.6, 0.8, 1.0]
    assert mean_interval(values[:4], [1] * 4, "abcd") == (0.5, (None, None))
    mean, (low, high) = mean_interval(values, [1] * 5, "abcde")
    assert (mean, low, high) == (pytest.approx(0.6), pytest.approx(0.2074, abs=1e-3), pytest.approx(0.9926, abs=1e-3))
    assert too_few(4, "speakers") == "No 95% interval: too few speakers (4; it takes 5)."


def row(
    utterance: str,
    value: float | None,
    speaker: str | None = "anna",
    system: str = "nano",
    metric: str = "PESQ",
    wer: ErrorCounts | None = None,
    seed: int | None = None,
) -> ResultRow:
    metrics = {metric: value}
    return ResultRow(utterance, "tse", "test-human", system, speaker=speaker, seed=seed, metrics=metrics, wer=wer)


def compare_rows(a: Sequence[ResultRow], b: Sequence[ResultRow], metric: str) -> PairedDifference:
    return intervals.compare_rows(a, b, column_by_name(metric))


def paired_difference(rows: Iterable[ResultRow], metric: str, *systems: str) -> PairedDifference:
    return compare_rows(*([each for each in rows if each.system == system] for system in systems), metric)


def test_utterances_that_both_have_are_compared() -> None:
    rows = [row("a", 3.0, "anna"), row("b", 5.0, "ben"), row("c", 9.0, "ben"), row("d", None, "anna")]
    rows += [row("a", 1.0, "anna", "input"), row("b", 2.0, "ben", "input"), row("d", 1.0, "anna", "input")]
    result = paired_difference(rows, "PESQ", "nano", "input")
    assert (result.n, result.n_missing, result.n_clusters, result.mean) == (2, 2, 2, 2.5)
    assert (result.ci95_low, result.ci95_high, result.clusters) == (None, None, "speakers")


def test_beside_the_speakers_stand_the_utterances() -> None:
    """Ten utterances of two speakers, all better: of two speakers nothing is known, of these voices it is."""
    ours = [row(f"{index}", 1.0 + index, "anna" if index < 5 else "ben") for index in range(10)]
    base = [row(f"{index}", 0.0, "anna" if index < 5 else "ben", "input") for index in range(10)]
    result = compare_rows(ours, base, "PESQ")
    assert (result.n_clusters, result.p, result.p_utterances) == (2, 0.5, 2 / 2**10)
    half = t.ppf(0.975, 9) * np.std(np.arange(10), ddof=1) / np.sqrt(10)
    assert result.utterances_ci95_low == pytest.approx(5.5 - half)
    assert result.utterances_ci95_high == pytest.approx(5.5 + half)


def test_two_rows_for_one_utterance_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows"):
        paired_difference([row("a", 1.0), row("a", 2.0)], "PESQ", "nano", "input")


def test_seeds_count_as_one_utterance() -> None:
    ours = [row("a", 1.0, seed=0), row("a", 3.0, seed=1), row("a", None, seed=2), row("b", 5.0, "ben", seed=0)]
    base = [row("a", 1.0), row("b", 1.0, "ben")]
    result = compare_rows(ours, base, "PESQ")
    assert (result.n, result.n_missing, result.mean) == (2, 0, 2.5)  # of 2 - 1 and 5 - 1


def test_word_errors_are_compared_over_the_corpus() -> None:
    ours = [
        row("a", 0.5, "anna", metric="WER_x", wer=ErrorCounts(1, 2)),
        row("b", 0.1, "ben", metric="WER_x", wer=ErrorCounts(1, 10)),
    ]
    base = [
        row("a", 0.0, "anna", metric="WER_x", wer=ErrorCounts(0, 2)),
        row("b", 0.3, "ben", metric="WER_x", wer=ErrorCounts(3, 10)),
    ]
    assert compare_rows(ours, base, "WER_x").mean == pytest.approx(-1 / 12)
    base[0] = replace(base[0], wer=ErrorCounts(0, 3))
    with pytest.raises(ValueError, match="different texts"):
        compare_rows(ours, base, "WER_x")


def test_the_p_value_is_that_of_all_sign_changes() -> None:
    differences = [0.9, -0.2, 0.4, 0.3, -0.1, 0.8, 0.25]
    flipped = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=7)]
    expected = np.mean(np.array(flipped) >= abs(sum(differences)) - 1e-12)
    assert paired_test(differences, list("abcdefg")) == pytest.approx(expected)


def test_with_many_speakers_the_p_value_is_near_that_of_the_t_test() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1, size=60)
    p = paired_test(differences.tolist(), list(range(60)))
    assert p == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert paired_test(differences.tolist(), list(range(60))) == p


def test_utterances_of_a_speaker_are_no_evidence_on_their_own() -> None:
    """A hundred utterances that all say the same, of three speakers: 2 of 8 swaps are as extreme."""
    assert paired_test([1.0] * 99, ["a", "b", "c"] * 33) == pytest.approx(0.25)
    assert paired_test([1.0] * 99, list(range(99))) < 0.001


def test_no_difference_and_one_speaker() -> None:
    assert paired_test([0.0, 0.0, 0.0], ["a", "b", "c"]) == 1.0
    assert paired_test([1.0, 2.0], ["a", "a"]) is None


def test_holm_is_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.02]


def test_the_systems_of_one_metric_are_a_family() -> None:
    speakers = [f"speaker {index}" for index in range(8)]
    base = [row(name, 0.0, name, "input") for name in speakers]
    better = [row(name, 1.0 + index, name, "good") for index, name in enumerate(speakers)]
    same = [row(name, (-1.0) ** index, name, "same") for index, name in enumerate(speakers)]
    good, other = intervals.against_baseline([better, same], base, column_by_name("PESQ"))
    assert (good.p, good.p_holm) == (pytest.approx(2 / 2**8), pytest.approx(4 / 2**8))
    assert (other.mean, other.p_holm) == (0.0, 1.0)
    assert (good.p_utterances_holm, other.p_utterances_holm) == (good.p_holm, 1.0)
