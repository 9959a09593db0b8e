"""Estimates over clusters of rows: ratios of sums with 95% intervals, and paired differences with their tests.

A cluster is a speaker with all its utterances, which are alike: taken for independent, they would claim more certainty.

Intervals: the ratio is linearised, and its error has a t distribution (Bell and McCaffrey, Bias reduction in standard
errors for linear regression with multi-stage samples, 2002), with Satterthwaite's degrees of freedom where what differs
is the speakers. With clusters of one size that is the t interval of the clusters' means. In simulations with normal
speakers 94 to 99% of the intervals hold the truth from 5 clusters on; where a few speakers stand far out 91% (5
exponential speakers), 84% (5 lognormal ones), 93% and 90% (40).

Tests (Noreen 1989; Fisher's for pairs) ask how often a difference at least as large would come about if the labels of
the two systems meant nothing: all utterances of a speaker swap systems together. With up to 13 speakers all swaps are
counted and the two-sided p value is exact, else 9,999 are drawn from a fixed seed. None can be below 2 / 2^speakers:
with five speakers or fewer nothing reaches 0.05. In a second test, which says something of these voices and not of
others, and where the speaker is not known, utterances swap on their own.

Holm's correction (1979) holds the chance of one false mark or more at 5% for a family: all systems but controls that
are compared with the baseline in one metric on one test set under one protocol.

Shape letters: G clusters, B ratios.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.metrics.metric import Column

# With fewer clusters there is no interval: the degrees of freedom are so few that it would span everything.
LEAST_CLUSTERS = 5
# With fewer the interval is noted to rest on its assumptions.
FEW_CLUSTERS = 20
PERMUTATION_SEED = 0
PERMUTATIONS = 9999
LEVEL = 0.05
# Swaps that are held in memory at once, times clusters.
_BATCH_CELLS = 2**21


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval over `n_clusters` "speakers" or "utterances"; None if there is none."""

    mean: float | None
    ci95_low: float | None
    ci95_high: float | None
    n_clusters: int
    clusters: str


