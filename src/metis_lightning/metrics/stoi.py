"""STOI: predicted intelligibility of a signal beside its clean reference (Taal et al., 2011)."""

from __future__ import annotations

import warnings

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, sounding_pair


def stoi(prediction: Wave, reference: Wave) -> float:
    """Return STOI (not the extended one), at most 1, of two (S,) signals at 16 kHz.

    Raises:
        MetricError: one is silent, less than about 0.4 s of the reference is speech, or the lengths differ.
        UserError: the package pystoi is not installed.
    """
    package = require("pystoi", "eval")
    processed, clean = sounding_pair(prediction, reference)
    with warnings.catch_warnings():
        # pystoi warns and returns 1e-5 when nothing can be measured: a failure, not a value.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(clean, processed, METRIC_RATE, extended=False))
        except RuntimeWarning as warning:
            raise MetricError(f"STOI: {warning}") from warning


class StoiMetric(PairMean):
    """Mean STOI over utterances; higher is better."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__("STOI", sample_rate=sample_rate)

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of prediction and reference."""
        return [stoi(*waves)]
