"""PESQ: predicted quality beside the clean reference, wide band (ITU-T P.862.2) or narrow band (P.862.1)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, sounding_pair

Band = Literal["wb", "nb"]

COLUMNS: dict[Band, str] = {"wb": "PESQ", "nb": "PESQ_NB"}
"""Names in results, by band."""


def pesq(prediction: Wave, reference: Wave, band: Band = "wb") -> float:
    """Return PESQ of two (S,) signals at 16 kHz: up to 4.64 (the same) in wide band, 4.55 in narrow band.

    Raises:
        MetricError: one is silent or shorter than a quarter of a second, no speech is found, or the lengths differ.
        UserError: the package pesq is not installed.
    """
    package = require("pesq", "eval")
    degraded, clean = sounding_pair(prediction, reference)
    try:
        return float(package.pesq(METRIC_RATE, clean, degraded, band))
    except package.PesqError as error:
        raise MetricError(f"PESQ: {_text(error)}") from error


def _text(error: Exception) -> str:
    """Return the package's message, which it gives as bytes."""
    message = error.args[0] if error.args else type(error).__name__
    return message.decode() if isinstance(message, bytes) else str(message)


class PesqMetric(PairMean):
    """Mean PESQ over utterances: PESQ or PESQ_NB; higher is better."""

    def __init__(self, sample_rate: int, band: Band = "wb") -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__(COLUMNS[band], sample_rate=sample_rate)
        self.band = band

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of prediction and reference."""
        prediction, reference = waves
        return [pesq(prediction, reference, self.band)]
