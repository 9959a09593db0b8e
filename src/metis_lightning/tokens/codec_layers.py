"""Layers of both codecs: the ConvNeXt backbone of Vocos (2306.00814), and factorised vector quantisation.

Shape letters: B batch, T frames, C channels, D latent width, K codebook width, V codebook size, Q quantizers.
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on a tensor's device.

    Codes are chosen in it: in bfloat16 up to a quarter of those of a residual stack are others, so that training would
    optimise, and count the use of, codes that inference does not choose.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, C, T) with zeros after the first `lengths` (B,) positions of each row; x itself without lengths."""
    if lengths is None:
        return x
    # Convolutions pad with zeros: a row that is so treated before each of them gives what it would give alone.
    return x * (torch.arange(x.shape[-1], device=x.device) < lengths[:, None, None])


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a pointwise MLP scaled by `gamma`, on a residual path."""

    def __init__(self, dim: int, intermediate_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        h = self.norm(self.dwconv(x).transpose(1, 2))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2)


class ConvNeXtBackbone(nn.Module):
    """Input convolution, a stack of ConvNeXt blocks, and a final layer norm."""

    def __init__(self, in_channels: int, dim: int, intermediate_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_channels, dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(dim, intermediate_dim, 1 / num_layers) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map (B, C_in, T) to (B, T, C), channels last; frames after `lengths` (B,) have no meaning."""
        h = self.norm(self.embed(zero_padding(x, lengths)).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            h = block(zero_padding(h, lengths))
        return self.final_layer_norm(h.transpose(1, 2))


class WeightNormConv1d(nn.Module):
    """1-D convolution whose weight is `weight_g * weight_v / ||weight_v||` (Salimans & Kingma, 1602.07868)."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(dim_in, dim_out, kernel_size)
        # The names of torch's older weight_norm, which the checkpoints have; its successor stores others.
        self.weight_v = nn.Parameter(conv.weight.detach().clone())
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim_out))
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, T)."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        return F.conv1d(x, weight, self.bias, self.stride, self.padding, self.dilation)


@dataclass(frozen=True)
class Quantized:
    """The output of a quantizer."""

    latents: Tensor  # (B, D, T), quantised, with straight-through gradients
    codes: Tensor  # (Q, B, T) int64
    encodings: Tensor  # (Q, B, K, T), the vectors that each quantizer looked up, without gradient
    codebook_loss: Tensor  # mean squared distance, unweighted: (B,) of one quantizer, a scalar of a stack
    commitment_loss: Tensor  # likewise


class FactorizedVectorQuantizer(nn.Module):
    """VQ in a low-dimensional, L2-normalised space (Improved VQGAN, 2110.04627; DAC, 2306.06546)."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_project = WeightNormConv1d(dim, codebook_dim, 1)
        self.out_project = WeightNormConv1d(codebook_dim, dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents (B, D, T) of codes (B, T)."""
        with full_precision(codes):
            return self.out_project(self.codebook(codes).transpose(1, 2))

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise latents (B, D, T) in the precision of the weights, with losses (B,)."""
        with full_precision(latents):
            projected = self.in_project(latents.to(self.codebook.weight.dtype))
            # The nearest by cosine.
            encodings_BTK = F.normalize(projected.transpose(1, 2), dim=-1)
            codes = (encodings_BTK @ F.normalize(self.codebook.weight).T).argmax(dim=-1)
            chosen = self.codebook(codes).transpose(1, 2)
            # Straight through: the choice has no gradient, so the latents take that of what was chosen.
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
        # The list holds the same modules with their type, which a ModuleList does not know.
        self.stages = [FactorizedVectorQuantizer(dim, codebook_size, codebook_dim) for _ in range(num_quantizers)]
        self.quantizers = nn.ModuleList(self.stages)
        self.quantizer_dropout = quantizer_dropout

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise latents (B, D, T), in the precision of the weights.

        In training a share `quantizer_dropout` of the rows uses a random number of stages; the others have no part in
        their losses, which are means over all rows and, as DAC's trainer adds them up, sums over stages.
        """
        count, batch, device = len(self.stages), latents.shape[0], latents.device
        num_stages = torch.full((batch,), count, device=device)
        if self.training and self.quantizer_dropout > 0:
            # The first rows, whatever they are: batches are shuffled.
            is_short = torch.arange(batch, device=device) < int(batch * self.quantizer_dropout)
            num_stages = torch.where(is_short, torch.randint(1, count + 1, (batch,), device=device), num_stages)
        used_QB = torch.arange(count, device=device)[:, None] < num_stages
        residual = latents.to(self.stages[0].codebook.weight.dtype)
        total = torch.zeros_like(residual)
        parts = []
        for quantizer, used_B in zip(self.stages, used_QB, strict=True):
            part = quantizer(residual)
            parts.append(part)
            total = total + part.latents * used_B[:, None, None]
            residual = residual - part.latents
        return Quantized(
            latents=total,
            codes=torch.cat([part.codes for part in parts]),
            encodings=torch.cat([part.encodings for part in parts]),
            codebook_loss=(torch.stack([part.codebook_loss for part in parts]) * used_QB).mean(dim=1).sum(),
            commitment_loss=(torch.stack([part.commitment_loss for part in parts]) * used_QB).mean(dim=1).sum(),
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents (B, D, T) of codes (Q', B, T), Q' at most Q."""
        parts = [quantizer.decode(layer) for quantizer, layer in zip(self.stages, codes, strict=False)]
        return torch.stack(parts).sum(dim=0)
