"""Cross-entropy on masked tokens, and what is logged beside it.

Shape letters: B batch, T frames, M masked positions of a batch, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def masked_scores(logits_MV: Tensor, targets_M: Tensor) -> Mapping[str, Tensor]:
    """Return the mean cross-entropy in nats (`loss`) and the share of right first guesses (`acc`)."""
    return {
        "loss": F.cross_entropy(logits_MV, targets_M),
        "acc": (logits_MV.argmax(dim=-1) == targets_M).float().mean(),
    }


def frame_mask(frames: Tensor, length: int) -> Tensor:
    """Return (B, length), True on the first `frames` (B,) positions of each row."""
    return torch.arange(length, device=frames.device) < frames[:, None]


class UnigramBaseline(nn.Module):
    """How often each token occurs in training: the predictor that a masked model has to beat.

    The counts are a part of the checkpoint.
    """

    counts: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        # One a token: a token never seen still has a chance.
        self.register_buffer("counts", torch.ones(codebook_size))

    @torch.no_grad()
    def observe(self, tokens: Tensor) -> None:
        """Count training tokens."""
        self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts))

    def scores(self, targets_M: Tensor) -> Mapping[str, Tensor]:
        """Return `loss` and `acc` of predicting every masked token by frequency alone."""
        logits = (self.counts / self.counts.sum()).log()
        return masked_scores(logits.expand(len(targets_M), -1), targets_M)
