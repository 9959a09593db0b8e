"""What the torchmetrics classes of this package share: a mean over utterances that counts its failures.

Shape letters: B batch, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.signal import to_metric_rate, utterances


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

    def __init__(self, *names: str, sample_rate: int) -> None:
        """Make the states for one mean per name; `sample_rate` in Hz is that of the waves to come."""
        super().__init__()
        self.names, self.sample_rate = names, sample_rate
        self.add_state("total", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("failed", torch.tensor(0), dist_reduce_fx="sum")

    def values(self, *waves: np.ndarray) -> Sequence[float]:
        """Return a value per name for one utterance, given its waves (S,) at 16 kHz, or raise `MetricError`."""
        raise NotImplementedError

    def add(self, *waves: Tensor) -> None:
        """Add one utterance, given its waves (S,) at `sample_rate`."""
        self.record(lambda: self.values(*(to_metric_rate(wave, self.sample_rate) for wave in waves)))

    def record(self, score: Callable[[], Sequence[float]]) -> None:
        """Add the values of one utterance, or count it as failed if `score` raises `MetricError`."""
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


class PairMean(UtteranceMean):
    """Mean over utterances of one value for a prediction beside its reference."""

    def update(
        self,
        *,
        prediction: Tensor,
        reference: Tensor,
        lengths: Tensor | None = None,
        reference_lengths: Tensor | None = None,
    ) -> None:
        """Add the pairs of rows of two padded batches.

        Args:
            prediction: (B, S).
            reference: (B, S').
            lengths: (B,) samples of each prediction, or None where nothing is padding.
            reference_lengths: (B,) samples of each reference; as `lengths` if None.
        """
        references = utterances(reference, lengths if reference_lengths is None else reference_lengths)
        for pair in zip(utterances(prediction, lengths), references, strict=True):
            self.add(*pair)
