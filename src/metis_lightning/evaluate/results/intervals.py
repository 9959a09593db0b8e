"""Estimates over clusters of rows: ratios of sums with 95% intervals, and paired differences with their tests.

A cluster is a speaker with all its utterances, which are alike: taken for independent, they would claim more certainty.

Tests (Noreen 1989; Fisher's for pairs) ask how often a difference at least as large would come about if the labels of
the two systems meant nothing: all utterances of a speaker swap systems together. With up to 13 speakers all swaps are
counted and the two-sided p value is exact, else 9,999 are drawn from a fixed seed. None can be below 2 / 2^speakers:
with five speakers or fewer nothing reaches 0.05. In a second test, which says something of these voices and not of
others, and where the speaker is not known, utterances swap on their own.

Holm's correction (1979) holds the chance of one false mark or more at 5% for a family: all systems but controls that
are compared with the baseline in one metric on one test set under one protocol.

Shape letters: G clusters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metis_lightning.evaluate.results.estimates import LEAST_CLUSTERS, mean_interval
from metis_lightning.evaluate.results.power import Resolution, resolution
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.metrics.metric import Column

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
    # Over mixtures, where several utterances are of one; None elsewhere.
    p_mixtures: float | None = None
    # None of what is in no family.
    p_holm: float | None = None
    p_utterances_holm: float | None = None
    # Over speakers.
    shown: Resolution = Resolution()


@dataclass(frozen=True)
class _Term:
    """Share of an utterance in a ratio of sums, and the cluster that it is swapped with."""

    numerator: float
    denominator: float
    cluster: Hashable
    mixture: Hashable


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
    mixtures = [x.mixture for x, _ in pairs]
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
        p_mixtures=paired_test(differences, mixtures) if len(set(mixtures)) < len(mixtures) else None,
        shown=resolution(differences, weights, clusters),
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
        first = next(iter(by_seed.values()))
        clusters = first.cluster, first.facts.get("mixture", item)
        if counts:
            terms[item] = _Term(sum(each.edits for each in counts) / len(counts), counts[0].length, *clusters)
        else:
            terms[item] = _Term(sum(values) / len(values), 1, *clusters) if values else None
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
