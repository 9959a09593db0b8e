"""Adapters that bring a frame-level condition to the width of the token embeddings, to which it is added.

Shape letters: B batch, T frames, C condition width, H hidden width. Parameter names are the published ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metis_lightning.models.backbone import initialise


class GatedAdapter(nn.Module):
    """An MLP times a scalar gate that starts at 0: at first the condition changes nothing (VC, TSE, SE, Omni).

    Its maps start as the backbone's do, which is what the released code does.
    """

    def __init__(self, cond_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.cond_dim = cond_dim
        self.in_linear = initialise(nn.Linear(cond_dim, 4 * hidden_size))
        self.out_linear = initialise(nn.Linear(4 * hidden_size, hidden_size))
        self.gate_scale = nn.Parameter(torch.zeros(1))

    def forward(self, condition: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, H)."""
        return self.gate_scale * self.out_linear(F.silu(self.in_linear(condition)))


class PlainAdapter(nn.Sequential):
    """The same MLP without a gate (L2S); its maps start as torch's do, in the released code too."""

    def __init__(self, cond_dim: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(cond_dim, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size))
        self.cond_dim = cond_dim
