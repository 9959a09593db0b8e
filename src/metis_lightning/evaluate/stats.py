"""From rows to means with confidence intervals.

Intervals are 95% percentile bootstraps over speakers: utterances of one speaker are alike, so resampling utterances
would claim more certainty than there is. Word error rates are also given over the whole corpus, edits over words.
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
        `corpus` (total edits / total words), `corpus_ci95_low`, `corpus_ci95_high`, `edits` and `words`.
        What cannot be computed is None: a mean of nothing, an interval over fewer than two speakers.
    """
    groups: dict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row)
    return [
        {**dict(zip(by, values, strict=True)), "n_rows": len(group), "metrics": _metrics(group)}
        for values, group in groups.items()
    ]


def paired_difference(rows: Sequence[Row], metric: str, system_a: str, system_b: str) -> Row:
    """Compare two systems on the utterances that both have a value for: the mean of a minus b.

    Returns:
        `metric, system_a, system_b, n, n_missing` (utterances of either without a pair), `mean, ci95_low, ci95_high`.

    Raises:
        ValueError: a system has two rows for one utterance.
    """
    a, b = (_by_utterance(rows, system) for system in (system_a, system_b))
    values = {key: (_value(a[key], metric), _value(b[key], metric)) for key in a if key in b}
    differences = {key: x - y for key, (x, y) in values.items() if x is not None and y is not None}
    mean, interval = mean_interval(
        list(differences.values()), [1] * len(differences), [_cluster(a[key]) for key in differences]
    )
    return {
        "metric": metric,
        "system_a": system_a,
        "system_b": system_b,
        "n": len(differences),
        "n_missing": len(a.keys() | b.keys()) - len(differences),
        **_estimate(mean, interval),
    }


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
    values = [_value(row, name) for row in rows]
    measured = [row for row, value in zip(rows, values, strict=True) if value is not None]
    failed = [row for row, value in zip(rows, values, strict=True) if value is None]
    clusters = [_cluster(row) for row in measured]
    mean, interval = mean_interval([x for x in values if x is not None], [1] * len(measured), clusters)
    reasons = Counter(row["error"].get(name, NOT_MEASURED) for row in failed)
    summary = {
        "n": len(measured),
        "n_failed": len(failed),
        **_estimate(mean, interval),
        "errors": dict(sorted(reasons.items())),
    }
    return summary | _corpus(measured, clusters) if name.startswith("WER_") else summary


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


def _by_utterance(rows: Iterable[Row], system: str) -> dict[tuple[str, str], Row]:
    """Return the rows of a system by test set and id.

    Raises:
        ValueError: there are two rows for one utterance.
    """
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["test_set"], row["id"])
        if row["system"] == system and found.setdefault(key, row) is not row:
            raise ValueError(f"{system} has two rows for {key}")
    return found


def _value(row: Row, metric: str) -> float | None:
    """Return a metric of a row, None if it has none.

    Raises:
        ValueError: the value is not finite, which no metric may give.
    """
    value = row["metrics"].get(metric)
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{metric} of {row['id']} ({row['system']}) is {value}")
    return value


def _cluster(row: Row) -> Hashable:
    """Return what a row is resampled with: its speaker within its test set, or itself."""
    return (row["test_set"], row.get("speaker") or row["id"])


def _estimate(mean: float | None, interval: tuple[float | None, float | None]) -> Row:
    """Return a mean and its interval under their names in summaries."""
    return {"mean": mean, "ci95_low": interval[0], "ci95_high": interval[1]}
