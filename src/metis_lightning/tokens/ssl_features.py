"""SSL feature extractors: 16 kHz waveform to normalised 50 Hz features.

Shape letters: B batch, S samples, T frames, C feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.tokens.mel import kaldi_filters


class SSLFeatures(nn.Module, ABC):
    """The interface of every extractor: frozen, 16 kHz in, 50 Hz out, normalised by a stored mean and deviation."""

    sample_rate: int = 16_000
    frame_rate: int = 50
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as a bundle notes them: the attributes of the same names."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def encoder_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that the features depend on beside this module's own."""
        return {}

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, C) and their frame counts (B,) of wave (B, S) with `lengths` (B,) samples."""
        return (self.unnormalised(wave, lengths) - self.mean) / self.std, self.num_frames(lengths)

    @abstractmethod
    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features (B, T, C) before the stored statistics; without `lengths` all of wave (B, S) is signal."""

    @abstractmethod
    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return how many frames come of `num_samples` at 16 kHz."""


class FilterbankFeatures(SSLFeatures):
    """The filter-bank frames that w2v-BERT 2.0 takes as input: 80 log-mel bins every 10 ms, two frames stacked.

    Kaldi's recipe: 25 ms Povey window, DC removed, pre-emphasis 0.97, power spectrum of 512 points, mel scale of HTK
    from 20 Hz, natural log. Mean and deviation of a bin are stored, not the utterance's as in w2v-BERT's front end.
    """

    mel_bank: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__(dim=160)
        # Rebuilt at construction, so not a part of the weights.
        filters = kaldi_filters(self.sample_rate, 512, 80, lowest=20.0)
        self.register_buffer("mel_bank", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(400, periodic=False).pow(0.85), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the number of whole stacked frames of 10 ms hops with 25 ms windows."""
        return ((num_samples - 400).div(160, rounding_mode="floor") + 1).clamp(min=0) // 2

    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return log-mel frames (B, T, 160) of wave (B, S) in [-1, 1]."""
        return stack_frames(self.log_mel(wave))

    def log_mel(self, wave: Tensor) -> Tensor:
        """Return single frames (B, 2T, 80), one every 10 ms, the odd one at the end among them."""
        # Kaldi reads samples as 16-bit integers.
        frames = (wave * 2**15).unfold(-1, 400, 160)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - 0.97 * previous) * self.window, n=512).abs().square()
        # Kaldi's floor, the smallest step of float32 at 1.
        return (spectrum @ self.mel_bank).clamp(min=1.192092955078125e-07).log()


def stack_frames(frames: Tensor) -> Tensor:
    """Return neighbouring frames (B, 2T, C) in pairs (B, T, 2C); an odd one at the end goes."""
    return frames[:, : frames.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2)
