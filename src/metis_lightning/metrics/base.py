"""What the torchmetrics classes of this package share: a mean over utterances that counts its failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.errors import MetricError


class UtteranceMean(Metric):
    """Mean over utterances of one or more values each; utterances without a value are counted, never averaged.

    `compute` gives `{name: mean, ..., "<first name>_failed": count}`; the mean is NaN when no utterance had a value.
    All states are sums, so they add up over ranks.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor
    failed: Tensor

    def __init__(self, *names: str) -> None:
        """Make the states for one mean per name."""
        super().__init__()
        self.names = names
        self.add_state("total", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("failed", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, score: Callable[[], Sequence[float]]) -> None:
        """Add one utterance: `score()` returns a value per name or raises `MetricError`."""
        try:
            values = score()
        except MetricError:
            self.failed += 1
            return
        self.total += torch.tensor(values, dtype=self.total.dtype, device=self.total.device)
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the means as float64 scalars and the number of failures."""
        means = dict(zip(self.names, self.total / self.count, strict=True))
        return {**means, f"{self.names[0]}_failed": self.failed}
