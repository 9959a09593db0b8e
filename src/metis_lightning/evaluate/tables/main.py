"""`tables`: results and the paper's rows as Markdown, LaTeX and CSV, one file a table, and as one HTML page.

The same input gives the same bytes: nothing in the files says when or where they were written.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError, nearest
from metis_lightning.evaluate.html.document import plain, render
from metis_lightning.evaluate.options import BENCHMARKS, TablesOptions
from metis_lightning.evaluate.results.breakdown import Breakdown, breakdown
from metis_lightning.evaluate.results.runs import Result, find_results
from metis_lightning.evaluate.results.summary import column_by_name, word_error_rule
from metis_lightning.evaluate.tables.benchmarks import Benchmark, benchmark_folder, read_benchmarks
from metis_lightning.evaluate.tables.layout import EMPTY, NOT_APPLICABLE, NoteKeys, Table, TableValue, render_text
from metis_lightning.evaluate.tables.our_results import MEASURED, ResultGroup, group_results, result_sections
from metis_lightning.evaluate.tables.paper_rows import paper_cells, paper_section, results_for
from metis_lightning.files import atomic_path, check_output

RESULTS, TABLES = Path("evaluation/results"), Path("evaluation/tables")
TABLES_PAGE, BREAKDOWNS = "tables.html", "breakdowns.csv"
# `kind` is "paper" (the paper's row, with ours where there is one) or "ours" (all our results).
FIELDS = (
    "table", "kind", "task", "test_set", "system", "train_data", "metric", "unit", "paper", "paper_ci95",
    "run", "our_test_set", "our_system", "column", "ours", "ci95_low", "ci95_high", "n_clusters", "clusters",
    "difference", "n", "n_failed", "n_infinite", "n_not_applicable", "n_common", "n_items",
    "n_utterances", "n_test_set", "baseline", "baseline_difference", "n_pairs",
    "p", "p_holm", "p_utterances", "p_utterances_holm", "p_mixtures",
    "effect_size", "equivalent_within", "detectable",
    "protocol", "fingerprint", "notes",
)  # fmt: skip
_P_VALUES = ("p", "p_holm", "p_utterances", "p_utterances_holm", "p_mixtures")
# What a spreadsheet would take for a formula, at the start of a field.
_FORMULA = re.compile(r"[=+\-@＝＋－＠]")

Record = dict[str, Any]


def run_tables(options: TablesOptions) -> None:
    """Run the command `tables`; see `write_tables`."""
    check_output(options.out, is_folder=True)
    results = options.results or (RESULTS if RESULTS.is_dir() else None)
    # One that is named and not there is a mistake.
    folder = benchmark_folder(options.benchmarks) if options.benchmarks == BENCHMARKS else options.benchmarks
    for path in write_tables(results, options.out, folder, options.baseline):
        print(f"table: {path}")
    print(f"every table as md, tex and csv: {options.out}")


def write_tables(results_dir: Path | None, out_dir: Path, benchmarks: Path, baseline: str | None = None) -> list[Path]:
    """Write every table of the paper, and return the Markdown files that have a number of ours, and the page.

    `results_dir` is a folder of runs, or one run; None for the paper's numbers alone. A `UserError` if there is no such
    folder, no table among the `benchmarks`, or no system called `baseline`, which else is as each table says.
    """
    results = [] if results_dir is None else find_results(results_dir)
    if not results:
        where = results_dir or RESULTS
        print(f"metis-lightning: no finished runs in {where}: the paper's numbers alone", file=sys.stderr)
    systems = sorted({result.system for result in results})
    if baseline is not None and baseline not in systems:
        advice = f"there are {', '.join(systems)}" if systems else "run `python -m metis_lightning evaluate` first"
        raise UserError(
            f"--baseline {baseline}: no result is of a system with this name; {advice}{nearest(baseline, systems)}"
        )
    files, tables, paths = {}, [], []
    for benchmark in read_benchmarks(benchmarks):
        groups = group_results(results, benchmark.ours, baseline) if benchmark.ours else []
        keys = NoteKeys()
        sections = (paper_section(benchmark, results, keys), *result_sections(groups, keys))
        notes = {key: text for text, key in keys.items()}
        tables.append(Table(benchmark.name, benchmark.table, benchmark.title, sections, notes))
        files[f"{benchmark.name}.csv"] = _csv(benchmark, results, groups)
        for form in ("md", "tex"):
            files[f"{benchmark.name}.{form}"] = render_text(f"table.{form}", table=tables[-1])
        ours = [cell for section in sections for line in section.lines if line.kind == "ours" for cell in line.cells]
        if any(cell.text not in (EMPTY, NOT_APPLICABLE) for cell in ours):
            paths.append(out_dir / f"{benchmark.name}.md")
    # Rows of earlier versions know nothing that tells utterances apart.
    if parts := [part for result in results for part in breakdown(result)]:
        files[BREAKDOWNS] = _breakdowns(parts)
    files[TABLES_PAGE] = render("tables", "Metis: the paper's tables and ours", tables=tables)
    for name, text in files.items():
        with atomic_path(out_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return [*paths, out_dir / TABLES_PAGE]


def _csv(benchmark: Benchmark, results: Sequence[Result], groups: Sequence[ResultGroup]) -> str:
    """Return a table as CSV with a header; what is not known is empty, an infinite mean is "inf"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    ours = (record for group in groups for result in group.results for record in _our_records(group, result))
    for record in (*_paper_records(benchmark, results), *ours):
        writer.writerow({"table": benchmark.table} | {key: _field(value) for key, value in record.items()})
    return text.getvalue()


