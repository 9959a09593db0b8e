"""The ConvNeXt backbone of Vocos (2306.00814), used by both codecs.

Shape letters: B batch, C channels, T frames. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def keep(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, C, T) with zeros after the first `lengths` (B,) positions of each row; x itself without lengths.

    Convolutions pad with zeros, so a row that is kept before each of them gives what it would give alone.
    """
    if lengths is None:
        return x
    return x * (torch.arange(x.shape[-1], device=x.device) < lengths[:, None, None])


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a pointwise MLP scaled by `gamma`, on a residual path."""

    def __init__(self, dim: int, intermediate_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        h = self.norm(self.dwconv(x).transpose(1, 2))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2)


class ConvNeXtBackbone(nn.Module):
    """Input convolution, a stack of ConvNeXt blocks, and a final layer norm."""

    def __init__(self, in_channels: int, dim: int, intermediate_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_channels, dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(dim, intermediate_dim, 1 / num_layers) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(_initialise)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map (B, C_in, T) to (B, T, C): the output is channels-last.

        With `lengths` (B,) the first frames of each row are what the row gives alone; what follows has no meaning.
        """
        h = self.norm(self.embed(keep(x, lengths)).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            h = block(keep(h, lengths))
        return self.final_layer_norm(h.transpose(1, 2))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
