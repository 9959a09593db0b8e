"""From rows to means with confidence intervals (see `intervals`).

A failure never improves a mean. The word and character errors of an output in which nothing can be heard are known: all
words are deleted. Other scores have no worst value, so their means are of the utterances that have one; what compares
systems uses those that all of them have (see `common`). A value that is not there is one of three:

- failed: the system is to blame, as its row's `failed` says;
- infinite: SI-SDR of the reference itself or a multiple of it, which is null in rows, since JSON has no infinity;
- not applicable: the test set lacks the text or the signal, or no recogniser knows the language.

Error rates are given twice: over the corpus, all edits over all words, and as the mean of the utterances' rates. Beside
them stand the same where measured: without outputs in which nothing was heard, and without loops of the recogniser that
were capped. A system that ran with several seeds has several rows an utterance: n counts utterances, means are of rows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from metis_lightning.evaluate.results.intervals import Interval, mean_interval
from metis_lightning.metrics.metric import INFINITE

Row = dict[str, Any]

NOT_MEASURED = "not measured"

OF_THE_TEST_SET = tuple(f"{start} {name}" for name in ("reference", "interferer", "prompt") for start in ("no", "the"))
"""How reasons begin that are of what the test set has or lacks: no failure of a system."""

HALF = 0.5
"""The share of word errors above which an utterance is of the tail that summaries count."""

_RATES = {"WER": ("wer", "words"), "CER": ("cer", "characters")}

_EDITS = ("substitutions", "deletions", "insertions")


def summarize(rows: Iterable[Row], by: Sequence[str] = ("test_set", "system")) -> list[Row]:
    """Summarize every metric of every group of rows.

    Args:
        rows: results rows; `speaker` says which belong together, and a row without it stands for itself.
        by: the keys that make a group.

    Returns:
        One record a group, in the order of first appearance: the values of `by`, `n_rows`, and `metrics`, which has for
        each name what `summary_of` returns.
    """
    groups: dict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row)
    return [
        {
            **dict(zip(by, values, strict=True)),
            "n_rows": len(group),
            "metrics": {name: summary_of(group, name) for name in metrics_of(group)},
        }
        for values, group in groups.items()
    ]


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Return the metrics that any of the rows has, in the order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def summary_of(rows: Sequence[Row], name: str) -> Row:
    """Summarize one metric.

    Returns:
        `n` utterances with a value, `n_failed`, `n_infinite` and `n_not_applicable`, with the reasons of the first and
        the last in `errors` and `not_applicable`; `mean, ci95_low, ci95_high`; `n_clusters`, and in `clusters` whether
        those are speakers or utterances. A `WER_…` or `CER_…` also has `corpus` (total edits / total words),
        `corpus_ci95_low`, `corpus_ci95_high`, `edits` and `words` (or `characters`), `substitutions`, `deletions`,
        `insertions`, `share_above_50` (utterances with more than 50% errors), and `measured_n`, `measured_mean`,
        `measured_corpus`. Where rows have more than one `seed`: `n_seeds`, and `seed_sd`, the standard deviation of
        the means of the seeds. What cannot be computed is None: a mean of nothing, an interval over too few clusters.
    """
    measured, without = _split(rows, name)
    failed = [row for row in rows if name in failed_of(row)]
    infinite = [row for row in without if is_infinite(row, name)]
    absent = [row for row in without if name not in failed_of(row) and not is_infinite(row, name)]
    clusters = [cluster(row) for row in measured]
    values = [row["metrics"][name] for row in measured]
    return {
        "n": len(items_of(measured)),
        "n_failed": len(items_of(failed)),
        "n_infinite": len(items_of(infinite)),
        "n_not_applicable": len(items_of(absent)),
        **estimate(*mean_interval(values, [1] * len(values), clusters)),
        "n_clusters": len(set(clusters)),
        "clusters": clusters_of(measured),
        "errors": _reasons(failed, name),
        "not_applicable": _reasons(absent, name),
        **_over_seeds(measured, name),
        **_errors(measured, name, clusters),
    }


def items_of(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the utterances of rows, of which an utterance has one a seed."""
    return {(row["test_set"], row["id"]) for row in rows}