def mean_interval(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Return sum(values) / sum(weights) and its 95% interval over clusters; none with fewer than `LEAST_CLUSTERS`.

    >>> mean_interval([1.0, 3.0], [1, 1], ["x", "x"])
    (2.0, (None, None))
    """
    totals: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, weight, cluster in zip(values, weights, clusters, strict=True):
        totals[cluster][0] += value
        totals[cluster][1] += weight
    if not totals:
        return None, (None, None)
    numerators, denominators = np.array(list(totals.values())).T
    mean = float(numerators.sum() / denominators.sum())
    if len(totals) < LEAST_CLUSTERS:
        return mean, (None, None)
    half = float(half_widths(numerators[None], denominators[None])[0])
    return mean, (mean - half, mean + half)


def half_widths(numerators_BG: np.ndarray, denominators_BG: np.ndarray) -> np.ndarray:
    """Return half of the 95% interval of each row's ratio of sums: (B, G) clusters' sums to (B,)."""
    from scipy.stats import t

    total = denominators_BG.sum(axis=1, keepdims=True)
    ratio = numerators_BG.sum(axis=1, keepdims=True) / total
    share = denominators_BG / total
    shares = (share**2).sum(axis=1, keepdims=True)
    # The residual of a cluster is the smaller the larger its share; this undoes it, if clusters' ratios vary alike.
    factor = share**2 / (1.0 - 2.0 * share + shares)
    variance = (factor * (numerators_BG / denominators_BG - ratio) ** 2).sum(axis=1)
    # The degrees of freedom are trace(A)^2 / trace(A A) of the variance as a quadratic form A of the ratios:
    # A = C - c w' - w c' + sum(c) w w', where c are the factors, C has them on its diagonal, and w are the shares.
    whole, crossed, squared = factor.sum(axis=1), (factor * share).sum(axis=1), shares[:, 0]
    trace = whole - 2 * crossed + whole * squared
    trace_of_square = (
        (factor**2).sum(axis=1) * (1 + 2 * squared)
        + 2 * crossed**2
        + (whole * squared) ** 2
        - 4 * (factor**2 * share).sum(axis=1)
        + 2 * whole * (factor * share**2).sum(axis=1)
        - 4 * whole * crossed * squared
    )
    return np.asarray(t.ppf(0.975, trace**2 / trace_of_square) * np.sqrt(variance))


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


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Estimate):
    """A system's metric minus a baseline's, on the `n` utterances that both have a value for."""

    n: int
    n_missing: int
    # None with fewer than two clusters.
    p: float | None
    # The same over utterances instead of speakers.
    utterances_ci95_low: float | None
    utterances_ci95_high: float | None
    p_utterances: float | None
    # None of what is in no family.
    p_holm: float | None = None
    p_utterances_holm: float | None = None


@dataclass(frozen=True)
class _Term:
    """Share of an utterance in a ratio of sums, and the cluster that it is swapped with."""

    numerator: float
    denominator: float
    cluster: Hashable


def against_baseline(
    systems: Sequence[Sequence[ResultRow]], baseline: Sequence[ResultRow], column: Column
) -> list[PairedDifference]:
    """Compare several systems with a baseline in one metric; all of `systems` are one family of Holm's correction."""
    differences = [compare_rows(rows, baseline, column) for rows in systems]
    p_holm = holm([each.p for each in differences])
    p_utterances_holm = holm([each.p_utterances for each in differences])
    return [
        replace(each, p_holm=p, p_utterances_holm=p_utterances)
        for each, p, p_utterances in zip(differences, p_holm, p_utterances_holm, strict=True)
    ]


def compare_rows(a: Sequence[ResultRow], b: Sequence[ResultRow], column: Column) -> PairedDifference:
    """Compare two systems on the utterances that both have a value for: a minus b.

    An utterance with several seeds counts once, with the mean of those that have a value. Error rates are compared over
    the corpus, as the tables show them: the difference of the edits over the words. A ValueError if there are two rows
    for one utterance and seed, or the systems were held against different texts.
    """
    of_a, of_b = _terms(a, column), _terms(b, column)
    pairs = [(x, y) for key, x in of_a.items() if x and (y := of_b.get(key))]
    if any(x.denominator != y.denominator for x, y in pairs):
        raise ValueError(f"{column.name}: the systems were held against different texts")
    differences, clusters = [x.numerator - y.numerator for x, y in pairs], [x.cluster for x, _ in pairs]
    # The weights are the words of the references, which are the same for both systems; 1 of other metrics.
    weights, alone = [x.denominator for x, _ in pairs], range(len(pairs))
    mean, (low, high) = mean_interval(differences, weights, clusters)
    _, over_utterances = mean_interval(differences, weights, alone)
    return PairedDifference(
        mean=mean,
        ci95_low=low,
        ci95_high=high,
        n_clusters=len(set(clusters)),
        clusters="speakers" if all(row.speaker for row in a) else "utterances",
        n=len(differences),
        n_missing=len(of_a.keys() | of_b.keys()) - len(differences),
        p=paired_test(differences, clusters),
        utterances_ci95_low=over_utterances[0],
        utterances_ci95_high=over_utterances[1],
        p_utterances=paired_test(differences, alone),
    )


def _terms(rows: Iterable[ResultRow], column: Column) -> dict[tuple[str, str], _Term | None]:
    """Return the term of each utterance, over its seeds, by test set and id; None where it has no value."""
    by_item: dict[tuple[str, str], dict[int | None, ResultRow]] = defaultdict(dict)
    for row in rows:
        if by_item[row.item].setdefault(row.seed, row) is not row:
            raise ValueError(f"{row.system} has two rows for {row.item}")
    terms: dict[tuple[str, str], _Term | None] = {}
    for item, by_seed in by_item.items():
        values = [value for row in by_seed.values() if (value := row.value(column.name)) is not None]
        counts = [count for row in by_seed.values() if (count := row.counts(column)) is not None]
        cluster = next(iter(by_seed.values())).cluster
        if counts:
            terms[item] = _Term(sum(each.edits for each in counts) / len(counts), counts[0].length, cluster)
        else:
            terms[item] = _Term(sum(values) / len(values), 1, cluster) if values else None
    return terms


def paired_test(differences: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Return the two-sided p value of the mean of paired differences being 0, swapping whole clusters.

    >>> paired_test([1.0, 2.0, 3.0, 4.0], ["a", "b", "c", "d"])
    0.125
    """
    sums: dict[Hashable, float] = defaultdict(float)
    for difference, name in zip(differences, clusters, strict=True):
        sums[name] += difference
    if len(sums) < 2:
        return None
    totals = np.array(list(sums.values()))
    observed, null = abs(totals.sum()), np.abs(_swapped_sums(totals))
    # Sums that are equal but for rounding are as extreme.
    extreme = int((null >= observed - 1e-12 * np.abs(totals).sum()).sum())
    # Of swaps that were drawn, what was seen is one more.
    drawn = int(len(null) == PERMUTATIONS)
    return (extreme + drawn) / (len(null) + drawn)


def _swapped_sums(totals_G: np.ndarray) -> np.ndarray:
    """Return the sum of the differences (G,) after each of all 2^G swaps; after `PERMUTATIONS` drawn ones if fewer."""
    count = len(totals_G)
    if 2**count <= PERMUTATIONS:
        swaps = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return np.asarray(totals_G.sum() - 2 * swaps @ totals_G)
    random, width = np.random.default_rng(PERMUTATION_SEED), -(-count // 8)
    rows = max(1, _BATCH_CELLS // count)
    parts = []
    for start in range(0, PERMUTATIONS, rows):
        bits = np.frombuffer(random.bytes(min(rows, PERMUTATIONS - start) * width), np.uint8).reshape(-1, width)
        parts.append(totals_G.sum() - 2 * np.unpackbits(bits, axis=1, count=count) @ totals_G)
    return np.concatenate(parts)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for being a family (Holm 1979), in the same order; None is not of the family.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    ranked = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, index) in enumerate(ranked):
        floor = max(floor, min(1.0, (len(ranked) - rank) * p))
        corrected[index] = floor
    return corrected
