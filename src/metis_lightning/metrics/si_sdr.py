"""SI-SDR: scale-invariant signal-to-distortion ratio (Le Roux et al., SDR - half-baked or well done?, 2019)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from metis_lightning.metrics.base import UtteranceMean
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.signal import Wave, same_rate_pair, utterances


def si_sdr(prediction: Wave, reference: Wave) -> float:
    """Return the ratio in dB for two (S,) signals of one sample rate, each taken without its mean.

    Raises:
        MetricError: one is silent or constant, they are orthogonal or multiples of each other (the ratio is infinite),
            or the lengths differ.

    >>> round(si_sdr(np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, 0.0, -1.0, 0.0])), 6)
    0.0
    """
    estimate, target = (_without_mean(wave) for wave in same_rate_pair(prediction, reference))
    if not target.any():
        raise MetricError("the reference is constant")
    projection = (estimate @ target) / (target @ target) * target
    signal, distortion = np.sum(projection**2), np.sum((estimate - projection) ** 2)
    if signal == 0.0 or distortion == 0.0:
        raise MetricError("SI-SDR is infinite: the signal is orthogonal to the reference, or a multiple of it")
    return float(10.0 * np.log10(signal / distortion))


def _without_mean(wave: np.ndarray) -> np.ndarray:
    return wave.astype(np.float64) - wave.mean(dtype=np.float64)


class SiSdrMetric(UtteranceMean):
    """Mean SI-SDR in dB over utterances."""

    def __init__(self) -> None:
        """Waves are taken at whatever rate they have."""
        super().__init__("SI_SDR")

    def update(self, *, prediction: Tensor, reference: Tensor, lengths: Tensor | None = None) -> None:
        """Add the utterances of `prediction` and `reference`, both (B, S); `lengths` (B,) in samples."""
        for pair in zip(utterances(prediction, lengths), utterances(reference, lengths), strict=True):
            self.add(lambda pair=pair: [si_sdr(*pair)])