def _breakdowns(parts: Sequence[Breakdown]) -> str:
    """Return means by groups of utterances as CSV with a header."""
    text = io.StringIO()
    fields = ("task", "test_set", "run", "system", "metric", "unit", "by", "group")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fields, "mean", "ci95_low", "ci95_high", "n_clusters", "clusters", "n", "n_failed"])
    for part in parts:
        result, summary = part.result, part.summary
        value = TableValue.of(summary, word_error_rule(result.test_set))
        named = (result.task, result.test_set, result.run, result.system, summary.column.name, summary.column.unit)
        counts = (summary.n_clusters, summary.clusters, summary.n, summary.n_failed)
        writer.writerow(map(_field, (*named, part.by, part.group, value.mean, value.low, value.high, *counts)))
    return text.getvalue()


def _paper_records(benchmark: Benchmark, results: Sequence[Result]) -> Iterator[Record]:
    """Yield a record for each of the paper's numbers; several, if several results stand beside it."""
    for row in benchmark.rows:
        matches: list[Result | None] = [*results_for(benchmark, row, results)]
        for result in matches or [None]:
            cells = [cell for cell in paper_cells(benchmark, row, result) if cell.metric in row.metrics]
            for cell in cells:
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
                    "notes": " ".join([*remarks, *cell.caveats, *cell.gaps]),
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
                **{name: getattr(compared, name) for name in _P_VALUES},
                "effect_size": compared.shown.effect_size,
                **{
                    name: None if (value := getattr(compared.shown, name)) is None else column.scale * value
                    for name in ("equivalent_within", "detectable")
                },
            }
        # The CSV has both ways of counting errors; the tables show one.
        yield own | {"metric": column.quantity} | _value_fields(TableValue.of(summary, "corpus")) | items | tested
        if corpus is None:
            continue
        name = f"{column.quantity} (mean of utterances)"
        yield own | {"metric": name} | _value_fields(TableValue.of(summary, "mean")) | items
        for part, value, count in (
            (MEASURED, corpus.measured_corpus, corpus.measured_n),
            ("share of utterances above 50%", corpus.share_above_50, summary.n),
        ):
            number = None if value is None else column.scale * value
            yield own | {"metric": f"{column.quantity} ({part})", "column": column.name, "ours": number, "n": count}


def _value_fields(value: TableValue) -> Record:
    names = ("n_clusters", "clusters", "n", "n_failed", "n_infinite", "n_not_applicable")
    return {
        "column": value.summary.column.name,
        "ours": math.inf if value.is_infinite else value.mean,
        "ci95_low": value.low,
        "ci95_high": value.high,
        **{name: getattr(value.summary, name) for name in names},
    }


def _origin(result: Result) -> Record:
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
