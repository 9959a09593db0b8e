"""Fits the visual encoder of nano, principal components of mouth pictures, and puts it into a bundle.

    python experiments/nano/eigenmouths.py --manifest runs/nano/mouths/clips.jsonl --bundle BUNDLE

It needs `pip install '.[video]'` and the list of the mouths that `mouths.py` draws, or a manifest of `prepare video`
whose videos show mouths alone. Of the training split's videos it reads so many, evenly spread over the list.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from metis_lightning.data.manifest.records import read_rows
from metis_lightning.data.recipes.l2s import encoder_input, read_mouths
from metis_lightning.errors import UserError
from metis_lightning.progress import tracked
from metis_lightning.tokens.visual.eigenmouths import EigenMouths
from metis_lightning.weights.bundle import Part, write_part


def training_videos(manifest: Path, root: Path, count: int) -> list[Path]:
    """Return at most `count` of the training split's videos."""
    rows = [row for row, _, _ in read_rows(manifest)]
    videos = [root / row["video"] for row in rows if row.get("split") == "train" and "video" in row]
    if not videos:
        raise UserError(f"{manifest}: it lists no videos of the split train")
    step = max(1, len(videos) // count)
    return videos[::step][:count]


def main() -> None:
    """Write the part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="the folder of its paths (default: the manifest's)")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--dim", type=int, default=32, help="components")
    parser.add_argument("--videos", type=int, default=300, help="how many are read")
    options = parser.parse_args()
    videos = training_videos(options.manifest, options.root or options.manifest.parent, options.videos)
    encoder = EigenMouths(options.dim)
    share = encoder.fit(encoder_input(read_mouths(path)) for path in tracked(videos, "fit mouths", "videos"))
    config = {"kind": "eigenmouths", "dim": options.dim}
    write_part(options.bundle, "visual_encoder", Part(config, encoder.state_dict()), torch.float32)
    print(f"{options.dim} components hold {share:.1%} of the variance of {len(videos)} videos")


if __name__ == "__main__":
    main()
