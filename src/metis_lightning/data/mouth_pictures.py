"""Pictures of a mouth as a visual encoder takes them, and the recipe that gives them to it.

Shape letters: F frames at 25 Hz, C the pixels of a frame, row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.lips import VisualRecipe
from metis_lightning.data.mouths import SIZE
from metis_lightning.data.recipe import SpeechItem, draw_int
from metis_lightning.data.video import read_video
from metis_lightning.errors import UserError

CROP = 88
"""Height and width of what the encoder sees of a mouth picture, in pixels."""

_MEAN, _STD = 0.421, 0.165
# ITU-R BT.601, as in torchvision.
_LUMA = (0.2989, 0.587, 0.114)


class MouthRecipe(VisualRecipe):
    """Mouth pictures for a module with a visual encoder: (F, 88 * 88), grey and normalised.

    Args:
        folder: where `prepare … --mouths` wrote `ID.mp4`; None takes the videos that the manifest lists, where these
            show mouths already.
        random_crop: take 88 of 96 pixels at a place drawn for each item, as Auto-AVSR does in training; else the
            middle, which suits validation (`val_recipe`).
    """

    def __init__(self, folder: Path | None = None, random_crop: bool = True) -> None:
        self.folder = None if folder is None else Path(folder)
        self.random_crop = random_crop

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return the utterance with its mouth pictures."""
        spare = SIZE - CROP
        corner = (spare // 2, spare // 2)
        if self.random_crop:
            corner = (draw_int(spare + 1, generator), draw_int(spare + 1, generator))
        pictures = encoder_input(read_mouths(mouth_video(corpus, index, self.folder)), corner)
        return self.item(corpus, index, pictures.flatten(1))

    def features(self, corpus: SpeechCorpus, index: int) -> Tensor:
        """Return the middle of an utterance's mouth pictures."""
        return encoder_input(read_mouths(mouth_video(corpus, index, self.folder))).flatten(1)


def mouth_video(corpus: SpeechCorpus, index: int, folder: Path | None) -> Path:
    """Return the mouth's video of an utterance: `ID.mp4` in a folder, or without one what the manifest lists.

    Raises:
        UserError: if there is none.
    """
    utterance = corpus.utterances[index]
    path = utterance.video if folder is None else folder / f"{utterance.id}.mp4"
    if path is None or not path.is_file():
        raise UserError(
            f"utterance {utterance.id!r}: no mouth video ({path}); give the folder of `prepare … --mouths`, "
            "or remove the manifest's .parts and prepare anew"
        )
    return path


def read_mouths(path: Path | str) -> np.ndarray:
    """Return the pictures (F, 96, 96, 3) uint8 of a mouth's video.

    Raises:
        UserError: if it is unreadable or of another size.
    """
    path = Path(path)
    frames = read_video(path)
    if frames.shape[1:3] != (SIZE, SIZE):
        height, width = frames.shape[1:3]
        raise UserError(
            f"{path}: pictures of {width} x {height}, not of a mouth in {SIZE} x {SIZE}; crop with `prepare … --mouths`"
        )
    return frames


def encoder_input(mouths: np.ndarray, corner: tuple[int, int] = ((SIZE - CROP) // 2,) * 2) -> Tensor:
    """Return what Auto-AVSR's encoder takes: (F, 88, 88) float32, cropped, grey, of about mean 0 and deviation 1.

    Args:
        mouths: (F, 96, 96, 3) uint8.
        corner: the row and the column where the crop starts; the middle by default.
    """
    row, column = corner
    pixels = torch.from_numpy(mouths[:, row : row + CROP, column : column + CROP]).float() / 255
    return (pixels @ torch.tensor(_LUMA) - _MEAN) / _STD
