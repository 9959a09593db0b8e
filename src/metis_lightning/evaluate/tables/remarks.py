"""Remarks under a section of results: failures, what does not apply, doubts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from metis_lightning.evaluate.results.estimates import PairedDifference, few_notes
from metis_lightning.evaluate.results.rows import ERROR_RATES
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import Summary

_NUMBER = re.compile(r"\d+(\.\d+)?")


def remarks(results: Sequence[Result], comparisons: Mapping[tuple[str, str, str], PairedDifference]) -> list[str]:
    """Return the remarks on results of one test set, compared with a baseline by run, system and metric."""
    systems = Counter(result.system for result in results)
    # The run, too, where the name alone does not say which is meant.
    named = [(each.system if systems[each.system] == 1 else f"{each.run}/{each.system}", each) for each in results]
    lines = [
        f"{name} is limited to {result.count_text} utterances (--limit)" for name, result in named if result.is_limited
    ]
    for name, result in named:
        lines += [*_reasons(name, result), *_loops(name, result)]
    for name, result in named:
        lines += _earlier_versions(name, result)
    for name, result in named:
        lines += _pairs(name, result, comparisons)
    return [*lines, *few_notes(summary for result in results for summary in result.metrics.values())]


def _reasons(name: str, result: Result) -> list[str]:
    """Return one line for each reason why values are missing or are the worst; reasons that differ in numbers are one.

    A line says which metrics, and of how many utterances.
    """
    lines = []
    summaries = result.metrics.values()
    for title, tables in (("Failed", [s.errors for s in summaries]), ("n/a", [s.not_applicable for s in summaries])):
        by_kind: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for metric, counts in zip(result.metrics, tables, strict=True):
            for reason, count in counts.items():
                by_kind[_NUMBER.sub("…", reason)][reason][metric] += count
        for kind, by_reason in by_kind.items():
            by_count: dict[int, list[Summary]] = defaultdict(list)
            for metric, count in sum(by_reason.values(), Counter[str]()).items():
                by_count[count].append(result.metrics[metric])
            parts = [
                f"{count} × {'all metrics' if len(metrics) == len(result.metrics) else _labels(metrics)}"
                for count, metrics in by_count.items()
            ]
            reason = kind if len(by_reason) > 1 else next(iter(by_reason))
            lines.append(f"{title}: {name}, {reason}: {'; '.join(parts)}")
    return lines


def _labels(summaries: Iterable[Summary]) -> str:
    return ", ".join(summary.column.label for summary in summaries)


def _loops(name: str, result: Result) -> list[str]:
    """Say in how many rows a rate is capped: it has an error beside it which is not the system's."""
    lines = []
    for metric, summary in result.metrics.items():
        count = sum(
            metric in row.error and row.value(metric) is not None and metric not in row.failed for row in result.rows
        )
        if count:
            lines.append(f"{summary.column.label} of {name}: {count} × a loop counts as at most 100%")
    return lines


def _earlier_versions(name: str, result: Result) -> list[str]:
    """Say that failures are not in an error rate, where rows of an earlier version do not know the words."""
    left_out = [
        summary
        for metric, summary in result.metrics.items()
        if summary.column.quantity in ERROR_RATES
        and any("cer" in row.absent and metric in row.failed and row.value(metric) is None for row in result.rows)
    ]
    advice = "leave failed outputs out: its rows are of an earlier version; run evaluate again"
    return [f"{_labels(left_out)} of {name} {advice}"] if left_out else []


def _pairs(name: str, result: Result, comparisons: Mapping[tuple[str, str, str], PairedDifference]) -> list[str]:
    """Say on how many utterances a comparison rests, if not on all that the metric applies to."""
    by_count: dict[tuple[int, int | None], list[Summary]] = defaultdict(list)
    for metric, summary in result.metrics.items():
        compared = comparisons.get((result.run, result.system, metric))
        if compared is not None and 0 < compared.n < (summary.n_items or 0):
            by_count[compared.n, summary.n_items].append(summary)
    return [
        f"{name} is compared with the baseline on {pairs} of {items} utterances in {_labels(summaries)}"
        for (pairs, items), summaries in by_count.items()
    ]
