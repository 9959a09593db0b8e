"""How well a codebook is used."""

from __future__ import annotations

import torch
from torch import Tensor


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """Return exp(entropy) of the codes' frequencies in a batch: the number of codes in effective use.

    >>> perplexity(torch.tensor([0, 1, 2, 3]), 8)
    tensor(4.)
    """
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).float()
    shares = counts / counts.sum()
    return torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())
