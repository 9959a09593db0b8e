"""Planted truths: no difference is not found beyond the stated rate, a difference is found at the stated power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metis_lightning.evaluate.results.estimates import mean_interval
from metis_lightning.evaluate.results.intervals import compare_rows, paired_test
from metis_lightning.evaluate.results.power import detectable, resolution, tost
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.metrics.metric import Column

RUNS, SPEAKERS, EACH = 1000, 10, 6
CLUSTERS = [speaker for speaker in range(SPEAKERS) for _ in range(EACH)]
# Of a share in so many runs, three standard deviations.
SLACK = 3 * math.sqrt(0.05 * 0.95 / RUNS)


def differences(true: float, random: np.random.Generator, sizes: list[int] | None = None) -> np.ndarray:
    """Return paired differences whose speakers spread by 0.5, and their utterances by 1 about them."""
    counts = sizes or [EACH] * SPEAKERS
    return np.concatenate([true + random.normal(0, 0.5) + random.normal(0, 1, count) for count in counts])


def test_equal_systems_are_called_different_at_the_stated_rate_only() -> None:
    random = np.random.default_rng(1)
    p = [paired_test(differences(0.0, random).tolist(), CLUSTERS) or 0.0 for _ in range(RUNS)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + SLACK
    # Speakers of unequal numbers of utterances change nothing.
    sizes = [2, 3, 4, 5, 6, 6, 7, 8, 9, 10]
    clusters = [speaker for speaker, count in enumerate(sizes) for _ in range(count)]
    p = [paired_test(differences(0.0, random, sizes).tolist(), clusters) or 0.0 for _ in range(RUNS)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + SLACK


def test_systems_of_the_same_outputs_are_never_called_different() -> None:
    column = Column("X", "X")
    random = np.random.default_rng(2)
    for _ in range(20):
        values = random.normal(size=len(CLUSTERS))
        a, b = (
            [
                ResultRow(f"u{i}", "se", "t", system, speaker=str(speaker), metrics={"X": float(value)})
                for i, (value, speaker) in enumerate(zip(values, CLUSTERS, strict=True))
            ]
            for system in "ab"
        )
        compared = compare_rows(a, b, column)
        assert (compared.mean, compared.p, compared.p_utterances) == (0.0, 1.0, 1.0)
        assert (compared.shown.equivalent_within, compared.shown.detectable) == (0.0, 0.0)


def test_a_planted_difference_is_found_at_the_stated_power() -> None:
    random = np.random.default_rng(3)
    # The true error of the mean: of speakers, and of utterances within them.
    error = math.sqrt(0.5**2 / SPEAKERS + 1 / len(CLUSTERS))
    planted = detectable(error, SPEAKERS - 1)
    by_interval = by_permutation = 0
    for _ in range(RUNS):
        values = differences(planted, random).tolist()
        _, (low, _high) = mean_interval(values, [1] * len(values), CLUSTERS)
        by_interval += low is not None and low > 0
        by_permutation += (paired_test(values, CLUSTERS) or 1.0) < 0.05
    assert by_interval / RUNS == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / RUNS))
    assert by_permutation / RUNS == pytest.approx(0.8, abs=0.05)


def test_half_of_what_can_be_shown_is_mostly_missed() -> None:
    random = np.random.default_rng(4)
    error = math.sqrt(0.5**2 / SPEAKERS + 1 / len(CLUSTERS))
    planted = detectable(error, SPEAKERS - 1) / 2
    found = [(paired_test(differences(planted, random).tolist(), CLUSTERS) or 1.0) < 0.05 for _ in range(300)]
    assert np.mean(found) < 0.45


def test_systems_that_differ_by_the_bound_are_called_equivalent_at_the_stated_rate_only() -> None:
    random = np.random.default_rng(5)
    claimed = 0
    for _ in range(RUNS):
        found = resolution(differences(1.0, random).tolist(), [1] * len(CLUSTERS), CLUSTERS)
        claimed += (found.equivalent_within or math.inf) < 1.0
    assert claimed / RUNS <= 0.05 + SLACK
    equal = [
        (resolution(differences(0.0, random).tolist(), [1] * len(CLUSTERS), CLUSTERS).equivalent_within or 9) < 1.0
        for _ in range(200)
    ]
    assert np.mean(equal) > 0.9, "and equal ones are, if the bound is wide"


def test_the_least_difference_is_that_of_the_tables() -> None:
    # Power of the paired t test, by the noncentral t distribution.
    for clusters in (5, 6, 10, 20, 40):
        freedom = clusters - 1
        shift = detectable(1.0, freedom)
        edge = stats.t.ppf(0.975, freedom)
        power = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
        assert power == pytest.approx(0.8, abs=1e-3)


def test_equivalence_equals_two_one_sided_t_tests() -> None:
    values = np.random.default_rng(6).normal(0.1, 0.5, 12)
    upper = stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    lower = stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    error = values.std(ddof=1) / math.sqrt(12)
    assert tost(values.mean(), error, 11, 0.5) == pytest.approx(max(upper, lower))
    found = resolution(values.tolist(), [1] * 12, range(12))
    assert tost(values.mean(), error, 11, found.equivalent_within or 0.0) == pytest.approx(0.05)
    d = values.mean() / values.std(ddof=1)
    assert found.effect_size == pytest.approx(d * (1 - 3 / (4 * 11 - 1)))


def test_too_few_speakers_show_nothing() -> None:
    found = resolution([1.0, 2.0, 3.0, 4.0], [1] * 4, "abcd")
    assert (found.equivalent_within, found.effect_size, found.detectable) == (None, None, None)


def test_voices_of_one_mixture_are_swapped_together() -> None:
    column = Column("X", "X")

    def rows(system: str, better: float) -> list[ResultRow]:
        return [
            ResultRow(
                f"m{mixture}_s{voice}",
                "tse",
                "t",
                system,
                speaker=f"{mixture}{voice}",
                facts={"mixture": f"m{mixture}"},
                metrics={"X": better * (1 + mixture)},
            )  # fmt: skip
            for mixture in range(6)
            for voice in range(2)
        ]

    compared = compare_rows(rows("a", 1.0), rows("b", 0.0), column)
    assert compared.p_mixtures == pytest.approx(2 / 2**6)
    assert compared.p == pytest.approx(2 / 2**12)
    alone = [
        ResultRow(r.id, r.task, r.test_set, r.system, speaker=r.speaker, metrics=r.metrics) for r in rows("a", 1.0)
    ]
    assert compare_rows(alone, rows("b", 0.0), column).p_mixtures is None
