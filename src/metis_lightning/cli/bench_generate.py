"""The options of `bench generate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import PRECISIONS, positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench generate`."""
    add = parser.add_argument
    add("--scale", choices=("nano", "paper"), default="nano", help="paper: the published sizes, with random weights")
    add("--system", default="nano", metavar="S", help="bundle or checkpoint at scale nano (default: nano)")
    add("--task", default="tse", choices=("tse", "se", "vc"), help="what is asked for (default: tse)")
    add("--seconds", type=positive, default=3, metavar="S", help="length of a request on average (default: 3)")
    add("--batch-sizes", type=positive, nargs="+", default=[1, 8], metavar="N", help="rows together (default: 1 8)")
    add("--precision", nargs="+", default=["float32"], choices=PRECISIONS, help="of both stages")
    add("--released", action="store_true", help="measure the released code's way, too, one row after another")
    add("--num-steps", type=positive, metavar="N", help="steps of stage 1 (default: the task's)")
    add("--compile", action="store_true", help="compile the backbones")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: torch's)")
    add("--device", choices=("cpu", "cuda"), help="where to run (default: cuda where there is one)")
    add("--out", type=Path, metavar="FILE", help="write the table to a Markdown file, too")


VERB = Verb(
    name="bench generate",
    about="how fast requests are answered, by stage",
    examples=(
        "--batch-sizes 1 4 8 --threads 2",
        "--scale paper --task se --batch-sizes 1 --released --precision float32 int8",
    ),
    add_options=add_options,
    run="metis_lightning.bench.generate:run_bench_generate",
)
