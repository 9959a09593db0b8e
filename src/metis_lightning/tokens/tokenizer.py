"""From a batch of waveforms to features and tokens: the one place where rates and frame counts are reconciled.

Shape letters: B batch, S samples, T frames at 50 Hz, C feature width, Q quantizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torchaudio
from torch import Tensor, nn

from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.precision import full_precision, settled_products
from metis_lightning.tokens.semantic_codec import SemanticCodec
from metis_lightning.tokens.ssl_features import SSLFeatures
from metis_lightning.types import WAVE_RATE


class SpeechTokenizer(nn.Module):
    """Frozen front end of both stages: SSL features and tokens, acoustic tokens, and back to a waveform."""

    def __init__(
        self, features: SSLFeatures, semantic_codec: SemanticCodec, acoustic_codec: AcousticCodec | None = None
    ) -> None:
        super().__init__()
        self.features, self.semantic_codec, self.acoustic_codec = features, semantic_codec, acoustic_codec
        self.resample = torchaudio.transforms.Resample(WAVE_RATE, features.sample_rate)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> SpeechTokenizer:
        """Stay in evaluation mode: the front end is frozen."""
        return super().train(False)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the SSL frames (B,) of `lengths` (B,) samples at 24 kHz; what is negative stays -1."""
        frames = self.features.num_frames(resampled_length(lengths.clamp(min=0), self.features.sample_rate))
        return torch.where(lengths < 0, -1, frames)

    def ssl_features(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features (B, T, C) and frame counts (B,) of wave (B, S) at 24 kHz."""
        with frozen(wave):
            return self.features(self.resample(wave), resampled_length(lengths, self.features.sample_rate))

    def ssl_tokens(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return SSL tokens (B, T) and frame counts (B,) of wave (B, S) at 24 kHz.

        A row's tokens are those that it has alone, whatever it is padded with, but for ties within float rounding.
        """
        with frozen(wave):
            features, frames = self.ssl_features(wave, lengths)
            return self.semantic_codec.quantize(features, frames)[0], frames

    def acoustic_tokens(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return acoustic tokens (B, T, Q) of wave (B, S) at 24 kHz, zero after `lengths` (B,) samples of each row."""
        with frozen(wave):
            return self._codec().encode(wave, lengths)

    def wave(self, acoustic_tokens: Tensor) -> Tensor:
        """Return a waveform (B, T · 480) at 24 kHz of acoustic tokens (B, T, Q)."""
        with frozen(acoustic_tokens):
            return self._codec().decode(acoustic_tokens)

    def _codec(self) -> AcousticCodec:
        if self.acoustic_codec is None:
            raise ValueError("this tokenizer was built without an acoustic codec")
        return self.acoustic_codec


@contextmanager
def frozen(like: Tensor) -> Iterator[None]:
    """Within the block there are no gradients and no mixed precision, on which tokens must not depend.

    Products are of `precision.arithmetic`, which is a part of the tokens' fingerprints.
    """
    with torch.no_grad(), full_precision(like), settled_products(like):
        yield


def resampled_length(lengths: Tensor, sample_rate: int) -> Tensor:
    """Return ceil(lengths · sample_rate / 24000), as torchaudio's resampler gives."""
    return -(-lengths * sample_rate // WAVE_RATE)
