"""What is to be known of a section of results beyond its cells: failures, what does not apply, doubts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.results.columns import Column
from metis_lightning.evaluate.results.intervals import few_notes
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.stats import failed_of, value

_NUMBER = re.compile(r"\d+(\.\d+)?")

Comparisons = Mapping[tuple[str, str, str], Mapping[str, Any]]


def remarks(results: Sequence[Result], comparisons: Comparisons) -> list[str]:
    """Return the remarks on results of one test set, compared with a baseline by run, system and metric."""
    limited = [
        f"{_name(result, results)} is limited to {result.count_text} utterances (--limit)"
        for result in results
        if result.is_limited
    ]
    return [
        *limited,
        *(line for result in results for line in _without(result, _name(result, results))),
        *(line for result in results for line in _unknown(result, _name(result, results))),
        *(line for result in results for line in _pairs(result, _name(result, results), comparisons)),
        *few_notes(record for result in results for record in result.metrics.values()),
    ]


def _name(result: Result, results: Sequence[Result]) -> str:
    """Return a system's name, with its run where the name alone does not say which is meant."""
    alike = [other for other in results if other.system == result.system]
    return result.system if len(alike) == 1 else f"{result.run}/{result.system}"


def _without(result: Result, name: str) -> list[str]:
    """Return one line for each reason why values are missing or are the worst."""
    lines = []
    for key, title in (("errors", "Failed"), ("not_applicable", "n/a")):
        by_reason: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for metric, record in result.metrics.items():
            for reason, count in record[key].items():
                by_reason[_NUMBER.sub("…", reason)][reason][metric] = count
        lines += [
            f"{title}: {name}, {_said(kind, found)}: {_listed(found, result)}" for kind, found in by_reason.items()
        ]
    loops = {metric: count for metric in result.metrics if (count := _loops(result, metric))}
    lines += [
        f"{Column.of(metric).name} of {name}: {count} × a loop counts as at most 100%"
        for metric, count in loops.items()
    ]
    return lines


def _said(kind: str, found: Mapping[str, Mapping[str, int]]) -> str:
    """Return a reason; without its numbers where it is there with several."""
    return kind if len(found) > 1 else next(iter(found))


def _listed(found: Mapping[str, Mapping[str, int]], result: Result) -> str:
    """Return how often which metrics have no value for a reason, of which there may be several with other numbers."""
    totals = Counter[str]()
    for counts in found.values():
        totals.update(counts)
    by_count: dict[int, list[str]] = defaultdict(list)
    for metric, count in totals.items():
        by_count[count].append(metric)
    parts = []
    for count, metrics in by_count.items():
        names = "all metrics" if len(metrics) == len(result.metrics) else _names(metrics)
        parts.append(f"{count} × {names}")
    return "; ".join(parts)


def _names(metrics: Iterable[str]) -> str:
    return ", ".join(Column.of(metric).name for metric in metrics)


def _loops(result: Result, metric: str) -> int:
    """Return in how many rows a rate is capped: it has an error beside it which is not the system's."""
    return sum(
        metric in row["error"] and value(row, metric) is not None and metric not in failed_of(row)
        for row in result.rows
    )


def _unknown(result: Result, name: str) -> list[str]:
    """Say that failures are not in an error rate, where rows of an earlier version do not know the words."""
    metrics = [
        metric
        for metric in result.metrics
        if metric.startswith(("WER_", "CER_"))
        and any("cer" not in row and metric in failed_of(row) and value(row, metric) is None for row in result.rows)
    ]
    if not metrics:
        return []
    return [
        f"{_names(metrics)} of {name} leave failed outputs out: its rows are of an earlier version; run evaluate again"
    ]


def _pairs(result: Result, name: str, comparisons: Comparisons) -> list[str]:
    """Say on how many utterances a comparison rests, if not on all that the metric applies to."""
    by_count: dict[tuple[int, int], list[str]] = defaultdict(list)
    for metric, record in result.metrics.items():
        found = comparisons.get((result.run, result.system, metric))
        if found is not None and 0 < found["n"] < record["n_items"]:
            by_count[found["n"], record["n_items"]].append(metric)
    return [
        f"{name} is compared with the baseline on {pairs} of {items} utterances in {_names(metrics)}"
        for (pairs, items), metrics in by_count.items()
    ]
