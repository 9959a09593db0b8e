"""Iterative mask-predict decoding (MaskGIT, 2202.04200), as MaskGCT's released code does it.

Shape letters: B batch, T frames to generate, H hidden width, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metis_lightning.models.masking import mask_ratio

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(tokens (B, T), mask (B, T), t (B,)) -> logits (B, T, V)."""

Noise = Callable[[Tensor], Tensor]
"""A tensor -> Gumbel noise of its shape."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one decoding; the defaults are those of the released stage-1 code.

    temperature: of the tokens' Gumbel noise at the first step; it falls linearly to 0.
    confidence_temperature: of the noise on the confidences that choose what stays, falling likewise.
    filter_threshold: only the ceil((1 - threshold) · V) likeliest tokens may be drawn.
    guidance_scale, guidance_rescale: see `guidance.guide`.

    Raises:
        ValueError: if there is no step, or the threshold leaves no token.
    """

    num_steps: int = 10
    temperature: float = 0.9
    confidence_temperature: float = 1.0
    filter_threshold: float = 0.98
    guidance_scale: float = 0.0
    guidance_rescale: float = 0.75

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not 0 <= self.filter_threshold < 1:
            raise ValueError(f"filter_threshold must lie in [0, 1), got {self.filter_threshold}")


def gumbel(generator: torch.Generator) -> Noise:
    """Return a source of Gumbel noise that draws from `generator`, on the generator's device."""

    def noise(like: Tensor) -> Tensor:
        uniform = torch.rand(like.shape, generator=generator, device=generator.device).to(like.device)
        return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))

    return noise


def mask_predict(
    denoise: Denoiser, shape: tuple[int, int], settings: Sampling, noise: Noise, device: torch.device
) -> Tensor:
    """Return tokens (B, T), starting from all masked.

    At each step every masked token is drawn; then the least confident are masked again, as many as the schedule says.
    """
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    steps = settings.num_steps
    for step in range(steps):
        remaining = 1.0 - step / steps
        t = torch.full((shape[0],), remaining, device=device)
        logits = keep_likeliest(denoise(tokens, mask, t), settings.filter_threshold)
        drawn = _draw(logits, settings, remaining, is_last=step == steps - 1, noise=noise)
        tokens = torch.where(mask, drawn, tokens)
        num_masked = int(mask_ratio(torch.tensor(1.0 - (step + 1) / steps)) * shape[1])
        if step == steps - 1 or num_masked == 0:
            break
        confidence = logits.softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
        confidence = confidence + settings.confidence_temperature * remaining * noise(confidence)
        mask = least_confident(confidence, mask, num_masked)
        tokens = tokens.masked_fill(mask, 0)
    return tokens


def keep_likeliest(logits: Tensor, threshold: float) -> Tensor:
    """Return logits (B, T, V) with all but the ceil((1 - threshold) · V) largest at -inf."""
    k = math.ceil((1 - threshold) * logits.shape[-1])
    values, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, indices, values)


def least_confident(confidence: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return a mask (B, T) of the `count` least confident positions among those of `mask`."""
    doubt = (1 - confidence.float()).masked_fill(~mask, -torch.finfo(torch.float32).max)
    return torch.zeros_like(mask).scatter(1, doubt.topk(count, dim=-1).indices, True)


def _draw(logits: Tensor, settings: Sampling, remaining: float, is_last: bool, noise: Noise) -> Tensor:
    """Return drawn tokens (B, T); the last of several steps takes the likeliest."""
    if is_last and settings.num_steps > 1:
        return logits.argmax(dim=-1)
    # The released code draws a single step at a low temperature of its own.
    temperature = 0.2 if is_last else settings.temperature * remaining
    return (logits / max(temperature, 1e-3) + noise(logits)).argmax(dim=-1)
