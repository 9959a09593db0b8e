"""From pictures of a mouth to lip features, and on to the token rate: the encoders' interface, and Auto-AVSR's.

That is a 3-D convolution and a ResNet-18 (2303.14307, before it 2102.06657), then conformer blocks (2005.08100) with
relative positions (Transformer-XL, 1901.02860), as in ESPnet. Names of weights are the published ones.
Shape letters: B batch, F frames at 25 Hz, N pictures, A heads, D width of a head, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metis_lightning.data.recipes.l2s import CROP, encoder_input

# Width of the features of the visual speech recogniser that the paper uses.
LIP_DIM = 768
# Of the layer norms; PyTorch's default is 1e-5.
EPS = 1e-12
# Frames on each side that the 3-D convolution sees.
_REACH = 2
# Pictures at a time in inference: 88 x 88 pixels in 64 channels are half a megabyte a picture.
_CHUNK = 200


class VisualEncoder(nn.Module, ABC):
    """Lip features, `dim` wide, of mouth pictures: grey, 88 x 88, normalised (`data.recipes.l2s.encoder_input`)."""

    dim: int

    @abstractmethod
    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding."""

    @torch.no_grad()
    def features(self, mouths: np.ndarray, device: str = "cpu") -> Tensor:
        """Return the features (F, C) float32, on the CPU, of one video's mouth pictures (F, 96, 96, 3) uint8."""
        # The encoder is on the device, or goes there by itself.
        pictures = encoder_input(mouths)[None].to(device)
        return self(pictures, torch.tensor([len(mouths)], device=device))[0].float().cpu()

    def identity(self) -> dict[str, Any]:
        """Return what tells this encoder from others, as JSON has it: class, width, SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            digest.update(value.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return {"class": type(self).__name__, "dim": self.dim, "weights_sha256": digest.hexdigest()}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added (ResNet, 1512.03385), with SiLU for ReLU."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.downsample = None
        if stride != 1 or dim_in != dim:
            self.downsample = nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = nn.functional.silu(self.bn1(self.conv1(x)))
        return nn.functional.silu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """The four stages of ResNet-18 and the mean over what is left of the picture."""

    def __init__(self, dims: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        for number, (dim_in, dim) in enumerate(pairwise((dims[0], *dims)), start=1):
            blocks = BasicBlock(dim_in, dim, stride=1 if number == 1 else 2), BasicBlock(dim, dim, stride=1)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C')."""
        for stage in self.children():
            x = stage(x)
        return x.mean(dim=(2, 3))


class VisualFrontend(nn.Module):
    """Pictures to vectors: a 5 x 7 x 7 convolution over time and space, then ResNet-18 on each frame."""

    def __init__(self, dims: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, dims[0], (5, 7, 7), (1, 2, 2), (_REACH, 3, 3), bias=False),
            nn.BatchNorm3d(dims[0]),
            nn.SiLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.trunk = ResNet18(dims)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (B, F, H, W) to (B, F, C)."""
        count = pictures.shape[1]
        # Without gradients long videos go through in pieces, which overlap by what the convolution sees.
        length = count if torch.is_grad_enabled() else _CHUNK
        pieces = []
        for start in range(0, count, length):
            first = max(0, start - _REACH)
            x = self.frontend3D(pictures[:, None, first : start + length + _REACH]).transpose(1, 2)
            x = self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            pieces.append(x[:, start - first : start - first + length])
        return torch.cat(pieces, dim=1)


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


@dataclass(frozen=True)
class VisualSizes:
    """Sizes of `AutoAvsrEncoder`, the defaults the published ones."""

    dim: int = LIP_DIM
    num_heads: int = 12
    hidden: int = 3072  # inside a feed-forward
    num_layers: int = 12
    kernel_size: int = 31  # of the convolution over time
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)  # of the ResNet


class AutoAvsrEncoder(VisualEncoder):
    """The encoder of Auto-AVSR's visual speech recogniser (2303.14307): 3-D convolution, ResNet-18, conformer.

    Its features are the condition of Metis's lip to speech (2502.03128, section 3.5). Frozen, it has no dropout. Unlike
    in the published one padding does not reach into its neighbours: a row of a batch equals the same video alone.
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


def double_rate(features: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return features (B, 2F, C) at twice the rate, interpolated linearly (as `align_corners=False`) within `lengths`.

    >>> double_rate(torch.tensor([[[0.0], [4.0]]])).flatten()
    tensor([0., 1., 3., 4.])
    """
    batch, count, dim = features.shape
    lengths = torch.full((batch,), count, device=features.device) if lengths is None else lengths
    last = (lengths - 1).clamp(min=0)[:, None]
    position = (torch.arange(2 * count, device=features.device) + 0.5) / 2 - 0.5
    # Within the row: its padding does not show in its last frame.
    position = torch.minimum(position.clamp(min=0), last)
    low = position.floor().long()
    high = torch.minimum(low + 1, last)
    before, after = (features.gather(1, index[..., None].expand(-1, -1, dim)) for index in (low, high))
    weight = (position - low)[..., None]
    return before * (1 - weight) + after * weight


def fit_frames(features: Tensor, length: int) -> Tensor:
    """Return features (B, `length`, C), cut or followed by zeros: video and audio differ by a frame or two."""
    return nn.functional.pad(features[:, :length], (0, 0, 0, max(0, length - features.shape[1])))
