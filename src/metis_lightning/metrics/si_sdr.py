"""SI-SDR: scale-invariant signal-to-distortion ratio (Le Roux et al., SDR - half-baked or well done?, 2019)."""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.metric import INFINITE, MetricError
from metis_lightning.metrics.signal import Wave, sounding_pair


def si_sdr(prediction: Wave, reference: Wave) -> float:
    """Return the ratio in dB for two (S,) signals of one sample rate, each taken without its mean.

    Raises:
        MetricError: one is silent or constant, they are orthogonal or multiples of each other (the ratio is infinite),
            or the lengths differ.

    >>> round(si_sdr(np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, 0.0, -1.0, 0.0])), 6)
    0.0
    """
    estimate, target = (_without_mean(wave) for wave in sounding_pair(prediction, reference))
    if not target.any():
        raise MetricError("the reference is constant")
    if not estimate.any():
        raise MetricError("the signal is constant")
    projection = (estimate @ target) / (target @ target) * target
    signal, distortion = np.sum(projection**2), np.sum((estimate - projection) ** 2)
    if distortion == 0.0:
        raise MetricError(INFINITE)
    if signal == 0.0:
        raise MetricError("SI-SDR is minus infinity: nothing of the reference is in the signal")
    return float(10.0 * np.log10(signal / distortion))


def _without_mean(wave: np.ndarray) -> np.ndarray:
    return wave.astype(np.float64) - wave.mean(dtype=np.float64)


class SiSdrMetric(PairMean):
    """Mean SI-SDR in dB over utterances, measured at 16 kHz; higher is better."""

    def __init__(self, sample_rate: int) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__("SI_SDR", sample_rate=sample_rate)

    def values(self, *waves: np.ndarray) -> list[float]:
        """Score one pair of prediction and reference."""
        return [si_sdr(*waves)]
