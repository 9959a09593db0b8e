"""A 3-D convolution and a ResNet-18 over mouth pictures, as in Auto-AVSR (2303.14307) and before it 2102.06657.

Names of weights are the published ones. Shape letters: B batch, F frames at 25 Hz, N pictures, C channels, H height,
W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Frames on each side that the 3-D convolution sees.
_REACH = 2
# Pictures at a time in inference: 88 x 88 pixels in 64 channels are half a megabyte a picture.
_CHUNK = 200


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
        self.layer1 = self._stage(dims[0], dims[0], 1)
        self.layer2 = self._stage(dims[0], dims[1], 2)
        self.layer3 = self._stage(dims[1], dims[2], 2)
        self.layer4 = self._stage(dims[2], dims[3], 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C')."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean(dim=(2, 3))

    @staticmethod
    def _stage(dim_in: int, dim: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(dim_in, dim, stride), BasicBlock(dim, dim, 1))


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
        """Map (B, F, H, W) to (B, F, C).

        Without gradients long videos go through in pieces, which overlap by what the convolution sees.
        """
        count = pictures.shape[1]
        if torch.is_grad_enabled() or count <= _CHUNK:
            return self._encoded(pictures)
        pieces = []
        for start in range(0, count, _CHUNK):
            first = max(0, start - _REACH)
            piece = self._encoded(pictures[:, first : start + _CHUNK + _REACH])
            pieces.append(piece[:, start - first : start - first + _CHUNK])
        return torch.cat(pieces, dim=1)

    def _encoded(self, pictures: Tensor) -> Tensor:
        x = self.frontend3D(pictures[:, None]).transpose(1, 2)
        return self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2])
