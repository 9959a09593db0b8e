"""Codebooks in training: how well they are used, and new places for codes that nobody uses.

Shape letters: B batch, T frames, Q quantizers, K codebook width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from metis_lightning.tokens.quantize import Quantized, ResidualVectorQuantizer


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """Return exp(entropy) of the codes' frequencies in a batch: the number of codes in effective use.

    >>> perplexity(torch.tensor([0, 1, 2, 3]), 8)
    tensor(4.)
    """
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).float()
    shares = counts / counts.sum()
    return torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())


class CodebookRestarts:
    """Moves unused codes onto encodings of the current batch (SoundStream, 2107.03312, section III-C).

    Args:
        quantizer: whose codebooks are looked after.
        every: steps over which use is counted.
        since: training step at which the quantizer comes into use.
        duration: no code is moved after this many steps from then on, so that the codebooks can settle.
    """

    def __init__(
        self, quantizer: ResidualVectorQuantizer, every: int = 20, since: int = 0, duration: int = 2000
    ) -> None:
        self.quantizer, self.every, self.until = quantizer, every, since + duration
        self.counts_QV: Tensor | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint how often codes were used since unused ones were last moved."""
        checkpoint["code_counts"] = self.counts_QV

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the counts of a checkpoint."""
        self.counts_QV = checkpoint.get("code_counts")

    @torch.no_grad()
    def observe(self, quantized: Quantized, step: int) -> None:
        """Count the codes of training step `step`, and every so often move those that stayed at zero."""
        if step >= self.until:
            return
        size = self.quantizer.stages[0].codebook.num_embeddings
        counts = torch.stack([torch.bincount(codes.flatten(), minlength=size) for codes in quantized.codes])
        self.counts_QV = counts if self.counts_QV is None else self.counts_QV.to(counts.device) + counts
        if step % self.every == 0:
            # Drawn from the step, so that a resumed run moves the same codes to the same places.
            self._move_unused(quantized, self.counts_QV, torch.Generator().manual_seed(step))
            self.counts_QV = None

    def _move_unused(self, quantized: Quantized, counts_QV: Tensor, generator: torch.Generator) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.all_reduce(counts_QV)
        for quantizer, counts, encodings in zip(self.quantizer.stages, counts_QV, quantized.encodings, strict=True):
            candidates = encodings.transpose(1, 2).flatten(0, 1)
            chosen = candidates[torch.randint(len(candidates), (len(counts),), generator=generator).to(counts.device)]
            moved = torch.where(counts[:, None] == 0, chosen, quantizer.codebook.weight)
            if distributed:
                torch.distributed.broadcast(moved, src=0)
            quantizer.codebook.weight.copy_(moved)
