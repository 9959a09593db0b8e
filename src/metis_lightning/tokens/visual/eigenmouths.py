"""A visual encoder of a few thousand numbers: principal components of mouth pictures ("eigenlips", Bregler 1994).

Shape letters: B batch, F frames at 25 Hz, K components, P pooled pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.data.recipes.l2s import CROP
from metis_lightning.tokens.tokenizer import frozen_arithmetic
from metis_lightning.tokens.visual.encoder import VisualEncoder

_POOL = 4
PIXELS = (CROP // _POOL) ** 2


class EigenMouths(VisualEncoder):
    """Principal components of pictures pooled 4 x 4, less a video's own mean picture: it has the face and the light.

    What is left is how the mouth moves, so few components will do, and `fit` needs no labels. For drawn mouths and
    small models: of filmed faces, other than Auto-AVSR's features, they say little that a turn of the head does not.
    """

    components: Tensor

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.dim = dim
        # Of each pooled pixel, in units of a component's deviation: (P, K).
        self.register_buffer("components", torch.zeros(PIXELS, dim))

    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, K) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding."""
        inside = torch.arange(pictures.shape[1], device=pictures.device) < lengths.to(pictures.device)[:, None]
        with frozen_arithmetic(pictures):
            return moving_parts(pictures.float(), inside) @ self.components

    @torch.no_grad()
    def fit(self, videos: Iterable[Tensor]) -> float:
        """Set the components from videos (F, 88, 88); return the share of the variance that they hold."""
        scatter, frames = torch.zeros(PIXELS, PIXELS, dtype=torch.float64), 0
        for video in videos:
            moving = moving_parts(video[None], torch.ones(1, len(video), dtype=torch.bool))[0].double()
            scatter += moving.T @ moving
            frames += len(video)
        variances, vectors = torch.linalg.eigh(scatter / frames)
        largest, directions = variances[-self.dim :].flip(0), vectors[:, -self.dim :].flip(1)
        self.components.copy_(directions / largest.clamp(min=1e-8).sqrt())
        return float(largest.sum() / variances.sum())


def moving_parts(pictures: Tensor, inside: Tensor) -> Tensor:
    """Return pooled pictures (B, F, P) less their mean over the frames where inside (B, F) is True; zeros elsewhere."""
    pooled = F.avg_pool2d(pictures, _POOL).flatten(2)
    counted = inside[..., None].to(pooled.dtype)
    mean = (pooled * counted).sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True).clamp(min=1)
    return (pooled - mean) * counted
