"""Classifier-free guidance with rescaling (2305.08891), as both stages use it."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float) -> Tensor:
    """Return c + scale · (c - u), pulled towards c's deviation row by row: classifier-free guidance (2305.08891).

    Args:
        conditional: hidden states (B, T, H) with the prompt.
        unconditional: hidden states (B, T, H) without it.
        scale: guidance scale; 0 gives `conditional`.
        rescale: 1 gives the result c's standard deviation, 0 leaves it.
    """
    guided = conditional + scale * (conditional - unconditional)
    ratio = conditional.std(dim=(1, 2), keepdim=True) / guided.std(dim=(1, 2), keepdim=True)
    return rescale * guided * ratio + (1 - rescale) * guided
