"""Acoustic codec: 24 kHz waveform to residual tokens at 50 Hz, and back (MaskGCT, 2409.00750, section 3.2.4).

DAC-style encoder (2306.06546), factorised residual quantizer, Vocos decoder (2306.00814); parameter names are the
published ones. Shape letters: B batch, S samples, T = S / hop frames, D latent width, C channels, Q quantizers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metis_lightning.tokens.codec_layers import (
    ConvNeXtBackbone,
    Quantized,
    ResidualVectorQuantizer,
    WeightNormConv1d,
    full_precision,
    zero_padding,
)
from metis_lightning.tokens.mel import slaney_filters
from metis_lightning.types import WAVE_RATE

# Of `MelEncoder`: samples of a window at 24 kHz, mel bands.
MEL_WINDOW, MEL_BANDS = 1024, 80


@dataclass(frozen=True)
class AcousticCodecConfig:
    """Sizes; the defaults are MaskGCT's. The hop is the product of `up_ratios` and must equal `hop_size`.

    With `mel_encoder_layers` the encoder is a `MelEncoder` of that depth, `d_model` wide.
    """

    d_model: int = 96
    mel_encoder_layers: int = 0
    up_ratios: tuple[int, ...] = (3, 4, 5, 8)
    latent_dim: int = 256
    num_quantizers: int = 12
    codebook_size: int = 1024
    codebook_dim: int = 8
    quantizer_dropout: float = 0.5
    vocos_dim: int = 512
    vocos_intermediate_dim: int = 4096
    vocos_num_layers: int = 30
    n_fft: int = 1920
    hop_size: int = 480

    def __post_init__(self) -> None:
        if (hop := math.prod(self.up_ratios)) != self.hop_size:
            raise ValueError(f"up_ratios {self.up_ratios} multiply to {hop}, not hop_size {self.hop_size}")


class Snake(nn.Module):
    """x + sin²(αx)/α with one α a channel (BigVGAN, 2206.04658)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C, S)."""
        # Written so that α = 0 gives x, not NaN.
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


class ResidualUnit(nn.Module):
    """Two convolutions, the first dilated, on a residual path."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            WeightNormConv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            WeightNormConv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C, S)."""
        return x + self.block(x)


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution that doubles the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(channels, dilation) for dilation in (1, 3, 9)),
            Snake(channels),
            WeightNormConv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map (B, C, S) to (B, 2C, S / stride); `lengths` (B,) as in `AcousticEncoder`."""
        *units, activation, down = self.block
        for unit in units:
            x = unit(zero_padding(x, lengths))
        return down(activation(zero_padding(x, lengths)))


class AcousticEncoder(nn.Module):
    """Waveform to latents at 50 Hz."""

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        self.ratios = config.up_ratios
        widths = [config.d_model * 2**i for i in range(len(config.up_ratios) + 1)]
        self.block = nn.Sequential(
            WeightNormConv1d(1, config.d_model, 7, padding=3),
            *(EncoderBlock(width, ratio) for width, ratio in zip(widths, config.up_ratios, strict=False)),
            Snake(widths[-1]),
            WeightNormConv1d(widths[-1], config.latent_dim, 3, padding=1),
        )

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map wave (B, 1, S) to latents (B, D, T); S and `lengths` (B,), if any, are multiples of the hop."""
        first, *blocks, activation, last = self.block
        # Mixed precision stays outside: tokens must not depend on it.
        with full_precision(wave):
            x = first(zero_padding(wave, lengths))
            for block, ratio in zip(blocks, self.ratios, strict=True):
                x = block(x, lengths)
                lengths = None if lengths is None else lengths // ratio
            return last(activation(zero_padding(x, lengths)))


