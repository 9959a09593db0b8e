"""Whether a system differs from a baseline by more than chance: paired permutation tests, corrected by Holm.

The test (Noreen 1989; Fisher's for pairs) asks how often a difference at least as large would come about if the labels
of the two systems meant nothing: all utterances of a speaker swap systems together, since they are not independent.
With up to 13 speakers all swaps are counted and the p value is exact, else 9,999 are drawn from a fixed seed. It is
two-sided, and no p value can be below 2 / 2^speakers: with five speakers or fewer
nothing reaches 0.05. Where the speaker is not known, utterances swap on their own.

Beside the test over speakers stands one over utterances, in which each swaps on its own. It says something of these
voices, not of others: with few speakers it is all that can be said.

Holm's correction (1979) holds the chance of one false mark or more at 5% for a family: all systems that are compared
with the baseline in one metric on one test set under one protocol. Metrics are not corrected for one another. Controls
are compared, but are of no family: that clean speech is better than a mixture is no finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metis_lightning.evaluate.results.intervals import mean_interval
from metis_lightning.evaluate.results.stats import Row, cluster, clusters_of, counts_of, estimate, value

SEED = 0
PERMUTATIONS = 9999
LEVEL = 0.05

# Swaps that are held in memory at once, times clusters.
_BATCH_CELLS = 2**21

_ROUNDING = 1e-12

Key = tuple[str, str]


@dataclass(frozen=True)
class _Term:
    """What an utterance adds to a ratio of sums, and what it is swapped with."""

    numerator: float
    denominator: float
    cluster: Hashable


def paired_difference(rows: Sequence[Row], metric: str, system_a: str, system_b: str) -> Row:
    """Compare two systems of one list of rows; see `compare_rows`.

    Returns:
        What `compare_rows` returns, with `system_a` and `system_b`.

    Raises:
        ValueError: a system has two rows for one utterance and seed.
    """
    a, b = ([row for row in rows if row["system"] == system] for system in (system_a, system_b))
    return {"system_a": system_a, "system_b": system_b, **compare_rows(a, b, metric)}


def compare_rows(a: Iterable[Row], b: Iterable[Row], metric: str) -> Row:
    """Compare two systems on the utterances that both have a value for: a minus b.

    An utterance with several seeds counts once, with the mean of those that have a value. Error rates are compared as
    the tables show them, over the corpus: the difference of the edits over the words.

    Args:
        a: rows of one system.
        b: rows of another, of the same test sets.
        metric: the column.

    Returns:
        `metric, n, n_missing` (utterances of either without a pair), `n_clusters`, and in `clusters` whether those are
        speakers or utterances; `mean, ci95_low, ci95_high` of the difference, and `p`, which is None with fewer than
        two clusters. The same over utterances is `utterances_ci95_low`, `utterances_ci95_high` and `p_utterances`.

    Raises:
        ValueError: there are two rows for one utterance and seed, or the systems were held against different texts.
    """
    a = list(a)
    of_a, of_b = _terms(a, metric), _terms(b, metric)
    pairs = [(x, y) for key, x in of_a.items() if x and (y := of_b.get(key))]
    if any(x.denominator != y.denominator for x, y in pairs):
        raise ValueError(f"{metric}: the systems were held against different texts")
    differences, clusters = [x.numerator - y.numerator for x, y in pairs], [x.cluster for x, _ in pairs]
    weights, alone = [x.denominator for x, _ in pairs], range(len(pairs))
    _, over_utterances = mean_interval(differences, weights, alone)
    return {
        "metric": metric,
        "n": len(differences),
        "n_missing": len(of_a.keys() | of_b.keys()) - len(differences),
        "n_clusters": len(set(clusters)),
        "clusters": clusters_of(a),
        **estimate(*mean_interval(differences, weights, clusters)),
        "p": paired_test(differences, clusters),
        "utterances_ci95_low": over_utterances[0],
        "utterances_ci95_high": over_utterances[1],
        "p_utterances": paired_test(differences, alone),
    }


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
    extreme = int((null >= observed - _ROUNDING * np.abs(totals).sum()).sum())
    # Of swaps that were drawn, what was seen is one more.
    drawn = int(len(null) == PERMUTATIONS)
    return (extreme + drawn) / (len(null) + drawn)


def _swapped_sums(totals_G: np.ndarray) -> np.ndarray:
    """Return the sum of the differences (G,) after each of all 2^G swaps; after `PERMUTATIONS` drawn ones if fewer."""
    count = len(totals_G)
    if 2**count <= PERMUTATIONS:
        swaps = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return np.asarray(totals_G.sum() - 2 * swaps @ totals_G)
    random, width = np.random.default_rng(SEED), -(-count // 8)
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
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p))
        corrected[index] = floor
    return corrected


def against_baseline(systems: Sequence[Sequence[Row]], baseline: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    """Compare several systems with a baseline in one metric.

    Returns:
        For each system the record of `compare_rows` with `p_holm` and `p_utterances_holm`, in which all of `systems`
        are one family.
    """
    records = [compare_rows(rows, baseline, metric) for rows in systems]
    corrected = [holm([record[key] for record in records]) for key in ("p", "p_utterances")]
    return [
        {**record, "p_holm": p, "p_utterances_holm": p_utterances}
        for record, p, p_utterances in zip(records, *corrected, strict=True)
    ]


def _terms(rows: Iterable[Row], metric: str) -> dict[Key, _Term | None]:
    """Return the term of each utterance, by test set and id; None where it has no value.

    Raises:
        ValueError: there are two rows for one utterance and seed.
    """
    found: dict[Key, dict[Hashable, Row]] = defaultdict(dict)
    for row in rows:
        key = (row["test_set"], row["id"])
        if found[key].setdefault(row.get("seed"), row) is not row:
            raise ValueError(f"{row['system']} has two rows for {key}")
    return {key: _term([*by_seed.values()], metric) for key, by_seed in found.items()}


def _term(rows: Sequence[Row], metric: str) -> _Term | None:
    """Return the term of one utterance's rows, one a seed."""
    measured = [row for row in rows if value(row, metric) is not None]
    if not measured:
        return None
    first = measured[0]
    counts = [pair for row in measured if (pair := counts_of(row, metric))]
    if counts:
        return _Term(sum(edits for edits, _ in counts) / len(counts), counts[0][1], cluster(first))
    return _Term(sum(row["metrics"][metric] for row in measured) / len(measured), 1, cluster(first))
