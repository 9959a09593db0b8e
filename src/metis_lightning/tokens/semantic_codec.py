"""Semantic codec: SSL features to one discrete token a frame, and back (MaskGCT, 2409.00750, section 3.2.1).

Shape letters: B batch, T frames at 50 Hz, C feature width. Parameter names are those of the published checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metis_lightning.tokens.codec_layers import ConvNeXtBackbone, Quantized, ResidualVectorQuantizer, full_precision


@dataclass(frozen=True)
class SemanticCodecConfig:
    """Sizes, named as in the published configuration; the defaults are MaskGCT's.

    With no layers at all the features themselves are quantised: then the tokens are k-means units, as HuBERT's are.
    """

    codebook_size: int = 8192
    hidden_size: int = 1024
    codebook_dim: int = 8
    vocos_dim: int = 384
    vocos_intermediate_dim: int = 2048
    vocos_num_layers: int = 12


class SemanticCodec(nn.Module):
    """ConvNeXt encoder and decoder around one factorised vector quantizer."""

    def __init__(self, config: SemanticCodecConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.hidden_size, config.vocos_dim, config.vocos_intermediate_dim, config.vocos_num_layers)
        self.encoder, self.decoder = (
            nn.Sequential(ConvNeXtBackbone(*sizes), nn.Linear(config.vocos_dim, config.hidden_size))
            if config.vocos_num_layers
            else nn.Sequential()
            for _ in range(2)
        )
        self.quantizer = ResidualVectorQuantizer(config.hidden_size, 1, config.codebook_size, config.codebook_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Quantized]:
        """Return the reconstruction (B, T, C) of features (B, T, C), and what the quantizer did."""
        quantized = self._quantized(features)
        # The decoder follows mixed precision; what makes the tokens does not.
        return self.decoder(quantized.latents if len(self.decoder) else quantized.latents.transpose(1, 2)), quantized

    def quantize(self, features: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T) and quantised latents (B, T, C) of features (B, T, C), of which `frames` (B,) count."""
        quantized = self._quantized(features, frames)
        return quantized.codes[0], quantized.latents.transpose(1, 2)

    def _quantized(self, features: Tensor, frames: Tensor | None = None) -> Quantized:
        with full_precision(features):
            if not len(self.encoder):
                return self.quantizer(features.transpose(1, 2))
            backbone, projection = self.encoder
            return self.quantizer(projection(backbone(features.transpose(1, 2), frames)).transpose(1, 2))
