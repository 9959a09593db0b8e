"""Lip to speech: an utterance with features of its speaker's lips, or with pictures of the mouth for a visual encoder.

Shape letters: S samples at 24 kHz, F frames at 25 Hz, C feature width, or the pixels of a picture row by row.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.mouths import MOUTH_SIZE
from metis_lightning.data.media.video import read_video
from metis_lightning.data.recipes.recipe import Recipe, Segment, SpeechItem, derived_generator, draw_int
from metis_lightning.errors import UserError
from metis_lightning.types import VIDEO_RATE, WAVE_RATE

CROP = 88
"""Height and width of what the encoder sees of a mouth picture, in pixels."""

_SUFFIXES = (".safetensors", ".npy")
# Samples of a frame of lips.
_FRAME = WAVE_RATE // VIDEO_RATE
# Of grey pictures, as Auto-AVSR normalises them.
_MEAN, _STD = 0.421, 0.165
# ITU-R BT.601, as in torchvision.
_LUMA = (0.2989, 0.587, 0.114)


class VisualRecipe(Recipe):
    """Whole utterances with a feature for every 40 ms; the prompt is a prefix that the module's prompt rule draws."""

    @abstractmethod
    def features(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> Tensor:
        """Return the features (F, C) of utterance `index`."""

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the utterance with its features; a UserError if they do not last as long as the audio."""
        features = self.features(corpus, index, generator)
        utterance, wave = corpus.utterances[index], corpus.wave(index)
        if not check_lengths(len(features), wave.numel() / WAVE_RATE):
            raise UserError(
                f"utterance {utterance.id!r}: {len(features)} frames of features for {wave.numel() / WAVE_RATE:.2f} s; "
                f"give {VIDEO_RATE} a second"
            )
        return SpeechItem.of(utterance, wave, features=features, pieces=(Segment(index, 0, wave.numel()),))


@dataclass(frozen=True)
class LipRecipe(VisualRecipe):
    """Features that a visual speech recogniser gave: `ID.safetensors` (of one tensor) or `ID.npy`, (F, C) at 25 Hz.

    The paper takes the 768 dimensions of Auto-AVSR's encoder (2303.14307). Without a folder, the features are those
    that the manifest lists beside each utterance (`lips`).
    """

    folder: Path | None = None

    needs_audio = False

    def features(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> Tensor:
        """Read the features of an utterance; a UserError as `file`, or if it holds something else."""
        return read_feature_file(self.file(corpus, index))

    def file(self, corpus: SpeechCorpus, index: int) -> Path:
        """Return the file of an utterance's features; a UserError if there is none, or it lies outside the folder."""
        utterance = corpus.utterances[index]
        if self.folder is not None:
            return feature_file(self.folder, utterance.id)
        if utterance.lips is None:
            raise UserError(f"utterance {utterance.id!r}: the manifest lists no lip features; name their folder")
        return utterance.lips


@dataclass(frozen=True)
class EnvelopeRecipe(VisualRecipe):
    """A stand-in for corpora without video, such as the starter corpus: these are no lips.

    The log energies of four bands of the audio are spread over `dim` dimensions by a fixed random map. Like lips they
    say how open the speech is, but a model trained on them shows that training runs, and nothing about lip reading.
    """

    dim: int = 768

    edges_hz = (80.0, 500.0, 1_200.0, 2_500.0, 8_000.0)

    def features(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> Tensor:
        """Return (F, dim): log band energies of an utterance every 40 ms, times a fixed random matrix."""
        wave = corpus.wave(index)
        frames = wave[: len(wave) // _FRAME * _FRAME].view(-1, _FRAME)
        power = torch.fft.rfft(frames * torch.hann_window(_FRAME)).abs().square()
        edges = [round(hz * _FRAME / WAVE_RATE) for hz in self.edges_hz]
        bands = [power[:, low:high].mean(dim=1) for low, high in zip(edges, edges[1:], strict=False)]
        # About zero on average, and about one in size.
        levels = (torch.stack(bands, dim=1) + 1e-6).log() / 5
        spread = torch.randn(len(bands), self.dim, generator=derived_generator("envelope", self.dim))
        return levels @ (spread / len(bands) ** 0.5)


@dataclass(frozen=True)
class MouthRecipe(VisualRecipe):
    """Mouth pictures for a module with a visual encoder: (F, 88 * 88), grey and normalised.

    Args:
        folder: where `prepare … --mouths` wrote `ID.mp4`; None takes the videos that the manifest lists, where these
            show mouths already.
        random_crop: take 88 of 96 pixels at a place drawn for each item, as Auto-AVSR does in training; else the
            middle, which suits validation (`val_recipe`).
    """

    folder: Path | None = None
    random_crop: bool = True

    def features(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> Tensor:
        """Return an utterance's mouth pictures."""
        spare = MOUTH_SIZE - CROP
        corner = (spare // 2, spare // 2)
        if self.random_crop and generator is not None:
            corner = (draw_int(spare + 1, generator), draw_int(spare + 1, generator))
        return encoder_input(read_mouths(mouth_video(corpus, index, self.folder)), corner).flatten(1)


def feature_file(folder: Path, utterance_id: str) -> Path:
    """Return the file of an utterance's features; a UserError if there is none, or it lies outside the folder."""
    paths = [folder / f"{utterance_id}{suffix}" for suffix in _SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: no lip features of utterance {utterance_id!r}, nor with the ending .npy")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: lies outside the folder {folder}")
    return path


def read_feature_file(path: Path | str) -> Tensor:
    """Return features (F, C) float32 from an `.npy` or `.safetensors` file; a UserError if it holds something else."""
    path = Path(path)
    try:
        # Neither format can run code as it is read here.
        if path.suffix == ".npy":
            features = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        else:
            (features,) = load_file(path).values()
    except (ValueError, TypeError, EOFError, OSError, SafetensorError) as error:
        raise UserError(f"{path}: not one array of plain numbers ({error})") from error
    features = features.float()
    if features.dim() != 2 or 0 in features.shape or not features.isfinite().all():
        raise UserError(f"{path}: expected finite features of the shape (frames, width), found {tuple(features.shape)}")
    return features


def check_lengths(frames: int, seconds: float) -> bool:
    """Tell whether frames at 25 Hz last as long as a sound, but for two of them and 5%."""
    expected = seconds * VIDEO_RATE
    tolerance = 2 + 0.05 * expected
    return abs(frames - expected) <= tolerance


def mouth_video(corpus: SpeechCorpus, index: int, folder: Path | None) -> Path:
    """Return an utterance's video of the mouth, in a folder or else as listed; a UserError if there is none."""
    utterance = corpus.utterances[index]
    path = utterance.video if folder is None else folder / f"{utterance.id}.mp4"
    if path is None or not path.is_file():
        raise UserError(
            f"utterance {utterance.id!r}: no mouth video ({path}); give the folder of `prepare … --mouths`, "
            "or remove the manifest's .parts and prepare anew"
        )
    return path


def read_mouths(path: Path | str) -> np.ndarray:
    """Return the pictures (F, 96, 96, 3) uint8 of a mouth's video; a UserError if they are of another size."""
    frames = read_video(Path(path))
    height, width = frames.shape[1:3]
    if (height, width) != (MOUTH_SIZE, MOUTH_SIZE):
        raise UserError(
            f"{path}: pictures of {width} x {height}, not of a mouth in {MOUTH_SIZE} x {MOUTH_SIZE}; crop with "
            "`prepare … --mouths`"
        )
    return frames


def encoder_input(mouths: np.ndarray, corner: tuple[int, int] = ((MOUTH_SIZE - CROP) // 2,) * 2) -> Tensor:
    """Return what Auto-AVSR's encoder takes: (F, 88, 88) float32, cropped, grey, of about mean 0 and deviation 1.

    `mouths` are (F, 96, 96, 3) uint8, `corner` the row and column where the crop starts, by default the middle's.
    """
    row, column = corner
    pixels = torch.from_numpy(mouths[:, row : row + CROP, column : column + CROP]).float() / 255
    return (pixels @ torch.tensor(_LUMA) - _MEAN) / _STD
