"""The options of `bench data`."""

from __future__ import annotations

import argparse

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench data`."""
    parser.add_argument("--seconds", type=positive, default=30, metavar="S", help="how long to read (default: 30)")


VERB = Verb(
    name="bench data",
    about="how fast a config's batches come",
    examples=("-c configs/pretrain.yaml",),
    add_options=add_options,
    run="metis_lightning.bench.data:run_bench_data",
    takes_config=True,
)
