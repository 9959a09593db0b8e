"""From rows to means with confidence intervals.

Intervals are 95% percentile bootstraps (Efron and Tibshirani 1993, ch. 13) of 4,999 draws from a fixed seed, by
`scipy.stats.bootstrap`. What is drawn with replacement is speakers, each with all its utterances: utterances of one
speaker are alike, so drawing utterances would claim more certainty than there is. Where the speaker is not known,
utterances are drawn. The statistic is a ratio of sums, so a speaker counts with the number of its utterances (or
words), and both sums are drawn anew. With few speakers percentile intervals are somewhat too narrow; with one there is
none.

Word error rates are given twice: over the corpus, all edits over all words, and as the mean of the utterances' rates.
A system that ran with several seeds has several rows an utterance; all of them belong to the utterance's speaker.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

Row = dict[str, Any]

SEED = 0
RESAMPLES = 4999
NOT_MEASURED = "not measured"

_NO_INTERVAL = (None, None)


def summarize(rows: Iterable[Row], by: Sequence[str] = ("test_set", "system")) -> list[Row]:
    """Summarize every metric of every group of rows.

    Args:
        rows: results rows; `speaker` says which belong together, and a row without it stands for itself.
        by: the keys that make a group.

    Returns:
        One record a group, in the order of first appearance: the values of `by`, `n_rows`, and `metrics`, which has for
        each name `n, n_failed, mean, ci95_low, ci95_high` and `errors` (how often each reason). A `WER_…` also has
        `corpus` (total edits / total words), `corpus_ci95_low`, `corpus_ci95_high`, `edits` and `words`. Where rows
        have more than one `seed`: `n_seeds`, and `seed_sd`, the standard deviation of the means of the seeds.
        What cannot be computed is None: a mean of nothing, an interval over fewer than two speakers.
    """
    groups: dict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row)
    return [
        {**dict(zip(by, values, strict=True)), "n_rows": len(group), "metrics": _metrics(group)}
        for values, group in groups.items()
    ]


def mean_interval(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Return sum(values) / sum(weights) and its 95% interval from a bootstrap that resamples clusters.

    With weights of 1 this is a mean; with edits as values and words as weights, a corpus word error rate.

    >>> mean_interval([1.0, 3.0], [1, 1], ["x", "x"])
    (2.0, (None, None))
    """
    totals: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, weight, cluster in zip(values, weights, clusters, strict=True):
        totals[cluster][0] += value
        totals[cluster][1] += weight
    if not totals:
        return None, _NO_INTERVAL
    numerators, denominators = np.array(list(totals.values())).T
    mean = float(numerators.sum() / denominators.sum())
    if len(totals) < 2:
        return mean, _NO_INTERVAL
    result = bootstrap(
        (numerators, denominators),
        lambda up, down, axis: up.sum(axis) / down.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return mean, (float(result.low), float(result.high))


def _metrics(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the summary of each metric that any of the rows has."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    return {name: _metric(rows, name) for name in names}


def _metric(rows: Sequence[Row], name: str) -> Row:
    """Return the summary of one metric."""
    values = [value(row, name) for row in rows]
    measured = [row for row, x in zip(rows, values, strict=True) if x is not None]
    failed = [row for row, x in zip(rows, values, strict=True) if x is None]
    clusters = [cluster(row) for row in measured]
    mean, interval = mean_interval([x for x in values if x is not None], [1] * len(measured), clusters)
    reasons = Counter(row["error"].get(name, NOT_MEASURED) for row in failed)
    summary = {
        "n": len(measured),
        "n_failed": len(failed),
        **estimate(mean, interval),
        "errors": dict(sorted(reasons.items())),
        **_over_seeds(measured, name),
    }
    return summary | _corpus(measured, clusters) if name.startswith("WER_") else summary


def _over_seeds(rows: Sequence[Row], name: str) -> Row:
    """Return how far the means of the seeds are apart; nothing if there are fewer than two seeds."""
    by_seed: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        by_seed[row.get("seed")].append(row["metrics"][name])
    if len(by_seed) < 2:
        return {}
    return {"n_seeds": len(by_seed), "seed_sd": float(np.std([np.mean(part) for part in by_seed.values()], ddof=1))}


def _corpus(rows: Sequence[Row], clusters: Sequence[Hashable]) -> Row:
    """Return the word error rate of all rows taken as one text."""
    edits, words = ([row["wer"][key] for row in rows] for key in ("edits", "words"))
    rate, interval = mean_interval(edits, words, clusters)
    return {
        "corpus": rate,
        "corpus_ci95_low": interval[0],
        "corpus_ci95_high": interval[1],
        "edits": sum(edits),
        "words": sum(words),
    }


def value(row: Row, metric: str) -> float | None:
    """Return a metric of a row, None if it has none.

    Raises:
        ValueError: the value is not finite, which no metric may give.
    """
    found = row["metrics"].get(metric)
    if found is not None and not math.isfinite(found):
        raise ValueError(f"{metric} of {row['id']} ({row['system']}) is {found}")
    return found


def cluster(row: Row) -> Hashable:
    """Return what a row is resampled with: its speaker within its test set, or itself."""
    return (row["test_set"], row.get("speaker") or row["id"])


def estimate(mean: float | None, interval: tuple[float | None, float | None]) -> Row:
    """Return a mean and its interval under their names in summaries."""
    return {"mean": mean, "ci95_low": interval[0], "ci95_high": interval[1]}
