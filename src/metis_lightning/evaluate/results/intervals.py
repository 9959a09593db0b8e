"""95% intervals of ratios of sums, over clusters of rows that belong together.

A cluster is a speaker with all its utterances: utterances of one speaker are alike, so taking them for independent
would claim more certainty than there is. The ratio is linearised, and its error has a t distribution (Bell and
McCaffrey, Bias reduction in standard errors for linear regression with multi-stage samples, 2002): the variance is
unbiased, and the degrees of freedom are Satterthwaite's, where what differs is the speakers. With clusters of one size
that is the t interval of the clusters' means, with clusters - 1 degrees. Clusters of several sizes have fewer: of six
speakers, one with most of the utterances, little is known. In simulations with normal speakers 94 to 99% of the
intervals hold the truth from 5 clusters on, whatever their sizes. Where a few speakers stand far out fewer do, as of
every such interval: 91% with 5 exponential speakers, 84% with 5 lognormal ones, 93% and 90% with 40.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

# With fewer there is no interval.
LEAST_CLUSTERS = 5

# With fewer the interval is noted to rest on its assumptions.
FEW_CLUSTERS = 20

Interval = tuple[float | None, float | None]

NO_INTERVAL: Interval = (None, None)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval over `n_clusters` "speakers" or "utterances".

    What cannot be computed is None: the mean of nothing, the interval over too few clusters.
    """

    mean: float | None
    ci95_low: float | None
    ci95_high: float | None
    n_clusters: int
    clusters: str


def mean_interval(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float | None, Interval]:
    """Return sum(values) / sum(weights) and its 95% interval over clusters; none with fewer than `LEAST_CLUSTERS`.

    With weights of 1 this is a mean; with edits as values and words as weights, a corpus word error rate.

    >>> mean_interval([1.0, 3.0], [1, 1], ["x", "x"])
    (2.0, (None, None))
    """
    totals: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, weight, cluster in zip(values, weights, clusters, strict=True):
        totals[cluster][0] += value
        totals[cluster][1] += weight
    if not totals:
        return None, NO_INTERVAL
    numerators, denominators = np.array(list(totals.values())).T
    mean = float(numerators.sum() / denominators.sum())
    # With few clusters the degrees of freedom are so few that an interval would span everything.
    if len(totals) < LEAST_CLUSTERS:
        return mean, NO_INTERVAL
    half = float(half_widths(numerators[None], denominators[None])[0])
    return mean, (mean - half, mean + half)


def half_widths(numerators_BG: np.ndarray, denominators_BG: np.ndarray) -> np.ndarray:
    """Return half of the 95% interval of each row's ratio of sums: (B, G) clusters' sums to (B,)."""
    total = denominators_BG.sum(axis=1, keepdims=True)
    ratio = numerators_BG.sum(axis=1, keepdims=True) / total
    share = denominators_BG / total
    shares = (share**2).sum(axis=1, keepdims=True)
    # The residual of a cluster is the smaller the larger its share; this undoes it, if clusters' ratios vary alike.
    factor = share**2 / (1.0 - 2.0 * share + shares)
    variance = (factor * (numerators_BG / denominators_BG - ratio) ** 2).sum(axis=1)
    return np.asarray(t.ppf(0.975, _degrees(share, shares, factor)) * np.sqrt(variance))


def too_few(count: int, clusters: str) -> str:
    """Return why there is no interval over `count` "speakers" or "utterances"."""
    return f"No 95% interval: too few {clusters} ({count}; it takes {LEAST_CLUSTERS})."


def few_notes(estimates: Iterable[Estimate]) -> list[str]:
    """Return how far intervals can be trusted; nothing if all are over enough clusters."""
    few = {each.clusters for each in estimates if each.ci95_low is not None and each.n_clusters < FEW_CLUSTERS}
    return [
        f"Intervals over fewer than {FEW_CLUSTERS} {clusters} are right where {clusters} spread evenly; where a few "
        "stand far out, as in word errors, they hold the truth in 84 to 92% of cases instead of 95%."
        for clusters in sorted(few)
    ]


def _degrees(share: np.ndarray, shares: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom, trace(A)^2 / trace(A A), of the variance as a quadratic form A of the ratios.

    A is C - c w' - w c' + sum(c) w w', where c are the factors, C has them on its diagonal, and w are the shares.
    """
    whole, crossed = factor.sum(axis=1), (factor * share).sum(axis=1)
    squared = shares[:, 0]
    trace = whole - 2 * crossed + whole * squared
    of_square = (
        (factor**2).sum(axis=1) * (1 + 2 * squared)
        + 2 * crossed**2
        + (whole * squared) ** 2
        - 4 * (factor**2 * share).sum(axis=1)
        + 2 * whole * (factor * share**2).sum(axis=1)
        - 4 * whole * crossed * squared
    )
    return np.asarray(trace**2 / of_square)
