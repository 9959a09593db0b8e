"""Measures what the tokens of a bundle withstand: the share of them that stays the same.

    python experiments/nano/tokens.py --bundle src/metis_lightning/assets/nano

On 24 utterances of the starter corpus's `test-unseen`, disturbed as in `layers.py`. Its last column is of the first
quantizer of the acoustic codec, where there is one: the share of its tokens that the next frame repeats.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import torch
from layers import changed, drawn_rows, read
from torch import Tensor

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.media.audio import read_audio
from metis_lightning.types import WAVE_RATE
from metis_lightning.weights.build import load_tokenizer


@torch.no_grad()
def shares(bundle: Path) -> dict[str, float]:
    """Return the shares of equal tokens, by what was done to the sound."""
    tokenizer = load_tokenizer(bundle)

    def tokens(wave: Tensor) -> Tensor:
        """Return the tokens (T,) of a wave (S,) at the front end's rate."""
        features, frames = tokenizer.features(wave[None], torch.tensor([len(wave)]))
        return tokenizer.semantic_codec.quantize(features, frames)[0][0]

    equal = defaultdict(list)
    _, rows, _ = drawn_rows(random.Random(0))
    for number, row in enumerate(rows):
        wave, other = read(row), read(rows[number - 1])
        clean = tokens(wave)
        equal["next frame"].append(clean[1:] == clean[:-1])
        for name, disturbed in changed(wave, other, number).items():
            equal[name].append(tokens(disturbed) == clean)
        if tokenizer.acoustic_codec is not None:
            first = tokenizer.acoustic_tokens(read_audio(STARTER_ROOT / row["path"], WAVE_RATE)[None])[0, :, 0]
            equal["acoustic, next frame"].append(first[1:] == first[:-1])
    return {name: float(torch.cat(parts).float().mean()) for name, parts in equal.items()}


def main() -> None:
    """Print a line of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    found = shares(parser.parse_args().bundle)
    print("|", " | ".join(found), "|")
    print("|", " | ".join(f"{value:.2f}" for value in found.values()), "|")


if __name__ == "__main__":
    main()
