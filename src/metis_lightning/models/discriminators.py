"""Discriminators of waveforms, for adversarial training of the acoustic codec; no part of a bundle.

One kind folds the wave by a period (HiFi-GAN, 2010.05646, section 2.3), the other looks at its complex spectrum in
bands (DAC, 2306.06546, section 3.3).
Shape letters: B batch, S samples, P period, T frames of a spectrum, F frequency bins, C channels, N logits of a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

LEAK = 0.1
TARGET_PEAK = 0.8
# Peak below which a wave is not made louder any further, so that silence does not become noise.
QUIETEST = 1e-3


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes; the defaults are DAC's. Each period and each window is a discriminator."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)  # all layers but the last divide the length by three
    window_lengths: tuple[int, ...] = (2048, 1024, 512)  # samples; the hop is a quarter
    band_edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # limits of the bands as shares of the spectrum
    band_channels: int = 32

    def __post_init__(self) -> None:
        if not self.periods and not self.window_lengths:
            raise ValueError("no periods and no window_lengths: there would be no discriminator")
        for window in self.window_lengths:
            if any(low >= high for low, high in pairwise(band_borders(window, self.band_edges))):
                raise ValueError(f"band_edges {self.band_edges} leave an empty band in a window of {window} samples")


@dataclass(frozen=True)
class DiscriminatorOutput:
    """One discriminator's logits (B, N), high for real, and the outputs (B, C, rows, columns) of its hidden layers."""

    logits: Tensor
    features: tuple[Tensor, ...]


def band_borders(window_length: int, band_edges: Iterable[float]) -> list[int]:
    """Return the frequency bins at the limits of the bands.

    >>> band_borders(512, (0.0, 0.5, 1.0))
    [0, 128, 257]
    """
    return [int(edge * (window_length // 2 + 1)) for edge in band_edges]


class PeriodDiscriminator(nn.Module):
    """Compares samples that lie whole periods apart: convolutions down the columns of a wave folded to rows of P."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        strides = [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            _convolution(narrow, wide, (5, 1), (stride, 1))
            for (narrow, wide), stride in zip(pairwise((1, *channels)), strides, strict=True)
        )
        self.to_logit = _convolution(channels[-1], 1, (3, 1))

    def forward(self, wave: Tensor) -> DiscriminatorOutput:
        """Judge waves (B, S) of any length."""
        # Zeros up to a whole period; HiFi-GAN mirrors, which a wave shorter than the padding does not allow.
        padded = F.pad(wave, (0, -wave.shape[-1] % self.period))
        features = _through(self.layers.children(), padded.unflatten(-1, (-1, self.period))[:, None])
        return DiscriminatorOutput(self.to_logit(features[-1]).flatten(1), features)


class SpectrumDiscriminator(nn.Module):
    """Looks at real and imaginary part of the STFT, with layers of their own for each frequency band."""

    window: Tensor

    def __init__(self, window_length: int, band_edges: tuple[float, ...], channels: int) -> None:
        super().__init__()
        self.borders = band_borders(window_length, band_edges)
        # Kernels are (frames, bins); only the frequency axis is made shorter.
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    _convolution(2, channels, (3, 9)),
                    *(_convolution(channels, channels, (3, 9), (1, 2)) for _ in range(3)),
                    _convolution(channels, channels, (3, 3)),
                ]
            )
            for _ in band_edges[1:]
        )
        self.to_logit = _convolution(channels, 1, (3, 3))
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)

    def forward(self, wave: Tensor) -> DiscriminatorOutput:
        """Judge waves (B, S) of any length."""
        spectrum = self.spectrum(wave)
        features = [
            _through(layers.children(), spectrum[..., low:high])
            for layers, (low, high) in zip(self.bands, pairwise(self.borders), strict=True)
        ]
        # The last map sees the bands side by side, so that it may compare across their borders.
        whole = torch.cat([band[-1] for band in features], dim=-1)
        return DiscriminatorOutput(self.to_logit(whole).flatten(1), tuple(chain.from_iterable(features)))

    def spectrum(self, wave: Tensor) -> Tensor:
        """Return real and imaginary part (B, 2, T, F) of the STFT of waves (B, S)."""
        n_fft = len(self.window)
        # In float32: an FFT takes no bfloat16, and mixed precision does not reach it.
        stft = torch.stft(wave.float(), n_fft, n_fft // 4, window=self.window, pad_mode="constant", return_complex=True)
        return torch.view_as_real(stft).permute(0, 3, 2, 1)


class Discriminators(nn.Module):
    """All of them, on waves without offset and of equal peak, as in the released code of DAC."""

    def __init__(self, config: DiscriminatorConfig = DiscriminatorConfig()) -> None:  # noqa: B008  frozen
        super().__init__()
        self.members = nn.ModuleList(PeriodDiscriminator(period, config.period_channels) for period in config.periods)
        for window in config.window_lengths:
            self.members.append(SpectrumDiscriminator(window, config.band_edges, config.band_channels))

    def forward(self, wave: Tensor) -> list[DiscriminatorOutput]:
        """Return the output of each for waves (B, S)."""
        centred = wave - wave.mean(dim=-1, keepdim=True)
        peak = centred.abs().amax(dim=-1, keepdim=True)
        level = TARGET_PEAK * centred / peak.clamp(min=QUIETEST)
        return [member(level) for member in self.members]


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))


def _through(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    outputs = []
    for layer in layers:
        x = F.leaky_relu(layer(x), LEAK)
        outputs.append(x)
    return tuple(outputs)
