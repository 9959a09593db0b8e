"""Codebooks in training: their use, and new places for unused codes.

Shape letters: B batch, T frames, Q quantizers, K codebook width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tokens.codec_layers import FactorizedVectorQuantizer, Quantized, ResidualVectorQuantizer

CODE_SCALE = 0.1
"""Deviation of the projections of code vectors; an embedding's own start is 0.02."""


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """Return exp(entropy) of the codes' frequencies in a batch: the number of codes in effective use."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).float()
    shares = counts / counts.sum()
    return torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())


@torch.no_grad()
def spread_codes(embedding: nn.Embedding, quantizer: FactorizedVectorQuantizer) -> None:
    """Add to each row of an embedding a random projection of the code vector of that number.

    So codes of like sound start out alike: a short run need not find out which ones they are.
    """
    # Codes are looked up by their direction.
    vectors = F.normalize(quantizer.codebook.weight)
    vectors = (vectors - vectors.mean(dim=0)) / vectors.std(dim=0)
    projection = torch.randn(vectors.shape[1], embedding.embedding_dim, device=vectors.device)
    embedding.weight += CODE_SCALE * vectors @ projection / vectors.shape[1] ** 0.5


class CodebookRestarts:
    """Moves unused codes onto encodings of the current batch (SoundStream, 2107.03312, section III-C).

    Use is counted over `every` updates. It goes on while the learning rate rises, and after its peak for as many steps
    again, but at least `least` steps from `since` on, where the quantizer comes into use; then codebooks can settle.
    """

    def __init__(self, quantizer: ResidualVectorQuantizer, every: int = 20, since: int = 0, least: int = 2000) -> None:
        self.quantizer, self.every, self.least = quantizer, every, since + least
        # Uses of each code since unused ones were last moved; encodings of the newest batch, on which they move.
        self.counts_QV: Tensor | None = None
        self._encodings: Tensor | None = None
        self.peak_rate, self.peak_step = 0.0, 0

    @property
    def until(self) -> int:
        """The step from which on no code is moved, as far as the learning rate has been seen."""
        return max(self.least, 2 * self.peak_step)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint how often codes were used since unused ones were last moved, and the rate's peak."""
        checkpoint["code_counts"] = self.counts_QV
        checkpoint["peak_rate"] = {"rate": self.peak_rate, "step": self.peak_step}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the counts and the peak of a checkpoint; older ones have neither."""
        self.counts_QV = checkpoint.get("code_counts")
        peak = checkpoint.get("peak_rate", {"rate": 0.0, "step": 0})
        self.peak_rate, self.peak_step = peak["rate"], peak["step"]

    @torch.no_grad()
    def observe(self, quantized: Quantized, step: int) -> None:
        """Count the codes of a batch of training step `step`."""
        if step >= self.until:
            return
        size = self.quantizer.stages[0].codebook.num_embeddings
        counts = torch.stack([torch.bincount(codes.flatten(), minlength=size) for codes in quantized.codes])
        self.counts_QV = counts if self.counts_QV is None else self.counts_QV.to(counts.device) + counts
        self._encodings = quantized.encodings

    @torch.no_grad()
    def after_update(self, optimizer: Optimizer, step: int) -> None:
        """Move codes that stayed at zero, every so often; `optimizer` has just taken step `step`, from 0."""
        rate = float(optimizer.param_groups[0]["lr"])
        if rate > self.peak_rate:
            self.peak_rate, self.peak_step = rate, step
        if step % self.every == 0 and self.counts_QV is not None and self._encodings is not None:
            self._move_unused(self._encodings, self.counts_QV, step, optimizer)
            self.counts_QV = None
        self._encodings = None

    def _move_unused(self, encodings_QBKT: Tensor, counts_QV: Tensor, step: int, optimizer: Optimizer) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.all_reduce(counts_QV)
        # Drawn from the step, so that a resumed run moves the same codes to the same places.
        generator = torch.Generator().manual_seed(step)
        for quantizer, counts, encodings in zip(self.quantizer.stages, counts_QV, encodings_QBKT, strict=True):
            weight, unused = quantizer.codebook.weight, counts == 0
            candidates = encodings.transpose(1, 2).flatten(0, 1)
            chosen = candidates[torch.randint(len(candidates), (len(counts),), generator=generator).to(counts.device)]
            moved = torch.where(unused[:, None], chosen, weight)
            if distributed:
                torch.distributed.broadcast(moved, src=0)
            weight.copy_(moved)
            # An optimizer's moments are of where these codes were before.
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value[unused] = 0


class QuantizerModule(TrainableModule):
    """A module that trains a quantizer and moves its unused codes; `restarts` is None where codebooks do not train."""

    restarts: CodebookRestarts | None = None

    def on_train_start(self) -> None:
        """Have the codes moved after updates: once each, however many batches it is of, and before checkpoints."""
        if (restarts := self.restarts) is not None:
            # The first optimizer has the codebooks; a second one is of discriminators.
            optimizer = self.trainer.optimizers[0]
            optimizer.register_step_post_hook(lambda opt, *_: restarts.after_update(opt, self.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how often codes were used since unused ones were last moved, and the learning rate's peak."""
        super().on_save_checkpoint(checkpoint)
        if self.restarts is not None:
            self.restarts.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another codec, and go on with its counts."""
        super().on_load_checkpoint(checkpoint)
        if self.restarts is not None:
            self.restarts.load(checkpoint)