def counts_of(row: Row, metric: str) -> tuple[float, float] | None:
    """Return the edits and the length of the reference behind an error rate; None for other metrics."""
    key, unit = _RATES.get(metric.partition("_")[0], ("", ""))
    counts = row.get(key) if key and value(row, metric) is not None else None
    return counts and (counts["edits"], counts[unit])


def failed_of(row: Mapping[str, Any]) -> Collection[str]:
    """Return the columns that the system is to blame for; of a row that does not say, what no test set is."""
    if "failed" in row:
        return cast(Collection[str], row["failed"])
    return [name for name, reason in row["error"].items() if not reason.startswith((*OF_THE_TEST_SET, INFINITE))]


def is_infinite(row: Row, metric: str) -> bool:
    """Return whether a metric of a row has no value because it is beyond all."""
    return bool(row["error"].get(metric) == INFINITE)


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
    """Return what a row belongs to: its speaker within its test set, or else its utterance."""
    return (row["test_set"], row.get("speaker") or row["id"])


def clusters_of(rows: Iterable[Row]) -> str:
    """Return what the clusters of rows are: "speakers", or "utterances" where speakers are not known."""
    return "speakers" if all(row.get("speaker") for row in rows) else "utterances"


def estimate(mean: float | None, interval: Interval) -> Row:
    """Return a mean and its interval under their names in summaries."""
    return {"mean": mean, "ci95_low": interval[0], "ci95_high": interval[1]}


def _split(rows: Sequence[Row], name: str) -> tuple[list[Row], list[Row]]:
    """Return the rows with and without a value."""
    found: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        found[value(row, name) is None].append(row)
    return found


def _reasons(rows: Iterable[Row], name: str) -> Row:
    """Return of how many utterances each reason is."""
    pairs = {(row["test_set"], row["id"], row["error"].get(name, NOT_MEASURED)) for row in rows}
    return dict(sorted(Counter(reason for *_, reason in pairs).items()))


def _over_seeds(rows: Sequence[Row], name: str) -> Row:
    """Return how far the means of the seeds are apart; nothing if there are fewer than two seeds."""
    by_seed: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        by_seed[row.get("seed")].append(row["metrics"][name])
    if len(by_seed) < 2:
        return {}
    return {"n_seeds": len(by_seed), "seed_sd": float(np.std([np.mean(part) for part in by_seed.values()], ddof=1))}


def _errors(rows: Sequence[Row], name: str, clusters: Sequence[Hashable]) -> Row:
    """Return an error rate of all rows taken as one text, its parts, its tail, and the same where measured."""
    key, unit = _RATES.get(name.partition("_")[0], ("", ""))
    counts = [counts_of(row, name) for row in rows]
    known = [pair for pair in counts if pair is not None]
    if not key or len(known) < len(counts):
        return {}
    edits, lengths = ([pair[place] for pair in known] for place in (0, 1))
    corpus = estimate(*mean_interval(edits, lengths, clusters))
    heard = [row for row in rows if name not in row["error"]]
    heard_edits, heard_lengths = (
        sum(pair[place] for pair, row in zip(known, rows, strict=True) if name not in row["error"]) for place in (0, 1)
    )
    return {
        "corpus": corpus["mean"],
        "corpus_ci95_low": corpus["ci95_low"],
        "corpus_ci95_high": corpus["ci95_high"],
        "edits": sum(edits),
        unit: sum(lengths),
        **{part: sum(row[key][part] for row in rows) for part in _EDITS if all(part in row[key] for row in rows)},
        "share_above_50": _mean([float(row["metrics"][name] > HALF) for row in rows]),
        "measured_n": len(items_of(heard)),
        "measured_mean": _mean([row["metrics"][name] for row in heard]),
        "measured_corpus": heard_edits / heard_lengths if heard else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
