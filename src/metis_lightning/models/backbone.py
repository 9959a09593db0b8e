"""The bidirectional Llama that both stages share, with RMSNorm adapted to the diffusion step.

Shape letters: B batch, T positions, H hidden width, N heads, D head width, L layers.
Parameter names are those of the published checkpoints (MaskGCT, 2409.00750; Metis, 2502.03128).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Layout:
    """Where sequences stand in x (B, T, H), and so what attends to what."""

    rotation: tuple[Tensor, Tensor]  # cosines and sines (T, D) of the positions
    mask: Tensor | None = None  # (B, 1, 1, T), True where a position is attended to; None if all are
    # Of sequences one after another along T, each attending to itself alone; empty if a row is one sequence.
    lengths: tuple[int, ...] = ()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q kᵀ/√D) v, all (B, N, T, D)."""
        q, k = rotate(q, self.rotation), rotate(k, self.rotation)
        if len(self.lengths) < 2:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        # Each sequence by itself is what it would be alone, to the last bit, and no work is done for padding.
        parts = zip(*(heads.split(self.lengths, dim=2) for heads in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)


class AdaptiveRMSNorm(nn.Module):
    """RMSNorm whose scale is a linear function of the step embedding."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.to_weight = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.to_weight.weight)
        nn.init.ones_(self.to_weight.bias)
        self.eps = eps

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Normalise x (B, T, H) with a scale that broadcasts to it, `to_weight` of a step's embedding."""
        # In float32: squares of bfloat16 hidden states lose what the mean is about.
        normalised = x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + self.eps)
        return (scale * normalised).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over all positions, with rotary position embedding."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        if hidden_size % num_heads or (hidden_size // num_heads) % 2:
            raise ValueError(f"hidden_size {hidden_size} must be an even multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(4)
        )
        # q, k and v at once, in models that `inference.prepare_for_inference` has converted.
        self.qkv_proj: nn.Module | None = None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Attend x (B, T, H) to itself."""
        if self.qkv_proj is None:
            projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        else:
            projected = self.qkv_proj(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        return self.o_proj(layout.attend(q, k, v).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated feed-forward network (2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(hidden_size, intermediate_size, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        # Gate and up at once, as `Attention.qkv_proj`.
        self.gate_up_proj: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, H) to (B, T, H)."""
        joined = self.gate_up_proj
        gate, up = (self.gate_proj(x), self.up_proj(x)) if joined is None else joined(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each after an adaptive norm and on a residual path."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.input_layernorm = AdaptiveRMSNorm(hidden_size)
        self.self_attn = Attention(hidden_size, num_heads)
        self.post_attention_layernorm = AdaptiveRMSNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size, 4 * hidden_size)

    def forward(self, x: Tensor, attention_scale: Tensor, mlp_scale: Tensor, layout: Layout) -> Tensor:
        """Map (B, T, H) to (B, T, H) with the scales of the norms before attention and MLP."""
        x = x + self.self_attn(self.input_layernorm(x, attention_scale), layout)
        return x + self.mlp(self.post_attention_layernorm(x, mlp_scale))


class Backbone(nn.Module):
    """Transformer over token embeddings at diffusion step t, with an MLP for phones or SSL tokens if `cond_mlp`."""

    def __init__(self, hidden_size: int, num_layers: int, num_heads: int, cond_mlp: bool) -> None:
        super().__init__()
        self.hidden_size, self.head_dim = hidden_size, hidden_size // num_heads
        self.layers = nn.ModuleList(TransformerBlock(hidden_size, num_heads) for _ in range(num_layers))
        self.norm = AdaptiveRMSNorm(hidden_size)
        self.diff_step_mlp = condition_mlp(hidden_size)
        self.cond_mlp = condition_mlp(hidden_size) if cond_mlp else None
        initialise(self)
        # Training then keeps each layer's input only and computes the rest again for the gradients.
        self.checkpoint_activations = False

    def forward(self, x: Tensor, t: Tensor, x_mask: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, H) of embeddings x (B, T, H) at steps t (B,) from 1, all masked, to 0.

        `x_mask` (B, T) is nonzero where a position is not padding; None if nothing is.
        """
        cos, sin = rotary_embedding(x.shape[1], self.head_dim, x)
        # In the type that queries and keys come in: tables in float32 would have mixed precision rotate in float32.
        device = x.device.type
        is_mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_mixed else x.dtype
        mask = None if x_mask is None else x_mask.bool()[:, None, None]
        # (B, 1, H) each, to broadcast over the positions of a row.
        scales = [scale[:, None] for scale in self.norm_scales(t, x.dtype).unbind(dim=1)]
        return self.scaled(x, scales, Layout((cos.to(dtype), sin.to(dtype)), mask))

    def scaled(self, x: Tensor, scales: Tensor | Sequence[Tensor], layout: Layout) -> Tensor:
        """Return hidden states (B, T, H), given the scales of the 2 L + 1 norms, each to broadcast to x."""
        recompute = self.checkpoint_activations and torch.is_grad_enabled()
        for index, block in enumerate(self.layers):
            arguments = (x, scales[2 * index], scales[2 * index + 1], layout)
            x = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        return self.norm(x, scales[-1])

    def step_embedding(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Return embeddings (B, H) of steps t (B,): sines then cosines at frequencies from 1 to 1/10000, and an MLP."""
        half = self.hidden_size // 2
        frequencies = torch.exp(torch.arange(half, device=t.device) * -(math.log(10_000) / (half - 1)))
        angles = t.float()[:, None] * frequencies
        return self.diff_step_mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype))

    def norm_scales(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the scales (B, 2 L + 1, H) of all norms of L layers at steps t (B,), in the order of their use."""
        # By t alone, so a schedule's are computed once: their maps are a tenth of the model's weights.
        step_BH = self.step_embedding(t, dtype)
        norms = [module for module in self.modules() if isinstance(module, AdaptiveRMSNorm)]
        return torch.stack([norm.to_weight(step_BH) for norm in norms], dim=1)


def condition_mlp(hidden_size: int) -> nn.Sequential:
    """Return the MLP that the embeddings of steps and conditions pass through."""
    mlp = nn.Sequential(nn.Linear(hidden_size, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size))
    return initialise(mlp)


def initialise(module: Layer) -> Layer:
    """Draw the weights of all linear maps and embeddings from N(0, 0.02²), set biases to 0, and return the module."""
    # Adaptive norms start with scale 1 at every step: the released ones are marked to be left so, though the mark does
    # not reach the map in them under every version of transformers.
    scales = {id(norm.to_weight) for norm in module.modules() if isinstance(norm, AdaptiveRMSNorm)}
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding) and id(part) not in scales:
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None and id(part) not in scales:
            nn.init.zeros_(part.bias)
    return module


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
