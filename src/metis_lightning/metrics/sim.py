"""SIM: do two recordings have the same voice? The cosine of their speaker embeddings."""

from __future__ import annotations

from torch import Tensor

from metis_lightning.metrics.base import UtteranceMean
from metis_lightning.metrics.signal import Wave, to_metric_rate, utterances
from metis_lightning.metrics.speaker import Ge2eEncoder


def speaker_similarity(first: Wave, second: Wave, encoder: Ge2eEncoder) -> float:
    """Return the cosine, 0 to 1 for this encoder, of the voices of two (S,) recordings at 16 kHz.

    The values are those of GE2E: they are not comparable with the paper's WavLM similarities.

    Raises:
        MetricError: one is empty, silent or not finite.
    """
    return float(encoder.embed(first) @ encoder.embed(second))


class SimMetric(UtteranceMean):
    """Mean speaker similarity over pairs of recordings."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__(f"SIM_{Ge2eEncoder.name}")
        self.sample_rate, self._encoder = sample_rate, Ge2eEncoder()

    def update(
        self,
        *,
        prediction: Tensor,
        reference: Tensor,
        lengths: Tensor | None = None,
        reference_lengths: Tensor | None = None,
    ) -> None:
        """Add pairs of rows of `prediction` (B, S) and `reference` (B, S'), of `(B,)` lengths in samples."""
        pairs = zip(utterances(prediction, lengths), utterances(reference, reference_lengths), strict=True)
        for pair in pairs:
            self.add(lambda pair=pair: [self._similarity(*pair)])

    def _similarity(self, first: Tensor, second: Tensor) -> float:
        rate = self.sample_rate
        return speaker_similarity(to_metric_rate(first, rate), to_metric_rate(second, rate), self._encoder)
