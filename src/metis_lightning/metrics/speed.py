"""Speed: seconds of computing for a second of speech, and sampling steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.metric import MetricError


def real_time_factor(computed: float, spoken: float) -> float:
    """Return the seconds computed for each second of speech; less than 1 is faster than real time.

    Raises:
        MetricError: nothing was spoken, or the time is not a positive number.

    >>> real_time_factor(2.0, 8.0)
    0.25
    """
    if not spoken > 0.0:
        raise MetricError("the signal is empty")
    if not computed > 0.0:
        raise MetricError(f"the time to make it is {computed} s")
    return computed / spoken


class SpeedMetric(Metric):
    """`RTF`: all seconds computed over all seconds spoken; `STEPS`: mean number of sampling steps of an utterance.

    Both are NaN before anything was added. All states are sums, so they add up over ranks.
    """

    full_state_update = False
    higher_is_better = False
    computed: Tensor
    spoken: Tensor
    steps: Tensor
    count: Tensor

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        for name in ("computed", "spoken", "steps", "count"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, *, computed: float, spoken: float, num_steps: int) -> None:
        """Add one utterance: seconds it took, seconds it lasts, steps of both stages."""
        self.computed += computed
        self.spoken += spoken
        self.steps += num_steps
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """Return both as float64 scalars."""
        return {"RTF": self.computed / self.spoken, "STEPS": self.steps / self.count}
