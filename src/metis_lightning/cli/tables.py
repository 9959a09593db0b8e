"""The options of `tables`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tables`."""
    add = parser.add_argument
    add(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder of runs, or one run (default: evaluation/results)",
    )
    folders = {
        "--out": ("evaluation/tables", "folder that the tables are written to"),
        "--benchmarks": ("evaluation/benchmarks", "folder with the paper's rows"),
    }
    for option, (default, about) in folders.items():
        add(option, type=Path, default=Path(default), metavar="DIR", help=f"{about} (default: {default})")
    add("--baseline", metavar="S", help="system that ours are tested against (default: as the benchmark file says)")


VERB = Verb(
    name="tables",
    about="write the tables: our results and the paper's",
    examples=(
        "--out evaluation/tables",
        "--results evaluation/results --out evaluation/tables --baseline resynthesis",
    ),
    add_options=add_options,
    run="metis_lightning.evaluate.tables.main:run_tables",
)
