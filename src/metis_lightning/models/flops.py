"""Floating-point operations of a training step, counted by arithmetic.

Shape letters: T frames of a row, H hidden width, L layers, V codebook size, M masked frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from metis_lightning.models.backbone import Backbone


def training_flops(
    backbone: Backbone, lengths: Sequence[int], codebook_size: int, masked: float | None = None
) -> float:
    """Return the floating-point operations of a training step on rows of `lengths` T, without any for padding.

    A product of (n, k) by (k, m) counts 2 n k m. A forward pass has, in each of L layers, four maps H² of attention and
    three of 4 H² of the feed-forward network, 2 · T · 16 H² for a row; attention's two products, 4 · T² H; and the head
    on the masked frames alone, 2 · M · H V, for which M is 2/π of all, the mean of the schedule sin(π t / 2), unless
    `masked` tells it. A backward pass has two products for each of the forward's, and one for a map that is not
    trained, as with LoRA, whose own small maps are left out. So are norms, rotations, embeddings, phones, the
    optimizer, a forward pass that is computed again, and the frozen front end, as is usual for a model's utilisation
    (MFU; PaLM, 2204.02311, appendix B).
    """
    width, frames = backbone.hidden_size, sum(lengths)
    weights = [p for name, p in backbone.named_parameters() if name.endswith("mlp.down_proj.weight")]
    passes = 3 if any(weight.requires_grad for weight in weights) else 2
    maps, attention = 2.0 * frames * 16 * width**2, 4.0 * width * sum(length**2 for length in lengths)
    head = 2 * (frames * 2 / math.pi if masked is None else masked) * width * codebook_size
    return len(backbone.layers) * (passes * maps + 3 * attention) + passes * head
