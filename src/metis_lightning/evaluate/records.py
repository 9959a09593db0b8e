"""Tables as records: one for each of the paper's numbers and each of ours, with all that is known of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.benchmarks import Benchmark
from metis_lightning.evaluate.beside import Beside, Measured, beside, results_for
from metis_lightning.evaluate.columns import Column
from metis_lightning.evaluate.layout import EMPTY
from metis_lightning.evaluate.our_sections import Group
from metis_lightning.evaluate.runs import Result

FIELDS = (
    "table", "kind", "task", "test_set", "system", "train_data", "metric", "unit", "paper", "paper_ci95",
    "run", "our_test_set", "our_system", "column", "ours", "ci95_low", "ci95_high", "difference", "n", "n_failed",
    "baseline", "baseline_difference", "p", "p_holm", "protocol", "fingerprint", "notes",
)  # fmt: skip
"""Columns of the CSV. `kind` is "paper" (the paper's row, with ours where there is one) or "ours" (all our results)."""

Record = dict[str, Any]


def to_csv(benchmark: Benchmark, results: Sequence[Result], groups: Sequence[Group]) -> str:
    """Return a table as CSV with a header; what is not known is "–"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval=EMPTY, lineterminator="\n")
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
        "notes": " ".join([*remarks, *cell.caveats]),
    }
    return record | _measured(cell.ours) | _origin(result)


def _ours(group: Group) -> Iterable[Record]:
    """Yield a record for each metric of each of our results; two for word errors, which are counted in two ways."""
    for result in group.results:
        for metric, summary in result.metrics.items():
            column = Column.of(metric)
            tested = _tested(group, result, metric)
            if "corpus" in summary:
                yield _our_record(result, metric, "corpus", column.quantity) | tested
                yield _our_record(result, metric, "mean", f"{column.quantity} (mean of utterances)")
            else:
                yield _our_record(result, metric, "mean", column.quantity) | tested


def _our_record(result: Result, metric: str, counted: str, name: str) -> Record:
    """Return one metric of a result under a name."""
    column = Column.of(metric)
    measured = Measured.of(result.metrics, metric, column.scale, counted)
    own = {"kind": "ours", "task": result.task, "metric": name, "unit": column.unit}
    return own | _measured(measured) | _origin(result)


def _tested(group: Group, result: Result, metric: str) -> Record:
    """Return how a metric of a result compares with the baseline's."""
    found = group.comparisons.get((result.run, result.system, metric))
    if found is None or group.baseline is None:
        return {}
    difference = None if found["mean"] is None else Column.of(metric).scale * found["mean"]
    names = {"baseline": group.baseline.system, "baseline_difference": difference}
    return names | {key: found[key] for key in ("p", "p_holm")}


def _measured(ours: Measured | None) -> Record:
    """Return the fields of our number."""
    if ours is None:
        return {}
    return {
        "column": ours.column,
        "ours": ours.mean,
        "ci95_low": ours.low,
        "ci95_high": ours.high,
        "n": ours.n,
        "n_failed": ours.n_failed,
    }


def _origin(result: Result | None) -> Record:
    """Return where our number comes from."""
    if result is None:
        return {}
    return {
        "run": result.run,
        "our_test_set": result.test_set,
        "our_system": result.system,
        "protocol": result.protocol.mark,
        "fingerprint": result.protocol.run_fingerprint,
    }


def _text(value: object) -> str:
    """Return a field: numbers to six digits, so that the last bits of a sum do not change a file."""
    if value is None or value == "":
        return EMPTY
    return format(value, ".6g") if isinstance(value, float) else str(value)
