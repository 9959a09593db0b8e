"""SIM: do two recordings have the same voice? The cosine of their speaker embeddings."""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.signal import Wave
from metis_lightning.metrics.speakers.base import SpeakerEncoder
from metis_lightning.metrics.speakers.ge2e import Ge2eEncoder


def speaker_similarity(first: Wave, second: Wave, encoder: SpeakerEncoder) -> float:
    """Return the cosine, -1 to 1, of the voices of two (S,) recordings at 16 kHz.

    Values of different encoders are not comparable.

    Raises:
        MetricError: one is empty, silent, not finite, or too short for the encoder.
    """
    return float(encoder.embed(first) @ encoder.embed(second))


class SimMetric(PairMean):
    """Mean speaker similarity over pairs of recordings: SIM_{encoder}; higher is better."""

    def __init__(self, sample_rate: int, encoder: SpeakerEncoder | None = None) -> None:
        """Take waves at `sample_rate` Hz; the encoder is GE2E if None."""
        self._encoder = encoder or Ge2eEncoder()
        super().__init__(f"SIM_{self._encoder.name}", sample_rate=sample_rate)

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of recordings."""
        first, second = waves
        return [speaker_similarity(first, second, self._encoder)]
