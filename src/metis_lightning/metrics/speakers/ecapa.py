"""ECAPA-TDNN: from frames to one speaker embedding, as in UniSpeech's speaker verification.

Desplanques et al., ECAPA-TDNN (2020), in the variant with 512 channels, without context in its attention, which
microsoft/UniSpeech puts over WavLM. Every convolution is followed by ReLU, then batch normalisation.

Shape letters: B batch, C channels, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDE = 1536
_BOTTLENECK = 128
_SCALE = 8


class ConvReluNorm(nn.Module):
    """Convolution that keeps the length, ReLU, batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> None:
        """Make the layers with random weights."""
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, padding=padding, dilation=dilation)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', T)."""
        return self.bn(self.conv(x).relu())


class Res2(nn.Module):
    """Res2Net: channels in groups, each convolved after the group before was added to it; the last stays as it is."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        """Make the layers with random weights."""
        super().__init__()
        width = channels // _SCALE
        self.groups = nn.ModuleList(ConvReluNorm(width, width, kernel_size, dilation) for _ in range(_SCALE - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        *parts, untouched = x.chunk(_SCALE, dim=1)
        made: list[Tensor] = []
        for part, group in zip(parts, self.groups, strict=True):
            made.append(group(part + made[-1] if made else part))
        return torch.cat([*made, untouched], dim=1)


class ChannelGate(nn.Module):
    """Squeeze and excitation: each channel times a number between 0 and 1 that all channels' means decide."""

    def __init__(self, channels: int) -> None:
        """Make the layers with random weights."""
        super().__init__()
        self.linear1 = nn.Linear(channels, _BOTTLENECK)
        self.linear2 = nn.Linear(_BOTTLENECK, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        return x * self.linear2(self.linear1(x.mean(dim=2)).relu()).sigmoid().unsqueeze(2)


class Block(nn.Module):
    """A residual block of four steps."""

    def __init__(self, channels: int, dilation: int) -> None:
        """Make the layers with random weights."""
        super().__init__()
        self.before = ConvReluNorm(channels, channels)
        self.res2 = Res2(channels, 3, dilation)
        self.after = ConvReluNorm(channels, channels)
        self.gate = ChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        return x + self.gate(self.after(self.res2(self.before(x))))


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, weighted for each channel by attention."""

    def __init__(self, channels: int) -> None:
        """Make the layers with random weights."""
        super().__init__()
        self.linear1 = nn.Conv1d(channels, _BOTTLENECK, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C)."""
        weights = self.linear2(self.linear1(x).tanh()).softmax(dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * x.square()).sum(dim=2) - mean.square()
        return torch.cat([mean, variance.clamp_min(1e-9).sqrt()], dim=1)


class EcapaTdnn(nn.Module):
    """The network: (B, C, T) features, normalised over time here, to (B, 256) embeddings."""

    def __init__(self, features: int, channels: int = 512, dim: int = 256) -> None:
        """Make the layers with random weights; `features` is C of the input, `dim` the size of an embedding."""
        super().__init__()
        self.instance_norm = nn.InstanceNorm1d(features)
        self.layer1 = ConvReluNorm(features, channels, 5)
        self.layer2, self.layer3, self.layer4 = (Block(channels, dilation) for dilation in (2, 3, 4))
        self.conv = nn.Conv1d(3 * channels, _WIDE, 1)
        self.pooling = AttentivePooling(_WIDE)
        self.bn = nn.BatchNorm1d(2 * _WIDE)
        self.linear = nn.Linear(2 * _WIDE, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T) features to (B, dim) embeddings, not of unit length."""
        first = self.layer2(self.layer1(self.instance_norm(features)))
        second = self.layer3(first)
        blocks = torch.cat([first, second, self.layer4(second)], dim=1)
        return self.linear(self.bn(self.pooling(self.conv(blocks).relu())))
