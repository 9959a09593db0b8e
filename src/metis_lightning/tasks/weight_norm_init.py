"""First values of weight-normalised convolutions, from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metis_lightning.tokens.acoustic_codec import ResidualUnit
from metis_lightning.tokens.quantize import WeightNormConv1d

RESIDUAL_DEVIATION = 0.3


@torch.no_grad()
def init_from_data(module: nn.Module, x: Tensor) -> None:
    """Scale every weight-normalised convolution of `module` so that its output on x has unit deviation.

    This is the data-dependent initialisation of Salimans & Kingma (1602.07868, section 3), for the gains alone. The
    last convolution of a residual unit gets 0.3, so that depth does not add up. Speech is quiet, and each convolution's
    default makes it quieter: without this a deep encoder begins as a nearly linear map and learns slowly.
    """
    branches = {unit.block[-1] for unit in module.modules() if isinstance(unit, ResidualUnit)}

    def rescale(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(conv, WeightNormConv1d)
        gain = (RESIDUAL_DEVIATION if conv in branches else 1.0) / output.std().clamp(min=1e-5)
        conv.weight_g.mul_(gain)
        conv.bias.mul_(gain)
        return output * gain

    hooks = [m.register_forward_hook(rescale) for m in module.modules() if isinstance(m, WeightNormConv1d)]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
