"""Layers of Whisper's encoder as an SSL front end, whose hidden states hold words and little of the voice.

Recordings are not padded to 30 s as in the released model, and rows of a batch are what they are alone.
Shape letters: B batch, S samples at 16 kHz, M mel frames at 100 Hz, T frames at 50 Hz, C feature width, F mel bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metis_lightning.tokens.mel import slaney_filters
from metis_lightning.tokens.ssl_features import SSLFeatures

N_FFT, MEL_HOP = 400, 160
# Length of the released table of positions: 30 s.
RELEASED_FRAMES = 1500


class WhisperFeatures(SSLFeatures):
    """Hidden states after `num_layers` of Whisper's encoder (2212.04356, section 2.2), by stored mean and deviation.

    These layers, without the final layer norm, are a part of this module's weights. Width, attention heads and mel bins
    are those of Whisper base; large-v3 has 128 bins.
    """

    mel_bank: Tensor
    window: Tensor
    positions: Tensor

    def __init__(self, num_layers: int = 4, dim: int = 512, num_heads: int = 8, num_mels: int = 80) -> None:
        super().__init__(dim)
        self.num_layers, self.num_heads, self.num_mels = num_layers, num_heads, num_mels
        self.conv1 = nn.Conv1d(num_mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads) for _ in range(num_layers))
        # Rebuilt at construction, so not a part of the weights.
        self.register_buffer("mel_bank", slaney_filters(self.sample_rate, N_FFT, num_mels), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("positions", sinusoids(RELEASED_FRAMES, dim), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return one frame for every 320 samples begun with at least half."""
        return (num_samples // MEL_HOP + 1) // 2

    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, C) of wave (B, S); frames after `lengths` hold no meaning."""
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device) if lengths is None else lengths
        return self.encode(self.log_mel(wave, lengths), lengths // MEL_HOP)

    def log_mel(self, wave: Tensor, lengths: Tensor) -> Tensor:
        """Return Whisper's input (B, F, M): log10 of mel powers, at most 8 below the row's largest, as (x + 4) / 4."""
        # As in the released code the beginning is mirrored, and silence follows the end, half a window of it in sight.
        inside = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
        padded = F.pad(F.pad((wave * inside)[:, None], (N_FFT // 2, 0), mode="reflect")[:, 0], (0, N_FFT // 2))
        spectrum = torch.stft(padded, N_FFT, MEL_HOP, window=self.window, center=False, return_complex=True)
        mel = self.mel_bank @ spectrum[..., : wave.shape[1] // MEL_HOP].abs().square()
        log_mel = mel.clamp(min=1e-10).log10()
        frames = torch.arange(log_mel.shape[-1], device=wave.device) < (lengths // MEL_HOP)[:, None]
        largest = log_mel.masked_fill(~frames[:, None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        log_mel = torch.maximum(log_mel, largest - 8.0)
        return ((log_mel + 4.0) / 4.0).masked_fill(~frames[:, None], 0.0)

    def encode(self, log_mel: Tensor, mel_frames: Tensor) -> Tensor:
        """Return hidden states (B, ceil(M / 2), C) of log_mel (B, F, M), zero after each row's `mel_frames` (B,)."""
        inside = torch.arange(log_mel.shape[-1], device=log_mel.device) < mel_frames[:, None]
        hidden = F.gelu(self.conv1(log_mel)) * inside[:, None]
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        valid = torch.arange(hidden.shape[1], device=hidden.device) < ((mel_frames + 1) // 2)[:, None]
        count = hidden.shape[1]
        in_table = count <= RELEASED_FRAMES
        hidden = hidden + (self.positions[:count] if in_table else sinusoids(count, self.dim).to(self.positions))
        # A row without a frame has nothing to attend to: let it look at everything, what comes out has no meaning.
        mask = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


class EncoderLayer(nn.Module):
    """One pre-norm layer: self-attention, then a network of two linear maps with a GELU between them."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return hidden (B, T, C) after the layer; mask (B, 1, 1, T) says which frames are attended to."""
        projected = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.mlp_norm(hidden))


def sinusoids(num_frames: int, dim: int) -> Tensor:
    """Return Whisper's positions (T, C): sines, then cosines, of wavelengths from 2π to 20,000π frames."""
    scale = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2, dtype=torch.float64))
    angles = torch.arange(num_frames, dtype=torch.float64)[:, None] * scale
    # Rounded as the released table is stored, which ends at 30 s.
    return torch.cat([angles.sin(), angles.cos()], dim=1).half().float()
