"""Factorised vector quantisation, alone and as a residual stack.

Shape letters: B batch, T frames, D latent width, K codebook width, V codebook size, Q quantizers.
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metis_lightning.tokens.precision import full_precision


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    latents: (B, D, T), the quantised latents with straight-through gradients.
    codes: (Q, B, T) int64.
    encodings: (Q, B, K, T), what each quantizer looked up, without gradient.
    codebook_loss, commitment_loss: mean squared distances, unweighted: (B,) of one quantizer, a scalar of a stack.
    """

    latents: Tensor
    codes: Tensor
    encodings: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class WeightNormConv1d(nn.Module):
    """1-D convolution whose weight is `weight_g * weight_v / ||weight_v||` (Salimans & Kingma, 1602.07868)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(in_channels, out_channels, kernel_size)
        self.weight_v = nn.Parameter(conv.weight.detach().clone())
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, T)."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        return F.conv1d(x, weight, self.bias, self.stride, self.padding, self.dilation)


class FactorizedVectorQuantizer(nn.Module):
    """VQ in a low-dimensional, L2-normalised space (Improved VQGAN, 2110.04627; DAC, 2306.06546)."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_project = WeightNormConv1d(dim, codebook_dim, 1)
        self.out_project = WeightNormConv1d(codebook_dim, dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def nearest(self, projected: Tensor) -> Tensor:
        """Return the codes (B, T) nearest by cosine to projected latents (B, K, T)."""
        with full_precision(projected):
            encodings_BTK = F.normalize(projected.transpose(1, 2), dim=-1)
            return (encodings_BTK @ F.normalize(self.codebook.weight).T).argmax(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents (B, D, T) of codes (B, T)."""
        with full_precision(codes):
            return self.out_project(self.codebook(codes).transpose(1, 2))

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise latents (B, D, T) in the precision of the weights, with losses (B,)."""
        with full_precision(latents):
            projected = self.in_project(latents.to(self.codebook.weight.dtype))
            codes = self.nearest(projected)
            chosen = self.codebook(codes).transpose(1, 2)
            quantised = self.out_project(projected + (chosen - projected).detach())
        return Quantized(
            latents=quantised,
            codes=codes[None],
            encodings=projected.detach()[None],
            codebook_loss=(chosen - projected.detach()).square().mean(dim=(1, 2)),
            commitment_loss=(projected - chosen.detach()).square().mean(dim=(1, 2)),
        )


class ResidualVectorQuantizer(nn.Module):
    """A stack of quantizers, each on what the ones before left over (SoundStream, 2107.03312)."""

    def __init__(
        self, dim: int, num_quantizers: int, codebook_size: int, codebook_dim: int, quantizer_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(
            FactorizedVectorQuantizer(dim, codebook_size, codebook_dim) for _ in range(num_quantizers)
        )
        self.quantizer_dropout = quantizer_dropout

    @property
    def stages(self) -> list[FactorizedVectorQuantizer]:
        """The quantizers in order."""
        return [cast(FactorizedVectorQuantizer, quantizer) for quantizer in self.quantizers]

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks Q."""
        return len(self.quantizers)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise latents (B, D, T), in the precision of the weights.

        In training a share `quantizer_dropout` of the rows uses a random number of stages, and stages that a row does
        not use have no part in its losses. As in the released code, losses are means over all rows, used or not, and
        sums over stages (the released quantizer returns one a stage, which trainers of this kind, as DAC's, add up).
        """
        residual = latents.to(self.stages[0].codebook.weight.dtype)
        stages_B = self._draw_stages(latents)
        total = torch.zeros_like(residual)
        parts = []
        for index, quantizer in enumerate(self.stages):
            part = quantizer(residual)
            parts.append(part)
            total = total + part.latents * (index < stages_B)[:, None, None]
            residual = residual - part.latents
        used_QB = torch.arange(len(parts), device=latents.device)[:, None] < stages_B
        return Quantized(
            latents=total,
            codes=torch.cat([part.codes for part in parts]),
            encodings=torch.cat([part.encodings for part in parts]),
            codebook_loss=_over_stages([part.codebook_loss for part in parts], used_QB),
            commitment_loss=_over_stages([part.commitment_loss for part in parts], used_QB),
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents (B, D, T) of codes (Q', B, T), Q' at most Q."""
        parts = [quantizer.decode(layer) for quantizer, layer in zip(self.stages, codes, strict=False)]
        return torch.stack(parts).sum(dim=0)

    def _draw_stages(self, latents: Tensor) -> Tensor:
        """Draw the number of stages in use for each row, (B,)."""
        batch = latents.shape[0]
        stages = torch.full((batch,), self.num_quantizers, device=latents.device)
        if not self.training or self.quantizer_dropout == 0:
            return stages
        drawn = torch.randint(1, self.num_quantizers + 1, (batch,), device=latents.device)
        dropped = torch.arange(batch, device=latents.device) < int(batch * self.quantizer_dropout)
        return torch.where(dropped, drawn, stages)


def _over_stages(losses: list[Tensor], used_QB: Tensor) -> Tensor:
    """Return the scalar loss of a stack whose stages lose (B,) each: the mean over rows, summed over stages."""
    return (torch.stack(losses) * used_QB).mean(dim=1).sum()
