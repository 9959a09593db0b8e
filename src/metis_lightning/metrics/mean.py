"""Means of any metric as torchmetrics has them: for validations, on one process or many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.metric import UtteranceMetric
from metis_lightning.metrics.signal import ScoringItem


class MeanOf(Metric):
    """Mean of each column of a metric over utterances; those without a value are counted, never averaged.

    `compute` gives `{column: mean, "<column>_failed": count}`; a mean is NaN when no utterance had a value. All states
    are sums, so they add up over ranks; every rank has to compute.

    >>> mean = MeanOf(SiSdrMetric())  # doctest: +SKIP
    >>> mean.update(ScoringItem("a", generated, 24_000, reference=target))  # doctest: +SKIP
    >>> self.log_dict(mean.compute())  # doctest: +SKIP
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    failed: Tensor

    def __init__(self, metric: UtteranceMetric, **options: Any) -> None:  # noqa: ANN401  (torchmetrics' own)
        super().__init__(**options)
        self.metric = metric
        self.names = [column.name for column in metric.columns]
        zeros = torch.zeros(len(self.names), dtype=torch.long)
        # Means of thousands of utterances stay the same whatever the batches, and however many processes.
        self.add_state("total", zeros.double(), dist_reduce_fx="sum")
        self.add_state("count", zeros, dist_reduce_fx="sum")
        self.add_state("failed", zeros.clone(), dist_reduce_fx="sum")

    def update(self, *items: ScoringItem) -> None:
        """Add utterances."""
        for item in items:
            for name, value in self.metric.score(item).items():
                place = self.names.index(name)
                if value.value is None:
                    self.failed[place] += 1
                else:
                    self.total[place] += value.value
                    self.count[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the means as float64 scalars, and the numbers of failures."""
        means = dict(zip(self.names, self.total / self.count, strict=True))
        return means | {f"{name}_failed": count for name, count in zip(self.names, self.failed, strict=True)}
