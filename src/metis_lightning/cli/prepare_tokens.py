"""The options of `prepare tokens`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare tokens`."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the store; what is there is not made again")
    add("--kinds", nargs="+", metavar="KIND", help="ssl, acoustic, features (default: what the module trains on)")
    add("--batch-seconds", type=positive, metavar="S", help="audio in a batch (default: the config's)")
    add("--shard-size", type=positive, default=2000, metavar="N", help="recordings in a file (default: 2000)")


VERB = Verb(
    name="prepare tokens",
    about="store the tokens that a config trains on",
    examples=("-c configs/pretrain.yaml --out runs/tokens",),
    add_options=add_options,
    run="metis_lightning.trainer.token_extraction:run_prepare_tokens",
    takes_config=True,
)
