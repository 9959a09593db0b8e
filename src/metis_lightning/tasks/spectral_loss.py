"""Spectral distances between waveforms, for codec training.

Shape letters: B batch, S samples, F frequency bins, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F


class MultiResolutionMelLoss(nn.Module):
    """Mean L1 distance of natural-log mel spectrograms over several window lengths (DAC, 2306.06546, section 3.4)."""

    def __init__(
        self,
        sample_rate: int = 24_000,
        window_lengths: Sequence[int] = (256, 512, 1024, 2048),
        num_mels: Sequence[int] = (20, 40, 80, 128),
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.mels = nn.ModuleList(
            torchaudio.transforms.MelSpectrogram(
                sample_rate,
                n_fft=window,
                hop_length=window // 4,
                n_mels=bins,
                power=1.0,
                norm="slaney",
                mel_scale="slaney",
            )
            for window, bins in zip(window_lengths, num_mels, strict=True)
        )

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the scalar distance of two waveforms (B, S)."""
        distances = [F.l1_loss(self._log(mel(predicted)), self._log(mel(target))) for mel in self.mels]
        return torch.stack(distances).mean()

    def _log(self, mel: Tensor) -> Tensor:
        return mel.clamp(min=self.floor).log()


class CompressedSpectrumLoss(nn.Module):
    """L1 distance of complex spectra whose magnitude is compressed by a power: it sees phase, which mel does not.

    The compression is the one common in speech enhancement (Ephrat et al., 1804.03619: power 0.3).
    """

    def __init__(self, window_lengths: Sequence[int] = (512, 1024, 2048), power: float = 0.3) -> None:
        super().__init__()
        self.window_lengths, self.power = tuple(window_lengths), power

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the scalar distance of two waveforms (B, S)."""
        distances = [
            F.l1_loss(self._compressed(predicted, window), self._compressed(target, window))
            for window in self.window_lengths
        ]
        return torch.stack(distances).mean()

    def _compressed(self, wave: Tensor, window_length: int) -> Tensor:
        window = torch.hann_window(window_length, device=wave.device)
        spectrum = torch.stft(wave, window_length, window_length // 4, window=window, return_complex=True)
        parts = torch.view_as_real(spectrum)
        magnitude = parts.square().sum(dim=-1, keepdim=True).add(1e-8).sqrt()
        return parts * magnitude.pow(self.power - 1)
