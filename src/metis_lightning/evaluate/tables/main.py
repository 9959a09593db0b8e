"""`tables`: results and the paper's rows as Markdown, LaTeX and CSV, one file a table, and as one HTML page.

The same input gives the same bytes: nothing in the files says when or where they were written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import render
from metis_lightning.evaluate.options import TablesOptions
from metis_lightning.evaluate.results.runs import find_results
from metis_lightning.evaluate.tables.benchmarks import read_benchmarks
from metis_lightning.evaluate.tables.csv_records import to_csv
from metis_lightning.evaluate.tables.layout import NoteKeys, Table, write_table
from metis_lightning.evaluate.tables.our_results import group_results, result_sections
from metis_lightning.evaluate.tables.paper_rows import paper_section
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
    results = [] if results_dir is None else find_results(results_dir)
    if not results:
        where = results_dir or RESULTS
        print(f"metis-lightning: no finished runs in {where}: the paper's numbers alone", file=sys.stderr)
    systems = sorted({result.system for result in results})
    if baseline is not None and baseline not in systems:
        advice = f"there are {', '.join(systems)}" if systems else "run `python -m metis_lightning evaluate` first"
        raise UserError(f"--baseline {baseline}: no result is of a system with this name; {advice}")
    files, tables = {}, []
    for benchmark in read_benchmarks(benchmarks):
        groups = group_results(results, benchmark.ours, baseline) if benchmark.ours else []
        keys = NoteKeys()
        sections = (paper_section(benchmark, results, keys), *result_sections(groups, keys))
        notes = {key: text for text, key in keys.items()}
        table = Table(benchmark.name, benchmark.table, benchmark.title, sections, notes)
        tables.append(table)
        files[f"{table.name}.csv"] = to_csv(benchmark, results, groups)
        files |= {f"{table.name}.{form}": write_table(table, form) for form in ("md", "tex")}
    files[TABLES_PAGE] = render("tables", "Metis: the paper's tables and ours", tables=tables)
    for name, text in files.items():
        with atomic_path(out_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return [*(out_dir / f"{table.name}.md" for table in tables if table.has_ours), out_dir / TABLES_PAGE]
