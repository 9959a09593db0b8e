"""That what is called 95% is: coverage by simulation, over clusters of one size and of several."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from metis_lightning.evaluate.results.estimates import Estimate, few_notes, half_widths, mean_interval, too_few

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
