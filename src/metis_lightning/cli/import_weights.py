"""The options of `import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `import`."""
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help="folder with the published files, or 'hub' to download them")
    add("--out", type=Path, required=True, metavar="DIR", help="the bundle: a new folder, or a bundle to add to")
    add("--tasks", nargs="+", metavar="T", help="of base tts vc tse se l2s omni (default: all whose files are there)")
    add(
        "--file",
        action="append",
        default=[],
        metavar="PART=PATH",
        help="a file that lies elsewhere; a task is one file, or two: LoRA and adapter (may be repeated)",
    )
    add(
        "--revision",
        action="append",
        default=[],
        metavar="OWNER/NAME=COMMIT",
        help="commit to download (default: the newest, which is noted in the bundle)",
    )
    add(
        "--dtype",
        choices=("published", "float32", "bfloat16", "float16"),
        default="published",
        help="how weights are stored (default: as published); bfloat16 halves their size, and rounds",
    )
    add("--sizes", default="paper", metavar="BUNDLE", help="sizes of the models (default: paper)")
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that no model has and that are to be left out, noted in the bundle (may be repeated)",
    )


VERB = Verb(
    name="import",
    about="make a bundle of the published weights",
    examples=(
        "published --out bundles/metis --tasks se tse",
        "hub --out bundles/metis --tasks se tse --file ssl_features=wav2vec2bert_stats.pt",
        "published --out bundles/metis --file w2v_bert=models/w2v-bert-2.0 --dtype bfloat16",
    ),
    add_options=add_options,
    run="metis_lightning.weights.published.convert:run_import",
    note="wav2vec2bert_stats.pt lies in Amphion's source, models/tts/maskgct/ckpt/. An import that was interrupted "
    "goes on when it is run again.",
)
