"""The masks of training: the schedule, the prompt rule, and their draws.

Defaults are the released code's, from which the paper differs (see the fields). Unlike there, the prompt coin is tossed
for each sample, and padding is never masked. Shape letters: B batch, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptRule:
    """Length and frequency of an unmasked prefix, and what goes with it."""

    drop: float = 0.15  # chance of no prompt (the paper 0.2)
    shortest: int = 5  # shortest prompt in frames, or a quarter of the sequence if that is less (the paper 0)
    longest: float = 0.4  # longest prompt as a share of the sequence (stage 1: 0.4; stage 2: 0.5)
    mask_floor: float = 0.2  # lowest chance for a frame to be masked (the paper 0)
    # A row that loses its prompt loses its phones too, which trains the branch that guidance compares with; the
    # released model code keeps them.
    drop_phones: bool = True


@dataclass(frozen=True)
class Masking:
    """Draws for one batch: step t (B,), and where (B, T) a token is masked or belongs to the prompt."""

    t: Tensor
    mask: Tensor
    prompt: Tensor

    @cached_property
    def places(self) -> Tensor:
        """Where masked tokens stand among all (M,), row after row; computed once, since a GPU is waited for."""
        return self.mask.flatten().nonzero()[:, 0]

    def masked(self, values: Tensor) -> Tensor:
        """Return those of values (B, T, …) that belong to masked tokens, (M, …)."""
        return values.flatten(0, 1).index_select(0, self.places)


def mask_ratio(t: Tensor) -> Tensor:
    """Return γ(t) = sin(πt/2), the share of masked tokens at step t.

    >>> mask_ratio(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    return torch.sin(t * math.pi / 2)


def draw_masking(
    frames: Tensor,
    length: int,
    rule: PromptRule,
    generator: torch.Generator | None = None,
    prompt_frames: Tensor | None = None,
) -> Masking:
    """Draw steps, prompts and masks for sequences of `frames` (B,) frames padded to `length`.

    `prompt_frames` (B,) fixes the lengths of the prompts, for tasks whose prompt comes with the data; where it is
    negative the rule draws one. At least one frame of every row that has any is masked.
    """
    batch, device = frames.shape[0], frames.device
    # All draws come in one order whatever the rule, so that a seed gives the same masks under every rule.
    draws_3B = torch.rand(3, batch, device=device, generator=generator)
    shortest = (frames // 4).clamp(max=rule.shortest)
    span = ((frames * rule.longest).long().clamp(min=1) - shortest).clamp(min=0)
    drawn = shortest + (draws_3B[1] * span).long()
    prompt_frames = drawn if prompt_frames is None else torch.where(prompt_frames < 0, drawn, prompt_frames)
    # A prompt as long as its row would leave nothing to mask.
    prompt_frames = torch.where(draws_3B[0] < rule.drop, 0, prompt_frames).minimum((frames - 1).clamp(min=0))
    t = draws_3B[2].clamp(min=1e-5)
    position = torch.arange(length, device=device)
    prompt = position < prompt_frames[:, None]
    valid = position < frames[:, None]
    chance = mask_ratio(t).clamp(min=rule.mask_floor)
    noise = torch.rand(batch, length, device=device, generator=generator)
    mask = (noise < chance[:, None]) & valid & ~prompt
    # A row without a masked frame would give no loss: mask its first frame after the prompt.
    empty = ~mask.any(dim=1)
    mask |= empty[:, None] & (position == prompt_frames[:, None])
    return Masking(t=t, mask=mask & valid, prompt=prompt & valid)