class MelEncoder(nn.Module):
    """Log-mel frames, two a latent, and ConvNeXt blocks over them: for codecs of short training, in the place of DAC's.

    An encoder of the waveform has to learn its filter bank first; and its tokens hold where in its period a voice is,
    which stage 2 can but guess.
    """

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        self.hop_size = config.hop_size
        self.backbone = ConvNeXtBackbone(2 * MEL_BANDS, config.d_model, 2 * config.d_model, config.mel_encoder_layers)
        self.project = nn.Linear(config.d_model, config.latent_dim)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map wave (B, 1, S) to latents (B, D, T); S and `lengths` (B,), if any, are multiples of the hop."""
        hop = self.hop_size // 2
        # "Same" padding: S / hop frames.
        padding = (MEL_WINDOW - hop) // 2
        with full_precision(wave):
            padded = F.pad(wave[:, 0], (padding, padding))
            window, filters = _mel_bank(wave.device)
            spectrum = torch.stft(padded, MEL_WINDOW, hop, window=window, center=False, return_complex=True)
            # About -1 to 1 for speech.
            mel = ((filters @ spectrum.abs()).clamp(min=1e-4).log() + 4.0) / 4.0
            pairs = mel.unflatten(-1, (-1, 2)).transpose(2, 3).flatten(1, 2)
            frames = None if lengths is None else lengths // self.hop_size
            return self.project(self.backbone(pairs, frames)).transpose(1, 2)


@lru_cache
def _mel_bank(device: torch.device) -> tuple[Tensor, Tensor]:
    # No buffers, which a model that is built on the meta device would not get: they are in no file.
    window = torch.hann_window(MEL_WINDOW, device=device)
    return window, slaney_filters(WAVE_RATE, MEL_WINDOW, MEL_BANDS).to(device)


class InverseSTFT(nn.Module):
    """Overlap-add of inverse FFT frames with "same" padding: T frames give T · hop samples."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Map a complex spectrum (B, n_fft/2 + 1, T) to a waveform (B, S)."""
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1, norm="backward") * self.window[:, None]
        # Windows overlap to this, which at the ends is not constant.
        envelope = self.window.square()[None, :, None].expand(1, -1, frames.shape[-1])
        return self._overlap_add(frames) / self._overlap_add(envelope)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        length = (frames.shape[-1] - 1) * self.hop_length + self.n_fft
        padding = (self.n_fft - self.hop_length) // 2
        summed = F.fold(frames, (1, length), kernel_size=(1, self.n_fft), stride=(1, self.hop_length))
        return summed[:, 0, 0, padding : length - padding]


class ISTFTHead(nn.Module):
    """Linear map to log magnitude and phase, then the inverse STFT (Vocos, section 3.3)."""

    def __init__(self, dim: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, n_fft + 2)
        self.istft = InverseSTFT(n_fft, hop_length)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to a waveform (B, S)."""
        log_magnitude, phase = self.out(x).transpose(1, 2).float().chunk(2, dim=1)
        # The limit, which Vocos has too, keeps an untrained head from overflowing.
        magnitude = torch.exp(log_magnitude).clamp(max=100.0)
        return self.istft(torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase)))


class AcousticDecoder(nn.Module):
    """Residual quantizer, and Vocos from latents (B, D, T) to a waveform (B, S)."""

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        sizes = (config.latent_dim, config.num_quantizers, config.codebook_size, config.codebook_dim)
        self.quantizer = ResidualVectorQuantizer(*sizes, config.quantizer_dropout)
        sizes = (config.latent_dim, config.vocos_dim, config.vocos_intermediate_dim, config.vocos_num_layers)
        backbone = ConvNeXtBackbone(*sizes)
        head = ISTFTHead(config.vocos_dim, config.n_fft, config.hop_size)
        self.model = nn.Sequential(OrderedDict(backbone=backbone, head=head))


class AcousticCodec(nn.Module):
    """Encoder, quantizer and decoder in one module."""

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MelEncoder(config) if config.mel_encoder_layers else AcousticEncoder(config)
        self.decoder = AcousticDecoder(config)

    def forward(self, wave: Tensor) -> tuple[Tensor, Quantized]:
        """Return the reconstruction (B, S) of wave (B, S), and what the quantizer did; S is a multiple of the hop."""
        quantized = self.decoder.quantizer(self.encoder(wave[:, None]))
        return self.decoder.model(quantized.latents), quantized

    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return acoustic tokens (B, T, Q) of wave (B, S); the end is zero-padded to a whole frame.

        With `lengths` (B,) samples, after which wave must be zero, a row's tokens are what it has alone, up to its end.
        """
        hop = self.config.hop_size
        whole = None if lengths is None else -(-lengths // hop) * hop
        latents = self.encoder(F.pad(wave, (0, -wave.shape[-1] % hop))[:, None], whole)
        return self.decoder.quantizer(latents).codes.permute(1, 2, 0)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return a waveform (B, T · hop) of acoustic tokens (B, T, Q'), Q' at most Q."""
        return self.decoder.model(self.decoder.quantizer.decode(tokens.permute(2, 0, 1)))
