"""Cross-entropy on masked tokens, and what is logged beside it.

Shape letters: B batch, T frames, M masked positions of a batch, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from metis_lightning.models.masking import Masking, mask_ratio

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


class UnigramBaseline(nn.Module):
    """How often each token occurs in training: the predictor that a masked model has to beat.

    The counts are a part of the checkpoint; of several processes each counts its share of the batches.
    """

    counts: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        # One a token: a token never seen still has a chance.
        self.register_buffer("counts", torch.ones(codebook_size, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, tokens: Tensor, valid: Tensor) -> None:
        """Count training tokens (B, T) where valid (B, T) is True."""
        # Whole batches are added, as a large float32 swallows ones; `bincount` would wait for a GPU.
        batch = torch.zeros_like(self.counts).index_add_(0, tokens.flatten(), valid.flatten().to(self.counts.dtype))
        self.counts += batch

    def scores(self, targets_M: Tensor) -> Mapping[str, Tensor]:
        """Return `loss` and `acc` of predicting every masked token by frequency alone."""
        logits = (self.counts.float() / self.counts.sum()).log()
        return masked_scores(logits.expand(len(targets_M), -1), targets_M)
