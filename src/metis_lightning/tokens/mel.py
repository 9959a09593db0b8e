"""Power mel spectrogram in librosa's conventions, in plain torch.

Whisper and two published metric models were trained on librosa's features. librosa itself compiles for half a minute in
a fresh environment, and torchaudio's filters have no bank for the odd FFT size that DNSMOS uses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LINEAR_STEP = 200.0 / 3.0  # Hz a mel, below the corner
_CORNER = 1000.0  # Hz, where the scale turns logarithmic
_LOG_STEP = math.log(6.4) / 27.0  # log Hz a mel, above the corner


def hz_to_mel(hertz: float) -> float:
    """Return the mel value of a frequency on Slaney's scale (Auditory Toolbox, 1998).

    >>> round(hz_to_mel(1000.0), 6)
    15.0
    """
    if hertz < _CORNER:
        return hertz / _LINEAR_STEP
    return _CORNER / _LINEAR_STEP + math.log(hertz / _CORNER) / _LOG_STEP


def mel_to_hz(mels: Tensor) -> Tensor:
    """Return the frequencies in Hz of mel values on Slaney's scale; any shape."""
    corner = _CORNER / _LINEAR_STEP
    return torch.where(mels < corner, mels * _LINEAR_STEP, _CORNER * torch.exp(_LOG_STEP * (mels - corner)))


def slaney_filters(sample_rate: int, n_fft: int, n_mels: int, highest: float | None = None) -> Tensor:
    """Return triangular filters of equal area: (n_mels, n_fft // 2 + 1) float32.

    They reach from 0 Hz to `highest`, or half the sample rate if None; filters above half the sample rate are empty.
    """
    top = hz_to_mel(sample_rate / 2 if highest is None else highest)
    points = torch.linspace(0.0, top, n_mels + 2, dtype=torch.float64)
    edges = mel_to_hz(points)[:, None]
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * 2.0 / (edges[2:] - edges[:-2])).float()


class PowerMel(nn.Module):
    """Mel spectrogram of power: Hann window, frames centred on multiples of the hop, zeros beyond the ends."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
        """Build the window and the filters; `n_fft` (also the window) and `hop_length` in samples."""
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", slaney_filters(sample_rate, n_fft, n_mels), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Map (S,) samples to (frames, n_mels); 1 + S // hop_length frames if `n_fft` is even."""
        spectrum = torch.stft(
            wave,
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return (self.filters @ spectrum.abs().square()).T
