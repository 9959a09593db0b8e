"""Tables as records: one for each of the paper's numbers and each of ours, with all that is known of it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.results.columns import Column
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.tables.benchmarks import Benchmark, origin_of
from metis_lightning.evaluate.tables.layout import plain
from metis_lightning.evaluate.tables.matching import Beside, Measured, beside, results_for
from metis_lightning.evaluate.tables.result_sections import ABOVE_HALF, MEASURED, Group

FIELDS = (
    "table", "kind", "task", "test_set", "system", "train_data", "metric", "unit", "paper", "paper_ci95",
    "run", "our_test_set", "our_system", "column", "ours", "ci95_low", "ci95_high", "n_clusters", "clusters",
    "difference", "n", "n_failed", "n_infinite", "n_not_applicable", "n_common", "n_items",
    "n_utterances", "n_test_set", "baseline", "baseline_difference", "n_pairs",
    "p", "p_holm", "p_utterances", "p_utterances_holm",
    "protocol", "fingerprint", "notes",
)  # fmt: skip
"""Columns of the CSV. `kind` is "paper" (the paper's row, with ours where there is one) or "ours" (all our results)."""

# What a spreadsheet would take for a formula, at the start of a field.
_FORMULA = re.compile(r"[=+\-@＝＋－＠]")

Record = dict[str, Any]


def to_csv(benchmark: Benchmark, results: Sequence[Result], groups: Sequence[Group]) -> str:
    """Return a table as CSV with a header; what is not known is empty, an infinite mean is "inf"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in (*_paper_records(benchmark, results), *(record for group in groups for record in _ours(group))):
        writer.writerow({"table": benchmark.table} | {key: _text(value) for key, value in record.items()})
    return text.getvalue()


def _paper_records(benchmark: Benchmark, results: Sequence[Result]) -> Iterable[Record]:
    """Yield a record for each of the paper's numbers; several, if several results stand beside it."""
    for row in benchmark.rows:
        found: list[Result | None] = [*results_for(benchmark, row, results)]
        for result in found or [None]:
            for cell in beside(benchmark, row, result):
                if cell.metric in row["metrics"]:
                    yield _paper_record(benchmark, row, cell, result)


def _paper_record(benchmark: Benchmark, row: Mapping[str, Any], cell: Beside, result: Result | None) -> Record:
    """Return one of the paper's numbers with a result of ours."""
    remarks = [
        note.text
        for note in benchmark.notes
        if note.is_on(row, cell.metric) or note.is_on(row, None) or note.is_on_column(cell.metric) or not note.where
    ]
    record = {
        "kind": "paper",
        "task": row.get("task", benchmark.ours and (benchmark.ours.rows_task or benchmark.ours.task)),
        "test_set": row["test_set"],
        "system": row["system"],
        "train_data": row.get("train_data"),
        "metric": cell.metric,
        "unit": Column.of(cell.metric).unit,
        "paper": cell.paper,
        "paper_ci95": cell.paper_ci95,
        "difference": cell.difference,
        "notes": " ".join([*remarks, *origin_of(row), *cell.caveats, *cell.gaps]),
    }
    return record | _measured(cell.ours) | _origin(result)


def _ours(group: Group) -> Iterable[Record]:
    """Yield a record for each metric of each of our results; two for word errors, which are counted in two ways."""
    for result in group.results:
        for metric, summary in result.metrics.items():
            quantity, tested = Column.of(metric).quantity, _tested(group, result, metric)
            items = {key: summary[key] for key in ("n_common", "n_items")}
            if "corpus" not in summary:
                yield _our_record(result, metric, "mean", quantity) | items | tested
                continue
            yield _our_record(result, metric, "corpus", quantity) | items | tested
            yield _our_record(result, metric, "mean", f"{quantity} (mean of utterances)") | items
            for key, name in (("measured_corpus", MEASURED), ("share_above_50", ABOVE_HALF)):
                yield _part(result, metric, key, f"{quantity} ({name})")


def _our_record(result: Result, metric: str, counted: str, name: str) -> Record:
    """Return one metric of a result under a name."""
    column = Column.of(metric)
    measured = Measured.of(result.metrics, metric, column.scale, counted)
    own = {"kind": "ours", "task": result.task, "metric": name, "unit": column.unit}
    return own | _measured(measured) | _origin(result)


def _part(result: Result, metric: str, key: str, name: str) -> Record:
    """Return a number of a summary that has no interval."""
    column, summary = Column.of(metric), result.metrics[metric]
    count = summary["measured_n"] if key.startswith("measured") else summary["n"]
    mean = None if summary[key] is None else column.scale * summary[key]
    own = {"kind": "ours", "task": result.task, "metric": name, "unit": column.unit, "column": metric}
    return own | {"ours": mean, "n": count} | _origin(result)


def _tested(group: Group, result: Result, metric: str) -> Record:
    """Return how a metric of a result compares with the baseline's."""
    found = group.comparisons.get((result.run, result.system, metric))
    if found is None or group.baseline is None:
        return {}
    difference = None if found["mean"] is None else Column.of(metric).scale * found["mean"]
    names = {"baseline": group.baseline.system, "baseline_difference": difference, "n_pairs": found["n"]}
    return names | {key: found[key] for key in ("p", "p_holm", "p_utterances", "p_utterances_holm")}


def _measured(ours: Measured | None) -> Record:
    """Return the fields of our number."""
    if ours is None:
        return {}
    return {
        "column": ours.column,
        "ours": math.inf if ours.is_infinite else ours.mean,
        "ci95_low": ours.low,
        "ci95_high": ours.high,
        "n_clusters": ours.n_clusters,
        "clusters": ours.clusters,
        "n": ours.n,
        "n_failed": ours.n_failed,
        "n_infinite": ours.n_infinite,
        "n_not_applicable": ours.n_not_applicable,
    }


def _origin(result: Result | None) -> Record:
    """Return where our number comes from."""
    if result is None:
        return {}
    return {
        "run": result.run,
        "our_test_set": result.test_set,
        "our_system": result.system,
        "n_utterances": result.count,
        "n_test_set": result.protocol.size,
        "protocol": result.protocol.mark,
        "fingerprint": result.protocol.run_fingerprint,
    }


def _text(value: object) -> str:
    """Return a field: numbers to six digits, so that the last bits of a sum do not change a file; no text a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if _FORMULA.match(text) else text
    return format(value, ".6g") if isinstance(value, float) else str(value)
