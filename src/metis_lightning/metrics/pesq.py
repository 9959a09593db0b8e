"""PESQ, wide band: predicted quality of a signal beside its clean reference (ITU-T P.862.2)."""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, sounding_pair


def pesq(prediction: Wave, reference: Wave) -> float:
    """Return wide-band PESQ, about 1.04 (bad) to 4.64 (the same), of two (S,) signals at 16 kHz.

    Raises:
        MetricError: one is silent or shorter than a quarter of a second, no speech is found, or the lengths differ.
        UserError: the package pesq is not installed.
    """
    package = require("pesq", "eval")
    degraded, clean = sounding_pair(prediction, reference)
    try:
        return float(package.pesq(METRIC_RATE, clean, degraded, "wb"))
    except package.PesqError as error:
        raise MetricError(f"PESQ: {_text(error)}") from error


def _text(error: Exception) -> str:
    """Return the package's message, which it gives as bytes."""
    message = error.args[0] if error.args else type(error).__name__
    return message.decode() if isinstance(message, bytes) else str(message)


class PesqMetric(PairMean):
    """Mean wide-band PESQ over utterances; higher is better."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__("PESQ", sample_rate=sample_rate)

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of prediction and reference."""
        return [pesq(*waves)]
