"""Iterative mask-predict decoding (MaskGIT, 2202.04200), as MaskGCT's released code does it, for many rows at once.

Rows are of different lengths and have noise of their own: each gets what it gets alone.
Shape letters: N frames of all rows, one row after another; T frames of a row; K masked frames; V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metis_lightning.models.masking import mask_ratio
from metis_lightning.sampling.settings import Sampling


@dataclass(frozen=True)
class State:
    """Where decoding stands before a step."""

    tokens: Tensor  # (N,), 0 where masked
    mask: Tensor  # (N,), True where masked
    rows: tuple[int, ...]  # those that have masked frames left
    masked: tuple[Tensor, ...]  # the masked frames of each of `rows`, (K,), counted from the row's first


# The state before a step and its number, from 0 -> logits (K, V) of the masked frames of all rows.
Denoiser = Callable[[State, int], Tensor]
# A shape and an index -> Gumbel noise of that shape, at the index.
Noise = Callable[[tuple[int, ...], tuple[Tensor, ...]], Tensor]


def gumbel(generator: torch.Generator) -> Noise:
    """Return a source of Gumbel noise that draws from `generator`, on the generator's device."""

    def noise(shape: tuple[int, ...], index: tuple[Tensor, ...]) -> Tensor:
        # The whole shape is drawn, so that a seed's noise does not depend on the index.
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(index[0].device)[index]
        return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))

    return noise


def schedule(num_steps: int) -> Tensor:
    """Return the diffusion steps t (S,) of a decoding in S steps, from 1 down to 1/S."""
    return torch.tensor([1.0 - step / num_steps for step in range(num_steps)])


def mask_predict(
    denoise: Denoiser, lengths: Sequence[int], settings: Sampling, noises: Sequence[Noise], device: torch.device
) -> list[Tensor]:
    """Return tokens (T,) of each row of `lengths` frames, starting from all masked.

    At each step every masked token is drawn; then the least confident are masked again, as many as the schedule says.
    """
    num_steps, starts = settings.num_steps, [sum(lengths[:row]) for row in range(len(lengths))]
    tokens = torch.zeros(sum(lengths), dtype=torch.long, device=device)
    # Of what was drawn last at each frame.
    likelihood = torch.zeros(sum(lengths), device=device)
    place = torch.arange(sum(lengths), device=device)
    rows = tuple(range(len(lengths)))
    masked = tuple(torch.arange(length, device=device) for length in lengths)
    # Numbers of this process alone, so that no step waits for the device.
    masks = [[num_masked(length, step + 1, num_steps) for length in lengths] for step in range(num_steps)]
    for step in range(num_steps):
        mask = torch.zeros_like(tokens, dtype=torch.bool).index_fill(0, place, True)
        draw = _Draw(denoise(State(tokens, mask, rows, masked), step).float(), settings, step)
        noise = [(noises[row], lengths[row], frames) for row, frames in zip(rows, masked, strict=True)]
        tokens = tokens.index_copy(0, place, draw.tokens(noise))
        counts = [masks[step][row] for row in rows]
        # Short rows end some steps before the others, and take no more of a pass.
        going = [index for index, count in enumerate(counts) if count]
        if not going:
            break
        likelihood = likelihood.index_copy(0, place, draw.likelihood)
        still: list[Tensor] = []
        for index in going:
            start, length = starts[rows[index]], lengths[rows[index]]
            # Frames that stay take part only where they may be masked again.
            frames = torch.arange(length, device=device) if settings.remasks else masked[index]
            confidence = likelihood[start : start + length][frames]
            confidence = confidence + draw.confidence_noise * noise[index][0]((length,), (frames,))
            still.append(least_confident(confidence, frames, counts[index], length))
        masked, rows = tuple(still), tuple(rows[index] for index in going)
        place = torch.cat([frames + starts[row] for row, frames in zip(rows, masked, strict=True)])
        tokens = tokens.index_fill(0, place, 0)
    return list(tokens.split(list(lengths)))


def num_masked(length: int, step: int, num_steps: int) -> int:
    """Return how many of `length` frames are masked before a step, counted from 0; none after the last."""
    return 0 if step == num_steps else int(mask_ratio(torch.tensor(1.0 - step / num_steps)) * length)


def likeliest(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the ceil((1 - threshold) · V) largest of logits (K, V) and their tokens, both (K, V'), largest first."""
    top = logits.topk(math.ceil((1 - threshold) * logits.shape[-1]), dim=-1)
    return top.values, top.indices


def least_confident(confidence: Tensor, frames: Tensor, count: int, length: int) -> Tensor:
    """Return the `count` least confident of masked frames (K,), in order, of a row of `length`."""
    # All frames take part, as in the released code, so that ties fall as they do there.
    doubt = confidence.new_full((length,), -torch.finfo(torch.float32).max).index_copy(0, frames, 1 - confidence)
    return doubt.topk(count).indices.sort().values


# Noise of a row, its frames T, and which of them (K,) are masked.
_RowNoise = tuple[Noise, int, Tensor]


class _Draw:
    """A draw of tokens from logits (K, V) at a step; the last of several steps takes the likeliest."""

    def __init__(self, logits: Tensor, settings: Sampling, step: int) -> None:
        self.settings, self.vocabulary = settings, logits.shape[-1]
        self.remaining, is_last = 1.0 - step / settings.num_steps, step == settings.num_steps - 1
        self.greedy = is_last and settings.num_steps > 1
        # The released code draws a single step at a low temperature of its own.
        self.temperature = 0.2 if is_last else settings.temperature * self.remaining
        self.confidence_noise = settings.confidence_temperature * self.remaining
        self.logits, self.candidates = likeliest(logits, settings.filter_threshold)
        self.chosen = torch.zeros_like(self.candidates[:, :1])

    def tokens(self, rows: Sequence[_RowNoise]) -> Tensor:
        """Draw tokens (K,)."""
        if not self.greedy:
            # Noise of the candidates alone: the other tokens cannot be drawn.
            parts = self.candidates.split([len(frames) for _, _, frames in rows])
            drawn = [
                noise((length, self.vocabulary), (frames[:, None], candidates))
                for (noise, length, frames), candidates in zip(rows, parts, strict=True)
            ]
            noisy = self.logits / max(self.temperature, 1e-3) + torch.cat(drawn)
            self.chosen = noisy.argmax(dim=-1, keepdim=True)
        return self.candidates.gather(-1, self.chosen)[:, 0]

    @property
    def likelihood(self) -> Tensor:
        """How likely what was drawn is (K,)."""
        return self.logits.softmax(dim=-1).gather(-1, self.chosen)[:, 0]
