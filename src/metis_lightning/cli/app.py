"""The options of `app`."""

from __future__ import annotations

import argparse

from metis_lightning.cli.command import Verb
from metis_lightning.cli.generate import add_model_options
from metis_lightning.cli.parsing import positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `app`."""
    add_model_options(parser, several=True)
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=positive, default=7860, metavar="N", help="port to listen at (default: 7860)")


VERB = Verb(
    name="app",
    about="the five tasks in the browser",
    examples=("--model nano", "--model nano runs/se_lora/checkpoints/last.ckpt --port 8000"),
    add_options=add_options,
    run="metis_lightning.generate.app:run_app",
)
