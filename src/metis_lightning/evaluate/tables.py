"""Results and the paper's rows -> one Markdown file a table; the same input gives the same bytes."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.evaluate.benchmarks import read_benchmarks
from metis_lightning.evaluate.render import Run, render
from metis_lightning.evaluate.results import PROTOCOL, SUMMARY, read_rows
from metis_lightning.evaluate.stats import summarize
from metis_lightning.files import atomic_path

# Parts of a protocol that may differ between the rows of one table: they tell rows apart, not columns.
_PER_RUN = ("systems", "fingerprint")


def run_tables(options: argparse.Namespace) -> None:
    """Run the verb `tables`.

    Raises:
        UserError: there are no results, or no tables of the paper.
    """
    for path in write_tables(options.results, options.out, options.benchmarks):
        print(f"table: {path}")


def write_tables(results_dir: Path, out_dir: Path, benchmarks: Path) -> list[Path]:
    """Write the tables that a run of ours has rows for.

    Args:
        results_dir: one folder a run, as `evaluate` writes them.
        out_dir: where the tables go, under the names of the benchmark files.
        benchmarks: the folder of the paper's rows.

    Returns:
        The files written, in the order of the paper.

    Raises:
        UserError: there are no results, or no tables of the paper.
    """
    runs = find_runs(results_dir)
    written = []
    for benchmark in read_benchmarks(benchmarks):
        ours = [run for run in runs if benchmark.ours and run.task == benchmark.ours.task]
        if ours:
            path = out_dir / f"{benchmark.name}.md"
            with atomic_path(path) as temporary:
                temporary.write_text(render(benchmark, ours), encoding="utf-8")
            written.append(path)
    return written


def find_runs(results_dir: Path) -> list[Run]:
    """Return the finished runs of a folder by name; of an unfinished one, say that it is left out.

    Raises:
        UserError: there is no finished run.
    """
    runs: list[Run] = []
    for path in sorted(results_dir.glob(f"*/{PROTOCOL}")):
        if (path.parent / SUMMARY).is_file():
            runs += _read_run(path.parent)
        else:
            print(f"metis-lightning: {path.parent} is left out: the run is not finished", file=sys.stderr)
    if not runs:
        raise UserError(f"no results in {results_dir}: run `python -m metis_lightning evaluate --task tse` first")
    return runs


def _read_run(folder: Path) -> list[Run]:
    """Return a run, one part for each of its tasks."""
    protocol = json.loads((folder / PROTOCOL).read_text(encoding="utf-8"))
    shared = {key: value for key, value in protocol.items() if key not in _PER_RUN}
    groups = defaultdict(list)
    for group in summarize(read_rows(folder), by=("task", "test_set", "system")):
        groups[group["task"]].append(group)
    return [Run(folder.name, task, shared, tuple(part)) for task, part in sorted(groups.items())]
