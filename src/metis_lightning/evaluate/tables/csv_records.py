"""Tables as CSV: a record for each of the paper's numbers and each of ours, with all that is known of it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from metis_lightning.evaluate.html.document import plain
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import column_by_name
from metis_lightning.evaluate.tables.benchmarks import Benchmark
from metis_lightning.evaluate.tables.layout import TableValue
from metis_lightning.evaluate.tables.our_results import ABOVE_HALF, MEASURED, ResultGroup
from metis_lightning.evaluate.tables.paper_rows import paper_cells, results_for

# `kind` is "paper" (the paper's row, with ours where there is one) or "ours" (all our results).
FIELDS = (
    "table", "kind", "task", "test_set", "system", "train_data", "metric", "unit", "paper", "paper_ci95",
    "run", "our_test_set", "our_system", "column", "ours", "ci95_low", "ci95_high", "n_clusters", "clusters",
    "difference", "n", "n_failed", "n_infinite", "n_not_applicable", "n_common", "n_items",
    "n_utterances", "n_test_set", "baseline", "baseline_difference", "n_pairs",
    "p", "p_holm", "p_utterances", "p_utterances_holm",
    "protocol", "fingerprint", "notes",
)  # fmt: skip

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


def _paper_records(benchmark: Benchmark, results: Sequence[Result]) -> Iterator[Record]:
    """Yield a record for each of the paper's numbers; several, if several results stand beside it."""
    for row in benchmark.rows:
        matches: list[Result | None] = [*results_for(benchmark, row, results)]
        for result in matches or [None]:
            for cell in paper_cells(benchmark, row, result):
                if cell.metric not in row.metrics:
                    continue
                # All that the tables say of this number: in its cell, its row, its column and below.
                places = [(on_row, metric) for on_row in (row, None) for metric in (cell.metric, None)]
                remarks = [note.text for note in benchmark.notes if any(note.is_on(*place) for place in places)]
                record = {
                    "kind": "paper",
                    "task": benchmark.task_of(row),
                    "test_set": row.test_set,
                    "system": row.system,
                    "train_data": row.train_data,
                    "metric": cell.metric,
                    "unit": column_by_name(cell.metric).unit,
                    "paper": cell.paper,
                    "paper_ci95": cell.paper_ci95,
                    "difference": cell.difference,
                    "notes": " ".join([*remarks, *row.origin_notes, *cell.caveats, *cell.gaps]),
                }
                ours = {} if cell.ours is None else _value_fields(cell.ours)
                yield record | ours | ({} if result is None else _origin(result))


def _our_records(group: ResultGroup, result: Result) -> Iterator[Record]:
    """Yield a record for each metric of a result, and for an error rate its mean and its parts, too."""
    for summary in result.metrics.values():
        column, corpus = summary.column, summary.corpus
        own = {"kind": "ours", "task": result.task, "unit": column.unit} | _origin(result)
        items = {"n_common": summary.n_common, "n_items": summary.n_items}
        compared, tested = group.comparisons.get((result.run, result.system, column.name)), {}
        if compared and group.baseline:
            tested = {
                "baseline": group.baseline.system,
                "baseline_difference": None if compared.mean is None else column.scale * compared.mean,
                "n_pairs": compared.n,
                **{name: getattr(compared, name) for name in ("p", "p_holm", "p_utterances", "p_utterances_holm")},
            }
        # The CSV has both ways of counting errors; the tables show one.
        counted = "mean" if corpus is None else "corpus"
        yield own | {"metric": column.quantity} | _value_fields(TableValue.of(summary, counted)) | items | tested
        if corpus is None:
            continue
        name = f"{column.quantity} (mean of utterances)"
        yield own | {"metric": name} | _value_fields(TableValue.of(summary, "mean")) | items
        for part, value, count in (
            (MEASURED, corpus.measured_corpus, corpus.measured_n),
            (ABOVE_HALF, corpus.share_above_50, summary.n),
        ):
            number = None if value is None else column.scale * value
            yield own | {"metric": f"{column.quantity} ({part})", "column": column.name, "ours": number, "n": count}


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
