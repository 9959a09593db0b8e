"""The options of `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    add = parser.add_argument
    add("--task", required=True, help="whose results are compared, e.g. tse")
    add("--systems", nargs="+", metavar="S", help="names in the results, or RUN/SYSTEM (default: all)")
    add(
        "--results",
        type=Path,
        default=Path("evaluation/results"),
        metavar="DIR",
        help="folder with one folder a run, or one run (default: evaluation/results)",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the page (default: evaluation/compare/TASK)")
    add("--limit", type=positive, default=50, metavar="N", help="only the N worst utterances (default: 50)")
    add("--sort", metavar="METRIC", help="what worst is, of the first system that is no control (default: WER)")


VERB = Verb(
    name="compare",
    about="listen to systems side by side",
    examples=(
        "--task tse --systems input target nano",
        "--task tse --systems input target nano --sort STOI --limit 20",
    ),
    add_options=add_options,
    run="metis_lightning.evaluate.compare.main:run_compare",
)
