"""STOI: predicted intelligibility of a signal beside its clean reference (Taal et al., 2011)."""

from __future__ import annotations

import warnings

from torch import Tensor

from metis_lightning.metrics.base import UtteranceMean
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, same_rate_pair, to_metric_rate, utterances


def stoi(prediction: Wave, reference: Wave) -> float:
    """Return STOI (not the extended one), at most 1, of two (S,) signals at 16 kHz.

    Raises:
        MetricError: one is silent, less than about 0.4 s of the reference is speech, or the lengths differ.
        UserError: the package pystoi is not installed.
    """
    package = require("pystoi", "eval")
    processed, clean = same_rate_pair(prediction, reference)
    with warnings.catch_warnings():
        # pystoi warns and returns 1e-5 when nothing can be measured: a failure, not a value.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(clean, processed, METRIC_RATE, extended=False))
        except RuntimeWarning as warning:
            raise MetricError(f"STOI: {warning}") from warning


class StoiMetric(UtteranceMean):
    """Mean STOI over utterances."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__("STOI")
        self.sample_rate = sample_rate

    def update(self, *, prediction: Tensor, reference: Tensor, lengths: Tensor | None = None) -> None:
        """Add the utterances of `prediction` and `reference`, both (B, S); `lengths` (B,) in samples."""
        for pair in zip(utterances(prediction, lengths), utterances(reference, lengths), strict=True):
            self.add(lambda pair=pair: [stoi(*(to_metric_rate(wave, self.sample_rate) for wave in pair))])
