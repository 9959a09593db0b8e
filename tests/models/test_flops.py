"""Operations counted by arithmetic are those that torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from metis_lightning.models.flops import training_flops
from metis_lightning.models.stage1 import Stage1, Stage1Config

WIDTH, LAYERS, CODES, ROWS, FRAMES = 32, 2, 64, 3, 20


@pytest.mark.parametrize("is_trained", [True, False])
def test_operations_of_a_step_are_those_that_torch_counts(is_trained: bool) -> None:
    model = Stage1(Stage1Config(WIDTH, LAYERS, 2, CODES))
    masked = torch.arange(0, ROWS * FRAMES, 2)
    tokens = torch.zeros(ROWS, FRAMES, dtype=torch.long)
    model.requires_grad_(is_trained)
    # As an adapter before the backbone, through which gradients have to pass.
    model.mask_emb.requires_grad_(True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        hidden = model(tokens, tokens == 0, torch.rand(ROWS))
        model.to_logit(hidden.flatten(0, 1)[masked]).sum().backward()
    passes = 3 if is_trained else 1
    # Of the step's embedding, whose input takes no gradient, and of the norms: by rows, not by tokens.
    of_rows = 2 * ROWS * WIDTH**2 * ((2 * 4 + 3 * 4 if is_trained else 8) + passes * (2 * LAYERS + 1))
    counted = training_flops(model.diff_estimator, [FRAMES] * ROWS, CODES, len(masked))
    assert counted == counter.get_total_flops() - of_rows


def test_padding_is_no_work_and_a_mask_is_as_drawn_on_average() -> None:
    backbone = Stage1(Stage1Config(WIDTH, LAYERS, 2, CODES)).diff_estimator
    apart = sum(training_flops(backbone, [length], CODES) for length in (5, 20))
    assert training_flops(backbone, [5, 20], CODES) == pytest.approx(apart)
    shares = torch.sin(torch.linspace(0, torch.pi / 2, 10_001)).mean()
    assert training_flops(backbone, [20], CODES, 20 * float(shares)) == pytest.approx(
        training_flops(backbone, [20], CODES), rel=1e-4
    )
