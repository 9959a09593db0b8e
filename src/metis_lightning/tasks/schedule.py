"""Learning-rate schedules, as factors of the optimizer's rate."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupInverseSqrt(LambdaLR):
    """Linear warm-up, then decay with 1/sqrt(step) (MaskGCT, 2409.00750, section 4.1: 32K warm-up steps)."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 32_000) -> None:
        def factor(step: int) -> float:
            return min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))

        super().__init__(optimizer, factor)


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to `final` of the rate at `total_steps`, for runs of known length."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final: float = 0.01) -> None:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
