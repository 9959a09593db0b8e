"""`tables`: results and the paper's rows as Markdown, LaTeX and CSV, one file a table, and as one HTML page.

The same input gives the same bytes: nothing in the files says when or where they were written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import asset, render
from metis_lightning.evaluate.options import TablesOptions
from metis_lightning.evaluate.results.runs import Result, find_results
from metis_lightning.evaluate.tables.benchmarks import read_benchmarks
from metis_lightning.evaluate.tables.layout import Notes, Table, latex, markdown
from metis_lightning.evaluate.tables.paper_section import paper_section
from metis_lightning.evaluate.tables.records import to_csv
from metis_lightning.evaluate.tables.result_sections import group_results, result_sections
from metis_lightning.files import atomic_path, check_output

RESULTS, TABLES = Path("evaluation/results"), Path("evaluation/tables")
TABLES_PAGE = "tables.html"


def run_tables(options: TablesOptions) -> None:
    """Run the command `tables`.

    Raises:
        UserError: the folder of results that was named is not there, or there are no tables of the paper.
    """
    check_output(options.out, is_folder=True)
    results = options.results or (RESULTS if RESULTS.is_dir() else None)
    for path in write_tables(results, options.out, options.benchmarks, options.baseline):
        print(f"table: {path}")
    print(f"every table as md, tex and csv: {options.out}")


def write_tables(results_dir: Path | None, out_dir: Path, benchmarks: Path, baseline: str | None = None) -> list[Path]:
    """Write every table of the paper, with our results where there are any.

    Args:
        results_dir: one folder a run, as `evaluate` writes them, or one run; None for the paper's numbers alone.
        out_dir: where the tables go, under the names of the benchmark files, and `tables.html`.
        benchmarks: the folder of the paper's rows.
        baseline: the system that our others are tested against; None for each table's own choice.

    Returns:
        The Markdown files that have a number of ours, in the order of the paper, and the page.

    Raises:
        UserError: there is no such folder of results, no tables of the paper, or no system called `baseline`.
    """
    results: list[Result] = [] if results_dir is None else find_results(results_dir)
    if not results:
        where = results_dir or RESULTS
        print(f"metis-lightning: no finished runs in {where}: the paper's numbers alone", file=sys.stderr)
    _check_baseline(baseline, results)
    tables = []
    for benchmark in read_benchmarks(benchmarks):
        groups = group_results(results, benchmark.ours, baseline) if benchmark.ours else []
        notes = Notes()
        sections = (paper_section(benchmark, results, notes), *result_sections(groups, notes))
        table = Table(benchmark.name, benchmark.table, benchmark.title, sections, notes.by_key())
        path = out_dir / f"{benchmark.name}.md"
        _write(path, markdown(table))
        _write(path.with_suffix(".tex"), latex(table))
        _write(path.with_suffix(".csv"), to_csv(benchmark, results, groups))
        tables.append(table)
    title, style = "Metis: the paper's tables and ours", asset("base.css") + asset("tables.css")
    _write(out_dir / TABLES_PAGE, render("tables.html", title, style, tables=tables))
    return [*(out_dir / f"{table.name}.md" for table in tables if table.has_ours), out_dir / TABLES_PAGE]


def _check_baseline(baseline: str | None, results: Sequence[Result]) -> None:
    """Refuse a baseline that no result is of."""
    systems = sorted({result.system for result in results})
    if baseline is not None and baseline not in systems:
        advice = f"there are {', '.join(systems)}" if systems else "run `python -m metis_lightning evaluate` first"
        raise UserError(f"--baseline {baseline}: no result is of a system with this name; {advice}")


def _write(path: Path, text: str) -> None:
    """Write a file that appears only when complete."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
