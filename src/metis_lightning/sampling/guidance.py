"""Classifier-free guidance with rescaling, as both stages use it."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float) -> Tensor:
    """Return c + scale · (c - u), pulled towards c's deviation row by row: classifier-free guidance (2305.08891).

    c and u are hidden states (B, T, H) with and without the prompt. A `scale` of 0 gives c; a `rescale` of 1 gives the
    result c's standard deviation, 0 leaves it.
    """
    guided = conditional + scale * (conditional - unconditional)
    ratio = conditional.std(dim=(1, 2), keepdim=True) / guided.std(dim=(1, 2), keepdim=True)
    return rescale * guided * ratio + (1 - rescale) * guided
