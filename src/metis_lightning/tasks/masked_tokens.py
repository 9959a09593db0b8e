"""Masked tokens: the targets of a batch, their cross-entropy, and the curve that validation logs of it.

Shape letters: B batch, T frames, M masked positions of a batch, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from metis_lightning.models.masking import Masking, mask_ratio
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import SpeechBatch

BINS = 5
"""Of the mask ratio, equally wide."""


def masked_scores(logits_MV: Tensor, targets_M: Tensor) -> Mapping[str, Tensor]:
    """Return the mean cross-entropy in nats (`loss`) and the share of right first guesses (`acc`)."""
    return {
        "loss": F.cross_entropy(logits_MV, targets_M),
        "acc": (logits_MV.argmax(dim=-1) == targets_M).float().mean(),
    }


class MaskRatioCurve(Metric):
    """Loss and accuracy on masked tokens by the mask ratio γ(t) of their rows, over a whole validation.

    A model is easy to compare with another by this curve: the mean over all tokens hides how much was masked.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Sums of the cross-entropy; numbers of right guesses and of tokens. Not in float64, which Apple GPUs lack.
        self.add_state("losses", torch.zeros(BINS), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(2, BINS, dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, logits_MV: Tensor, targets_M: Tensor, masking: Masking) -> None:
        """Count the masked tokens of a batch, in the order of `masking.mask`."""
        ratio_M = masking.masked(mask_ratio(masking.t)[:, None].expand(masking.mask.shape))
        bins_M = (ratio_M * BINS).long().clamp(max=BINS - 1)
        right = logits_MV.argmax(dim=-1) == targets_M
        losses_M = F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
        values = torch.stack([losses_M, right, torch.ones_like(right)])
        totals = self.losses.new_zeros(3, BINS).index_add_(1, bins_M, values)
        self.losses += totals[0]
        self.counts += totals[1:].long()

    def compute(self) -> dict[str, Tensor]:
        """Return `loss_mask_00-20`, `acc_mask_00-20`, … (percent), without the bins that have no token."""
        right, counts = self.counts
        names = [f"mask_{100 * i // BINS:02}-{100 * (i + 1) // BINS}" for i in range(BINS)]
        filled = [(i, name) for i, name in enumerate(names) if counts[i]]
        kinds = (("loss", self.losses), ("acc", right))
        return {f"{kind}_{name}": (sums[i] / counts[i]).float() for kind, sums in kinds for i, name in filled}


def frame_mask(frames: Tensor, length: int) -> Tensor:
    """Return (B, length), True on the first `frames` (B,) positions of each row."""
    return torch.arange(length, device=frames.device) < frames[:, None]


def ssl_targets(tokenizer: SpeechTokenizer, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """Return the SSL tokens (B, T) of a batch, read from a store or made of its waves, and frame counts (B,)."""
    if batch.ssl_tokens is None:
        return tokenizer.ssl_tokens(batch.wave, batch.lengths)
    frames = tokenizer.num_frames(batch.lengths)
    return batch.ssl_tokens[:, : int(frames.max())], frames
