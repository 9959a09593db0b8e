"""Audio players and images in TensorBoard.

Shape letters: S samples at 24 kHz, T frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torchaudio
from torch import Tensor

from metis_lightning.types import WAVE_RATE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_speech(writer: SummaryWriter, tag: str, wave: Tensor, step: int) -> None:
    """Log a waveform (S,) as an audio player and as a log-mel image."""
    writer.add_audio(tag, wave.clamp(-1, 1)[None], step, sample_rate=WAVE_RATE)
    writer.add_image(f"{tag}_mel", mel_image(wave), step)


def mel_image(wave: Tensor) -> Tensor:
    """Return an image (3, 160, T) in [0, 1] of a waveform (S,): 80 dB of log-mel, low frequencies below."""
    mel = torchaudio.transforms.MelSpectrogram(WAVE_RATE, n_fft=1024, hop_length=240, n_mels=80)(wave)
    decibels = 10 * mel.clamp(min=1e-10).log10()
    return coloured(((decibels - decibels.max() + 80) / 80).clamp(0, 1).flip(0).repeat_interleave(2, dim=0))


def coloured(shades: Tensor) -> Tensor:
    """Return an image (3, rows, columns) of values (rows, columns) in [0, 1]."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["magma"](shades.numpy())[..., :3]).permute(2, 0, 1).float()
