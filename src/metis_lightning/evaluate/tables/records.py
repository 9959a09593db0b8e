"""Tables as CSV: a record for each of the paper's numbers and each of ours, with all that is known of it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.html.document import plain
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import column_by_name
from metis_lightning.evaluate.tables.benchmarks import Benchmark, origin_notes
from metis_lightning.evaluate.tables.matching import PaperCell, TableValue, paper_cells, results_for
from metis_lightning.evaluate.tables.result_sections import ABOVE_HALF, MEASURED, ResultGroup

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


def to_csv(benchmark: Benchmark, results: Sequence[Result], groups: Sequence[ResultGroup]) -> str:
    """Return a table as CSV with a header; what is not known is empty, an infinite mean is "inf"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    ours = (record for group in groups for result in group.results for record in _our_records(group, result))
    for record in (*_paper_records(benchmark, results), *ours):
        writer.writerow({"table": benchmark.table} | {key: _field(value) for key, value in record.items()})
    return text.getvalue()


def _paper_records(benchmark: Benchmark, results: Sequence[Result]) -> Iterable[Record]:
    """Yield a record for each of the paper's numbers; several, if several results stand beside it."""
    for row in benchmark.rows:
        matched: list[Result | None] = [*results_for(benchmark, row, results)]
        for result in matched or [None]:
            cells = [cell for cell in paper_cells(benchmark, row, result) if cell.metric in row["metrics"]]
            for cell in cells:
                origin = {} if result is None else _origin(result)
                ours = {} if cell.ours is None else _value_fields(cell.ours)
                yield _paper_fields(benchmark, row, cell) | ours | origin


def _paper_fields(benchmark: Benchmark, row: Mapping[str, Any], cell: PaperCell) -> Record:
    """Return the fields of one of the paper's numbers, and what is remarked on it and on ours."""
    remarks = [
        note.text
        for note in benchmark.notes
        if note.is_on(row, cell.metric) or note.is_on(row, None) or note.is_on_column(cell.metric) or not note.where
    ]
    return {
        "kind": "paper",
        "task": benchmark.task_of(row),
        "test_set": row["test_set"],
        "system": row["system"],
        "train_data": row.get("train_data"),
        "metric": cell.metric,
        "unit": column_by_name(cell.metric).unit,
        "paper": cell.paper,
        "paper_ci95": cell.paper_ci95,
        "difference": cell.difference,
        "notes": " ".join([*remarks, *origin_notes(row), *cell.caveats, *cell.gaps]),
    }


def _our_records(group: ResultGroup, result: Result) -> Iterable[Record]:
    """Yield a record for each metric of a result, and for an error rate its mean and its parts, too."""
    for summary in result.metrics.values():
        column, corpus = summary.column, summary.corpus
        own = {"kind": "ours", "task": result.task, "unit": column.unit} | _origin(result)
        items = {"n_common": summary.n_common, "n_items": summary.n_items}
        # The CSV has both ways of counting errors; the tables show one.
        counted = "mean" if corpus is None else "corpus"
        tested = _tested_fields(group, result, column.name)
        yield own | {"metric": column.quantity} | _value_fields(TableValue.of(summary, counted)) | items | tested
        if corpus is None:
            continue
        name = f"{column.quantity} (mean of utterances)"
        yield own | {"metric": name} | _value_fields(TableValue.of(summary, "mean")) | items
        parts = {
            MEASURED: (corpus.measured_corpus, corpus.measured_n),
            ABOVE_HALF: (corpus.share_above_50, summary.n),
        }
        for part, (value, count) in parts.items():
            number = None if value is None else column.scale * value
            yield own | {"metric": f"{column.quantity} ({part})", "column": column.name, "ours": number, "n": count}


def _tested_fields(group: ResultGroup, result: Result, metric: str) -> Record:
    """Return how a metric of a result compares with the baseline's."""
    compared = group.comparisons.get((result.run, result.system, metric))
    if compared is None or group.baseline is None:
        return {}
    scale = result.metrics[metric].column.scale
    return {
        "baseline": group.baseline.system,
        "baseline_difference": None if compared.mean is None else scale * compared.mean,
        "n_pairs": compared.n,
        "p": compared.p,
        "p_holm": compared.p_holm,
        "p_utterances": compared.p_utterances,
        "p_utterances_holm": compared.p_utterances_holm,
    }


def _value_fields(value: TableValue) -> Record:
    """Return the fields of our number."""
    names = ("n_clusters", "clusters", "n", "n_failed", "n_infinite", "n_not_applicable")
    return {
        "column": value.summary.column.name,
        "ours": math.inf if value.is_infinite else value.mean,
        "ci95_low": value.low,
        "ci95_high": value.high,
        **{name: getattr(value.summary, name) for name in names},
    }


def _origin(result: Result) -> Record:
    """Return where our number comes from."""
    return {
        "run": result.run,
        "our_test_set": result.test_set,
        "our_system": result.system,
        "n_utterances": result.count,
        "n_test_set": result.protocol.size,
        "protocol": result.protocol.mark,
        "fingerprint": result.protocol.run_fingerprint,
    }


def _field(value: object) -> str:
    """Return a field: numbers to six digits, so that the last bits of a sum do not change a file; no text a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if _FORMULA.match(text) else text
    return format(value, ".6g") if isinstance(value, float) else str(value)
