"""Spectral distances between waveforms, for codec training.

Shape letters: B batch, S samples, D latent width, T latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from metis_lightning.tokens.precision import full_precision

FLOOR = 1e-5
LOUDNESS_EXPONENT = 0.3
"""Stevens' law, roughly: loudness grows with this power of the pressure."""


class MelDistances(nn.Module):
    """Mean absolute distances of mel spectrograms over several window lengths, on two scales.

    `mel`: natural logarithms (DAC, 2306.06546, section 3.4); quiet and loud frames count alike. `loudness`: magnitudes
    to the power 0.3; the harmonics' peaks, which are what is heard, count more.
    """

    def __init__(
        self,
        sample_rate: int = 24_000,
        window_lengths: Sequence[int] = (256, 512, 1024, 2048),
        num_mels: Sequence[int] = (20, 40, 80, 128),
    ) -> None:
        super().__init__()
        self.mels = nn.ModuleList(
            mel_spectrogram(sample_rate, window, window // 4, bins)
            for window, bins in zip(window_lengths, num_mels, strict=True)
        )

    def forward(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scalars `mel` and `loudness` of two waveforms (B, S)."""
        with full_precision(predicted):
            predicted, target = predicted.float(), target.float()
            pairs = [(mel(predicted).clamp(min=FLOOR), mel(target).clamp(min=FLOOR)) for mel in self.mels]
            return {
                "mel": torch.stack([F.l1_loss(a.log(), b.log()) for a, b in pairs]).mean(),
                "loudness": torch.stack([F.l1_loss(loudness(a), loudness(b)) for a, b in pairs]).mean(),
            }


class LatentMel(nn.Module):
    """A linear map from codec latents to mel frames on the loudness scale, and its mean absolute error.

    Args:
        latent_dim: width D of the latents.
        hop_size: samples a latent; two mel frames are read off each.
    """

    def __init__(self, latent_dim: int, hop_size: int, sample_rate: int = 24_000, num_mels: int = 100) -> None:
        super().__init__()
        self.mel = mel_spectrogram(sample_rate, 2 * hop_size, hop_size // 2, num_mels)
        self.read = nn.Conv1d(latent_dim, 2 * num_mels, 1)

    def forward(self, latents: Tensor, wave: Tensor) -> Tensor:
        """Return the scalar error of latents (B, D, T) against wave (B, S)."""
        with full_precision(wave):
            target = loudness(self.mel(wave.float())[..., : 2 * latents.shape[-1]].clamp(min=FLOOR))
            read = self.read(latents.float())
            return F.l1_loss(read, target.unflatten(-1, (-1, 2)).transpose(2, 3).flatten(1, 2))


def mel_spectrogram(sample_rate: int, window: int, hop: int, num_mels: int) -> torchaudio.transforms.MelSpectrogram:
    """Return a transform to mel magnitudes (Slaney's scale and norm)."""
    return torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft=window, hop_length=hop, n_mels=num_mels, power=1.0, norm="slaney", mel_scale="slaney"
    )


def loudness(magnitude: Tensor) -> Tensor:
    """Return positive magnitudes to the power 0.3."""
    return magnitude.pow(LOUDNESS_EXPONENT)
