"""Learning rates by step: warm-up, and either decay."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from metis_lightning.tasks.optimization import WarmupCosine, WarmupInverseSqrt


def rates(schedule: type[LambdaLR], steps: int, **options: int) -> list[float]:
    """The rate of each step, of an optimizer whose rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = schedule(optimizer, **options), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_inverse_square_root_rises_to_its_peak_and_is_half_at_four_times_the_warm_up() -> None:
    found = rates(WarmupInverseSqrt, 400, warmup_steps=100)
    assert found[:2] == pytest.approx([0.01, 0.02])
    assert max(found) == found[99] == 1.0
    assert found[399] == pytest.approx(0.5)
    assert rates(WarmupInverseSqrt, 1) == pytest.approx([1 / 32_000])


def test_cosine_rises_and_ends_at_its_final_share() -> None:
    found = rates(WarmupCosine, 111, total_steps=110, warmup_steps=10)
    assert found[:2] == pytest.approx([0.1, 0.2])
    assert found[10] == max(found) == 1.0
    assert found[60] == pytest.approx((1 + 0.01) / 2)
    assert found[110] == pytest.approx(0.01)
