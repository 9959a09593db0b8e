"""Lip features at 25 frames a second, brought to the token rate.

Shape letters: B batch, F frames at 25 Hz, C feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

LIP_DIM = 768
"""Width of the features of the visual speech recogniser that the paper uses."""


def double_rate(features: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return features (B, 2F, C) at twice the rate, interpolated linearly (as `align_corners=False`).

    Each row is interpolated within its own `lengths` (B,), so that its padding does not show in its last frame.

    >>> double_rate(torch.tensor([[[0.0], [4.0]]])).flatten()
    tensor([0., 1., 3., 4.])
    """
    count = features.shape[1]
    last = features.new_full((len(features),), count).long() if lengths is None else lengths
    last = (last - 1).clamp(min=0)
    position = (torch.arange(2 * count, device=features.device) + 0.5) / 2 - 0.5
    position = torch.minimum(position.clamp(min=0)[None], last[:, None])
    low = position.floor().long()
    high = torch.minimum(low + 1, last[:, None])
    weight = (position - low)[..., None]
    return _pick(features, low) * (1 - weight) + _pick(features, high) * weight


def fit_frames(features: Tensor, length: int) -> Tensor:
    """Return features (B, `length`, C): cut, or followed by zeros.

    Video and audio of a clip differ by a frame or two.
    """
    return pad(features[:, :length], (0, 0, 0, max(0, length - features.shape[1])))


def _pick(features: Tensor, index: Tensor) -> Tensor:
    """Return the frames (B, N, C) of features (B, F, C) at index (B, N)."""
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))
