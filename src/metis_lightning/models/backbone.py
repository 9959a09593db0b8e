"""The bidirectional Llama that both stages share, with RMSNorm adapted to the diffusion step.

Shape letters: B batch, T positions, H hidden width, N heads, D head width.
Parameter names are those of the published checkpoints (MaskGCT, 2409.00750; Metis, 2502.03128).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class AdaptiveRMSNorm(nn.Module):
    """RMSNorm whose scale is a linear function of the step embedding."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.to_weight = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.to_weight.weight)
        nn.init.ones_(self.to_weight.bias)
        self.eps = eps

    def forward(self, x: Tensor, step_BH: Tensor) -> Tensor:
        """Normalise x (B, T, H) with the scale of its row's step."""
        normalised = x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + self.eps)
        return (self.to_weight(step_BH)[:, None] * normalised).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over all positions, with rotary position embedding."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        if hidden_size % num_heads or (hidden_size // num_heads) % 2:
            raise ValueError(f"hidden_size {hidden_size} must be an even multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attend x (B, T, H) where mask (B, 1, 1, T) is True."""
        q, k, v = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        attended = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, attn_mask=mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class SwiGLU(nn.Module):
    """Gated feed-forward network (2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, H) to (B, T, H)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each after an adaptive norm and on a residual path."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.input_layernorm = AdaptiveRMSNorm(hidden_size)
        self.self_attn = Attention(hidden_size, num_heads)
        self.post_attention_layernorm = AdaptiveRMSNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size, 4 * hidden_size)

    def forward(self, x: Tensor, step_BH: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Map (B, T, H) to (B, T, H)."""
        x = x + self.self_attn(self.input_layernorm(x, step_BH), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x, step_BH))


class Backbone(nn.Module):
    """Transformer over token embeddings at diffusion step t.

    Args:
        hidden_size, num_layers, num_heads: sizes; the feed-forward width is 4 · hidden_size.
        cond_mlp: whether the model has an MLP for its condition (phones in stage 1, SSL tokens in stage 2).
    """

    def __init__(self, hidden_size: int, num_layers: int, num_heads: int, cond_mlp: bool) -> None:
        super().__init__()
        self.hidden_size, self.head_dim = hidden_size, hidden_size // num_heads
        self.layers = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(num_layers))
        self.norm = AdaptiveRMSNorm(hidden_size)
        self.diff_step_mlp = condition_mlp(hidden_size)
        self.cond_mlp = condition_mlp(hidden_size) if cond_mlp else None
        self.checkpoint_activations = False
        """Whether training keeps each layer's input only and computes the rest again for the gradients."""

    def forward(self, x: Tensor, t: Tensor, x_mask: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, H).

        Args:
            x: (B, T, H) embeddings.
            t: (B,) step in [0, 1], 1 where all is masked.
            x_mask: (B, T), nonzero where a position is not padding; None if nothing is.
        """
        step_BH = self.diff_step_mlp(sinusoidal_embedding(t, self.hidden_size).to(x.dtype))
        rotation = rotary_embedding(x.shape[1], self.head_dim, x)
        mask = None if x_mask is None else x_mask.bool()[:, None, None]
        recompute = self.checkpoint_activations and torch.is_grad_enabled()
        for layer in self.layers:
            if recompute:
                x = checkpoint(layer, x, step_BH, rotation, mask, use_reentrant=False)
            else:
                x = layer(x, step_BH, rotation, mask)
        return self.norm(x, step_BH)


def condition_mlp(hidden_size: int) -> nn.Sequential:
    """Return the MLP that the embeddings of steps and conditions pass through."""
    return nn.Sequential(nn.Linear(hidden_size, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size))


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Return (B, dim) sines then cosines of t (B,) at geometric frequencies from 1 down to 1/10000."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * -(math.log(10_000) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_embedding(length: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, D) of positions 0..length-1, θ = 10000 (RoFormer, 2104.09864)."""
    frequencies = 10_000 ** -(torch.arange(0, head_dim, 2, device=like.device).float() / head_dim)
    angles = torch.arange(length, device=like.device).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (B, N, T, D) by its positions, halves of D paired."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
