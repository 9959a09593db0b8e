"""From a batch of waveforms to features and tokens, and the fingerprints of everything that these follow from.

Shape letters: B batch, S samples, T frames at 50 Hz, C feature width, Q quantizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.codec_layers import full_precision
from metis_lightning.tokens.semantic_codec import SemanticCodec
from metis_lightning.tokens.ssl_features import SSLFeatures
from metis_lightning.types import WAVE_RATE

# Counted up when a release makes other tokens with the same weights.
ALGORITHM = 1


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
        with frozen_arithmetic(wave):
            return self.features(self.resample(wave), resampled_length(lengths, self.features.sample_rate))

    def ssl_tokens(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return SSL tokens (B, T) and frame counts (B,) of wave (B, S) at 24 kHz."""
        # A row's tokens are those that it has alone, but for ties within float rounding.
        with frozen_arithmetic(wave):
            features, frames = self.ssl_features(wave, lengths)
            return self.semantic_codec.quantize(features, frames)[0], frames

    def acoustic_tokens(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return acoustic tokens (B, T, Q) of wave (B, S) at 24 kHz, zero after `lengths` (B,) samples of each row."""
        with frozen_arithmetic(wave):
            return self._codec().encode(wave, lengths)

    def wave(self, acoustic_tokens: Tensor) -> Tensor:
        """Return a waveform (B, T · 480) at 24 kHz of acoustic tokens (B, T, Q)."""
        with frozen_arithmetic(acoustic_tokens):
            return self._codec().decode(acoustic_tokens)

    def _codec(self) -> AcousticCodec:
        if self.acoustic_codec is None:
            raise ValueError("this tokenizer was built without an acoustic codec")
        return self.acoustic_codec


def resampled_length(lengths: Tensor, sample_rate: int) -> Tensor:
    """Return ceil(lengths · sample_rate / 24000), as torchaudio's resampler gives."""
    return -(-lengths * sample_rate // WAVE_RATE)


@contextmanager
def frozen_arithmetic(like: Tensor) -> Iterator[None]:
    """Within the block there are no gradients and no mixed precision, on which tokens must not depend.

    Products of float32 on a tensor's device follow `product_precision`. By torch's default convolutions on a GPU round
    to TF32, which gives up to 2 tokens of a hundred others than a CPU; some CPUs do where it is allowed for a GPU.
    """
    backends: Any = torch.backends
    is_gpu = like.device.type == "cuda"
    kinds = [backends.cudnn.conv] if is_gpu else [backends.mkldnn.matmul, backends.mkldnn.conv]
    chosen = "tf32" if product_precision(like.device) == "tf32" else "ieee"
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = chosen
        with torch.no_grad(), full_precision(like):
            yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value


def product_precision(device: torch.device) -> str:
    """Return what frozen front ends compute in: `float32`, or `tf32` on a GPU where the user allows it."""
    # By `torch.set_float32_matmul_precision("high")`, which counts for convolutions alike.
    products: Any = torch.backends.cuda.matmul
    return "tf32" if device.type == "cuda" and products.fp32_precision == "tf32" else "float32"


def fingerprints(
    tokenizer: SpeechTokenizer, kinds: Iterable[str], device: torch.device | None = None
) -> dict[str, str]:
    """Return the SHA-256 of everything that each kind of array follows from: settings, weights and this code's version.

    The acoustic codec's decoder is left out, which tokens do not depend on: training it on keeps them valid. So is the
    device, by default where the tokenizer is, as long as it computes in float32; in TF32 fingerprints are others.
    w2v-BERT is loaded if it was not yet. A ValueError if there is no such kind, or no codec for it.
    """
    if unknown := set(kinds) - {"features", "ssl", "acoustic"}:
        raise ValueError(f"unknown kinds of tokens: {', '.join(sorted(unknown))}")
    digests = {kind: _digest(tokenizer, kind) for kind in kinds}
    precision = product_precision(device or next(tokenizer.parameters()).device)
    if precision == "float32":
        return digests
    return {kind: hashlib.sha256(f"{precision}|{digest}".encode()).hexdigest() for kind, digest in digests.items()}


def _digest(tokenizer: SpeechTokenizer, kind: str) -> str:
    features, semantic, acoustic = tokenizer.features, tokenizer.semantic_codec, tokenizer.acoustic_codec
    parts: tuple[str, ...] = ("",)
    if kind == "features":
        # Not its configuration: where an encoder was found says nothing that its weights do not.
        settings = {"class": type(features).__name__, "dim": features.dim, "wave_rate": WAVE_RATE}
        weights = {**features.state_dict(), **features.encoder_weights()}
    elif kind == "ssl":
        settings = {"features": _digest(tokenizer, "features"), **asdict(semantic.config)}
        weights, parts = semantic.state_dict(), ("encoder.", "quantizer.")
    elif acoustic is None:
        raise ValueError("acoustic tokens need a tokenizer with an acoustic codec")
    else:
        # The decoder's sizes begin with "vocos_"; dropout works in training alone.
        decoding = ("vocos_", "n_fft", "quantizer_drop")
        settings = {name: size for name, size in asdict(acoustic.config).items() if not name.startswith(decoding)}
        # What stores of older versions did not know has no part where it is off.
        settings = {name: size for name, size in settings.items() if name != "mel_encoder_layers" or size}
        weights, parts = acoustic.state_dict(), ("encoder.", "decoder.quantizer.")
    digest = hashlib.sha256(f"{kind}|{ALGORITHM}|{sorted(settings.items())!r}".encode())
    for name in sorted(name for name in weights if name.startswith(parts)):
        value = weights[name].detach().cpu().contiguous()
        # With name, type and shape: values alone would let two tensors trade places.
        digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
