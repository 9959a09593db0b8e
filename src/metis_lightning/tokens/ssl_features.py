"""SSL feature extractors: 16 kHz waveform to normalised 50 Hz features.

All share one interface: `sample_rate`, `dim`, `frame_rate`, `forward(wave, lengths) -> (features, lengths)`.
Shape letters: B batch, S samples, T frames, C feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SSLFeatures(nn.Module, ABC):
    """The interface of every extractor: frozen, 16 kHz in, 50 Hz out, normalised by a stored mean and deviation."""

    sample_rate: int = 16_000
    frame_rate: int = 50
    dim: int
    mean: Tensor
    std: Tensor

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as a bundle notes them."""
        return {}

    def encoder_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that the features depend on beside this module's own."""
        return {}

    @abstractmethod
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, C) and their frame counts (B,) of wave (B, S) with `lengths` (B,) samples."""

    @abstractmethod
    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features (B, T, C) before the stored statistics; without `lengths` all of wave (B, S) is signal."""

    @abstractmethod
    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return how many frames come of `num_samples` at 16 kHz."""


class FilterbankFeatures(SSLFeatures):
    """The filter-bank frames that w2v-BERT 2.0 takes as input: 80 log-mel bins every 10 ms, two frames stacked.

    Kaldi's recipe: 25 ms Povey window, DC removed, pre-emphasis 0.97, power spectrum of 512 points, mel scale of HTK
    from 20 Hz, natural log. w2v-BERT's front end then normalises each bin over the utterance; here the mean and the
    deviation are stored constants instead, so that a frame does not depend on what stands around it.
    """

    dim = 160
    mel_bank: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))
        # Rebuilt at construction, so not a part of the weights.
        self.register_buffer("mel_bank", kaldi_mel_bank(80, 512, 16_000, low_hz=20.0), persistent=False)
        self.register_buffer("window", torch.hann_window(400, periodic=False).pow(0.85), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the number of whole stacked frames of 10 ms hops with 25 ms windows."""
        return ((num_samples - 400).div(160, rounding_mode="floor") + 1).clamp(min=0) // 2

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features (B, T, 160) and their frame counts."""
        return (self.unnormalised(wave) - self.mean) / self.std, self.num_frames(lengths)

    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return log-mel frames (B, T, 160) of wave (B, S) in [-1, 1]."""
        return stacked(self.log_mel(wave))

    def log_mel(self, wave: Tensor) -> Tensor:
        """Return single frames (B, 2T, 80), one every 10 ms, the odd one at the end among them."""
        frames = (wave * 2**15).unfold(-1, 400, 160)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - 0.97 * previous) * self.window, n=512).abs().square()
        return (spectrum @ self.mel_bank).clamp(min=1.192092955078125e-07).log()


def stacked(frames: Tensor) -> Tensor:
    """Return pairs of neighbouring frames (B, 2T, C) side by side, as (B, T, 2C)."""
    return frames[:, : frames.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2)


def kaldi_mel_bank(num_mels: int, n_fft: int, sample_rate: int, low_hz: float) -> Tensor:
    """Return Kaldi's triangular filters, equally spaced and linear in mel, as (n_fft/2 + 1, num_mels)."""
    bin_mels = hz_to_mel(torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64))
    low, high = (float(hz_to_mel(torch.tensor(hz, dtype=torch.float64))) for hz in (low_hz, sample_rate / 2))
    edges = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    rising = (bin_mels[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bin_mels[:, None]) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp(min=0)
    # Kaldi leaves out the bin at the Nyquist frequency.
    bank[-1] = 0
    return bank.float()


def hz_to_mel(hz: Tensor) -> Tensor:
    """Return HTK mels: 1127 ln(1 + hz / 700)."""
    return 1127.0 * torch.log1p(hz / 700.0)
