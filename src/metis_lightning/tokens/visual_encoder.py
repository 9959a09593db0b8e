"""From pictures of a mouth to lip features, 25 a second: the interface, and Auto-AVSR's encoder.

Shape letters: B batch, F frames at 25 Hz, C feature width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metis_lightning.data.mouth_pictures import CROP, encoder_input
from metis_lightning.tokens.lips import LIP_DIM
from metis_lightning.tokens.rel_conformer import EPS, ConformerBlock, relative_positions
from metis_lightning.tokens.visual_frontend import VisualFrontend


class VisualEncoder(nn.Module, ABC):
    """Lip features of mouth pictures: grey, 88 x 88, normalised (`data.mouth_pictures.encoder_input`).

    Attributes:
        dim: width of the features.
    """

    dim: int

    @abstractmethod
    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding."""

    @torch.no_grad()
    def features(self, mouths: np.ndarray, device: str = "cpu") -> Tensor:
        """Return the features (F, C) float32, on the CPU, of one video's mouth pictures (F, 96, 96, 3) uint8.

        The encoder must be on `device`, or go there by itself.
        """
        pictures = encoder_input(mouths)[None].to(device)
        return self(pictures, torch.tensor([len(mouths)], device=device))[0].float().cpu()


@dataclass(frozen=True)
class VisualSizes:
    """Sizes of `AutoAvsrEncoder`; the defaults are the published ones.

    dim: width; num_heads: of the attention; hidden: width inside a feed-forward; num_layers: conformer blocks;
    kernel_size: of the convolution over time; channels: of the four stages of the ResNet.
    """

    dim: int = LIP_DIM
    num_heads: int = 12
    hidden: int = 3072
    num_layers: int = 12
    kernel_size: int = 31
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)


class AutoAvsrEncoder(VisualEncoder):
    """The encoder of Auto-AVSR's visual speech recogniser (2303.14307): 3-D convolution, ResNet-18, conformer.

    Its features are what Metis's lip to speech hears with (2502.03128, section 3.5). Dropout is left out: it is used
    frozen. Unlike the published one it keeps padding from reaching into its neighbours, so a row of a batch equals the
    same video alone. Weights: `tokens.auto_avsr.load_auto_avsr`.
    """

    def __init__(self, sizes: VisualSizes = VisualSizes()) -> None:  # noqa: B008  frozen
        super().__init__()
        self.dim = sizes.dim
        self.frontend = VisualFrontend(sizes.channels)
        # A list of one, for the published name `embed.0`.
        self.embed = nn.ModuleList([nn.Linear(sizes.channels[-1], sizes.dim)])
        self.encoders = nn.ModuleList(
            ConformerBlock(sizes.dim, sizes.num_heads, sizes.hidden, sizes.kernel_size) for _ in range(sizes.num_layers)
        )
        self.after_norm = nn.LayerNorm(sizes.dim, eps=EPS)

    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding."""
        if pictures.shape[-2:] != (CROP, CROP):
            raise ValueError(f"pictures are {tuple(pictures.shape[-2:])}, not {(CROP, CROP)}")
        valid = torch.arange(pictures.shape[1], device=pictures.device) < lengths[:, None]
        # The convolution over time pads with zeros, so padding must be zeros too.
        x = self.frontend(pictures.masked_fill(~valid[..., None, None], 0))
        x = self.embed[0](x) * math.sqrt(self.dim)
        distances = relative_positions(x.shape[1], self.dim, x)
        for block in self.encoders:
            x = block(x, distances, valid)
        return self.after_norm(x).masked_fill(~valid[..., None], 0)
