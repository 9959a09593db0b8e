"""STOI and ESTOI: predicted intelligibility of a signal beside its clean reference.

Taal et al., An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech (2011); Jensen and
Taal, An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers (2016).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, sounding_pair

SEED = 0
"""pystoi's extended measure adds noise of 2e-16 from numpy's global generator; we fix that generator's seed."""


def stoi(prediction: Wave, reference: Wave, extended: bool = False) -> float:
    """Return STOI, or ESTOI if `extended`, at most 1, of two (S,) signals at 16 kHz.

    Raises:
        MetricError: one is silent, less than about 0.4 s of the reference is speech, or the lengths differ.
        UserError: the package pystoi is not installed.
    """
    package = require("pystoi", "eval")
    processed, clean = sounding_pair(prediction, reference)
    with warnings.catch_warnings(), _seeded():
        # pystoi warns and returns 1e-5 when nothing can be measured: a failure, not a value.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = float(package.stoi(clean, processed, METRIC_RATE, extended=extended))
        except (RuntimeWarning, ValueError) as error:
            # A clip shorter than one of its frames leaves it with empty arrays, which numpy refuses.
            raise MetricError(f"STOI: {error}") from error
    if not np.isfinite(value):
        raise MetricError("STOI: the measure is not finite")
    return value


@contextmanager
def _seeded() -> Iterator[None]:
    """Fix the seed of numpy's global generator for the block, and leave the generator as it was."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)


class StoiMetric(PairMean):
    """Mean STOI or ESTOI over utterances; higher is better."""

    def __init__(self, sample_rate: int, extended: bool = False) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__("ESTOI" if extended else "STOI", sample_rate=sample_rate)
        self.extended = extended

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of prediction and reference."""
        prediction, reference = waves
        return [stoi(prediction, reference, self.extended)]
