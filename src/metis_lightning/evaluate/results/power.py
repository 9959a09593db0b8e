"""Power of comparisons: bounds of equivalence, sizes of effects, and the least difference to be found.

Two systems are as good as each other within a bound if two one-sided t tests at 5% reject that they differ by more in
either direction (Schuirmann 1987), which is where the 90% interval ends. The effect size is the mean difference over
the standard deviation of the clusters' differences (Cohen's d of pairs, with Hedges' correction for few). The least
difference is that which a two-sided t test at 5% finds in 80% of evaluations of as many clusters that spread as these
do: what is smaller cannot be shown, whatever is true. Clusters are as in `estimates`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from metis_lightning.evaluate.results.estimates import LEAST_CLUSTERS, cluster_sums, standard_errors

LEVEL, POWER = 0.05, 0.8
_STEPS = 4000


@dataclass(frozen=True)
class Resolution:
    """What a paired comparison can show, in the metric's unit; None with fewer than 5 clusters.

    equivalent_within: the least bound within which the systems are shown to be as good as each other.
    effect_size: standardised, positive where the first system is higher.
    detectable: the least difference that is found with a power of 80%.
    """

    equivalent_within: float | None = None
    effect_size: float | None = None
    detectable: float | None = None


def resolution(values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]) -> Resolution:
    """Return what can be shown by paired differences `values` (of edits, if `weights` are words).

    >>> found = resolution([1.0, 2.0, 3.0, 2.0, 2.0], [1] * 5, "abcde")
    >>> [round(value, 2) for value in (found.equivalent_within, found.effect_size, found.detectable)]
    [2.67, 2.26, 1.19]
    """
    numerators, denominators = cluster_sums(values, weights, clusters)
    count = len(numerators)
    if count < LEAST_CLUSTERS:
        return Resolution()
    from scipy.stats import t

    mean = float(numerators.sum() / denominators.sum())
    errors, freedom = (float(each[0]) for each in standard_errors(numerators[None], denominators[None]))
    # All clusters agree, but for rounding.
    if errors <= 1e-9 * abs(mean):
        return Resolution(abs(mean), None, 0.0)
    bound = abs(mean) + float(t.ppf(1 - LEVEL, freedom)) * errors
    # Of the clusters' ratios, about the ratio of all: with clusters of one size the plain standard deviation.
    spread = errors * math.sqrt(count)
    hedges = 1 - 3 / (4 * (count - 1) - 1)
    return Resolution(bound, hedges * mean / spread, detectable(errors, freedom))


def tost(mean: float, error: float, freedom: float, margin: float) -> float:
    """Return the p value of a mean difference being `margin` or more away from 0, given its standard error.

    >>> round(tost(0.0, 1.0, 9.0, 2.0), 4)
    0.0383
    """
    from scipy.stats import t

    sides = (margin - mean) / error, (margin + mean) / error
    return float(max(t.sf(side, freedom) for side in sides))


def detectable(error: float, freedom: float, power: float = POWER) -> float:
    """Return the difference that a t test at 5% finds with a power, given the standard error of the mean difference."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, norm, t

    edge = float(t.ppf(1 - LEVEL / 2, freedom))
    # The estimated error over the true one, at even steps of its distribution.
    shares = (np.arange(_STEPS) + 0.5) / _STEPS
    edges = edge * np.sqrt(chi2.ppf(shares, freedom) / freedom)

    def missing(shift: float) -> float:
        return float(np.mean(norm.sf(edges - shift) + norm.cdf(-edges - shift))) - power

    return float(brentq(missing, 0.0, 100.0 * edge)) * error
