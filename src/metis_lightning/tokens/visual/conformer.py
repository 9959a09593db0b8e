"""Conformer blocks (2005.08100) with relative positions (Transformer-XL, 1901.02860), as in ESPnet and Auto-AVSR.

Names of weights are the published ones. Shape letters: B batch, F frames, A heads, D width of a head, C width.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

# Of the layer norms; PyTorch's default is 1e-5.
EPS = 1e-12


class RelativeAttention(nn.Module):
    """Multi-head attention whose scores also depend on how far apart two frames are, either way.

    score(i, j) = ((q_i + u) . k_j + (q_i + v) . W r_(i-j)) / sqrt(D), where r is a sinusoid of the distance.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(dim, dim) for _ in range(4))
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.zeros(num_heads, dim // num_heads)) for _ in range(2))

    def forward(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        """Map x (B, F, C) to the same, given `relative_positions` (2F - 1, C).

        `valid` (B, F) is True where frames are not padding, at least one a row.
        """
        projected = (self.linear_q(x), self.linear_k(x), self.linear_v(x), self.linear_pos(distances)[None])
        q, k, v, r = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        by_distance = (q + self.pos_bias_v[:, None]) @ r.transpose(-2, -1)
        # Of query i and key j, (F, F): column c of the scores by distance holds the distance F - 1 - c.
        place = torch.arange(x.shape[1], device=x.device)
        column = len(place) - 1 - place[:, None] + place
        scores = by_distance.gather(-1, column.expand(*by_distance.shape[:-1], -1))
        # They go in as the mask, which is added to the scores by content.
        bias = scores / math.sqrt(q.shape[-1])
        bias = bias.masked_fill(~valid[:, None, None], -torch.inf)
        mixed = nn.functional.scaled_dot_product_attention(q + self.pos_bias_u[:, None], k, v, attn_mask=bias)
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


def relative_positions(count: int, dim: int, like: Tensor) -> Tensor:
    """Return sinusoids (2 * `count` - 1, `dim`) of the distances from query back to key, `count` - 1 to 1 - `count`.

    Sines stand at even places, cosines at odd ones.
    """
    distance = torch.arange(count - 1, -count, -1, device=like.device, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10_000.0) / dim))
    angles = distance[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(like.dtype)


class ConvolutionModule(nn.Module):
    """A gated linear unit, then a convolution over time in each channel."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.pointwise_cov1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.BatchNorm1d(dim)
        self.pointwise_cov2 = nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map (B, F, C) to the same."""
        # Padding is zeros, so that it does not reach into its neighbours.
        x = nn.functional.glu(self.pointwise_cov1(x.transpose(1, 2)), dim=1) * valid[:, None]
        x = nn.functional.silu(self.norm(self.depthwise_conv(x)))
        return self.pointwise_cov2(x).transpose(1, 2)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each behind a norm and added; then a norm."""

    def __init__(self, dim: int, num_heads: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(dim, num_heads)
        self.feed_forward, self.feed_forward_macaron = (
            nn.Sequential(OrderedDict(w_1=nn.Linear(dim, hidden), relu=nn.ReLU(), w_2=nn.Linear(hidden, dim)))
            for _ in range(2)
        )
        self.conv_module = ConvolutionModule(dim, kernel_size)
        self.norm_ff_macaron, self.norm_mha = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.norm_conv, self.norm_ff = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.norm_final = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        """Map (B, F, C) to the same; the arguments are those of `RelativeAttention`."""
        x = x + 0.5 * self.feed_forward_macaron(self.norm_ff_macaron(x))
        x = x + self.self_attn(self.norm_mha(x), distances, valid)
        x = x + self.conv_module(self.norm_conv(x), valid)
        x = x + 0.5 * self.feed_forward(self.norm_ff(x))
        return self.norm_final(x)
