"""SIM: do two recordings have the same voice? The cosine of their speaker embeddings."""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.signal import Wave
from metis_lightning.metrics.speaker import Ge2eEncoder


def speaker_similarity(first: Wave, second: Wave, encoder: Ge2eEncoder) -> float:
    """Return the cosine, 0 to 1 for this encoder, of the voices of two (S,) recordings at 16 kHz.

    The values are those of GE2E: they are not comparable with the paper's WavLM similarities.

    Raises:
        MetricError: one is empty, silent or not finite.
    """
    return float(encoder.embed(first) @ encoder.embed(second))


class SimMetric(PairMean):
    """Mean speaker similarity over pairs of recordings; higher is better."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__(f"SIM_{Ge2eEncoder.name}", sample_rate=sample_rate)
        self._encoder = Ge2eEncoder()

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of recordings."""
        first, second = waves
        return [speaker_similarity(first, second, self._encoder)]
