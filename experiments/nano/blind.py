"""Makes the control of lip to speech: a model that sees no mouth, and has only a voice and a length to go by.

    python experiments/nano/blind.py features runs/nano/mouths/lips runs/nano/mouths/blank
    python experiments/nano/blind.py weights runs/nano/l2s_blind/checkpoints/last.ckpt runs/nano/blind.ckpt

`features` writes zeros in the place of a folder's lip features, to train on. `weights` makes of the checkpoint that
comes of it one that takes any features for zeros: a weight that was never multiplied by anything else becomes zero.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from metis_lightning.files import atomic_path

WEIGHT = "model.cond_adapter.0.weight"
"""Of the adapter's map from lip features (4H, C)."""


def write_zeros(folder: Path, out: Path) -> None:
    """Write zeros of the shapes (F, C) of the features in a folder."""
    for path in folder.glob("*.npy"):
        with atomic_path(out / path.name) as temporary:
            np.save(temporary, np.zeros_like(np.load(path)))


def write_blind(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint whose adapter makes of any features what it makes of zeros."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"][WEIGHT].zero_()
    with atomic_path(out) as temporary:
        torch.save(content, temporary)


def main() -> None:
    """Write features or weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("features", "weights"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write = {"features": write_zeros, "weights": write_blind}[options.what]
    write(options.source, options.out)


if __name__ == "__main__":
    main()
