"""Mel scales and filters in the conventions of librosa (Slaney) and of Kaldi (HTK), and a power mel spectrogram.

librosa itself compiles for half a minute in a fresh environment, and torchaudio has no filters for the odd FFT size
that DNSMOS uses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LINEAR_STEP = 200.0 / 3.0  # Hz a mel, below the corner
_CORNER = 1000.0  # Hz, where Slaney's scale turns logarithmic
_LOG_STEP = math.log(6.4) / 27.0  # log Hz a mel, above the corner


def hz_to_slaney_mel(hertz: float) -> float:
    """Return the mel value of a frequency on Slaney's scale (Auditory Toolbox, 1998).

    >>> round(hz_to_slaney_mel(1000.0), 6)
    15.0
    """
    if hertz < _CORNER:
        return hertz / _LINEAR_STEP
    return _CORNER / _LINEAR_STEP + math.log(hertz / _CORNER) / _LOG_STEP


def slaney_mel_to_hz(mels: Tensor) -> Tensor:
    """Return the frequencies in Hz of mel values on Slaney's scale; any shape."""
    corner = _CORNER / _LINEAR_STEP
    return torch.where(mels < corner, mels * _LINEAR_STEP, _CORNER * torch.exp(_LOG_STEP * (mels - corner)))


def slaney_filters(sample_rate: int, n_fft: int, n_mels: int, highest: float | None = None) -> Tensor:
    """Return triangular filters of equal area from 0 Hz to `highest`, or half the rate: (M, n_fft // 2 + 1) float32."""
    top = hz_to_slaney_mel(sample_rate / 2 if highest is None else highest)
    edges = slaney_mel_to_hz(torch.linspace(0.0, top, n_mels + 2, dtype=torch.float64))
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    return (_triangles(bins, edges) * 2.0 / (edges[2:] - edges[:-2])[:, None]).float()


def kaldi_filters(sample_rate: int, n_fft: int, n_mels: int, lowest: float) -> Tensor:
    """Return Kaldi's triangular filters, linear in HTK's mel, as (n_mels, n_fft // 2 + 1) float32."""
    ends = torch.tensor([lowest, sample_rate / 2], dtype=torch.float64)
    # HTK's scale.
    low, high = 1127.0 * torch.log1p(ends / 700.0)
    bins = 1127.0 * torch.log1p(torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64) / 700.0)
    bank = _triangles(bins, torch.linspace(float(low), float(high), n_mels + 2, dtype=torch.float64))
    # Kaldi leaves out the bin at the Nyquist frequency.
    bank[:, -1] = 0
    return bank.float()


def _triangles(bins: Tensor, edges: Tensor) -> Tensor:
    """Return filters (M, F) that rise from edge m to 1 at edge m + 1 and fall to edge m + 2, of M + 2 edges."""
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp(min=0.0)


class PowerMel(nn.Module):
    """Power mel spectrogram: Hann window of `n_fft` samples, frames centred on multiples of the hop, zeros beyond."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", slaney_filters(sample_rate, n_fft, n_mels), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Map (S,) samples to (frames, n_mels); 1 + S // hop_length frames if `n_fft` is even."""
        sizes = (self.n_fft, self.hop_length)
        spectrum = torch.stft(wave, *sizes, window=self.window, pad_mode="constant", return_complex=True)
        return (self.filters @ spectrum.abs().square()).T
