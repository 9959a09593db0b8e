"""The options of `bench evaluate`."""

from __future__ import annotations

import argparse
import os

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench evaluate`."""
    add = parser.add_argument
    add("--clips", type=positive, default=200, metavar="N", help="clips to score on both sides (default: 200)")
    add("--seconds", type=positive, default=5, metavar="S", help="length of a clip (default: 5)")
    add("--processes", type=positive, default=os.cpu_count() or 1, metavar="N", help="of ours (default: the cores)")
    add(
        "--memory-clips",
        type=int,
        default=2000,
        metavar="N",
        help="further clips for the memory's slope, 0 for none (default: 2000)",
    )


VERB = Verb(
    name="bench evaluate",
    about="how fast clips are scored, beside torchmetrics",
    examples=("--clips 200",),
    add_options=add_options,
    run="metis_lightning.bench.evaluate:run_bench_evaluate",
)
