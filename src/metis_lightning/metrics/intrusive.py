"""Metrics that compare sample by sample with the clean reference: PESQ, STOI and ESTOI, SI-SDR."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Literal
from unittest.mock import patch

import numpy as np

from metis_lightning.metrics.metric import INFINITE, Column, MetricError, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.model_files import require
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem, Wave, sounding_pair

Band = Literal["wb", "nb"]

SEED = 0
"""Of the noise of 2e-16 with which pystoi keeps ESTOI defined in silent bands."""


def pesq(prediction: Wave, reference: Wave, band: Band = "wb") -> float:
    """Return PESQ of two (S,) signals at 16 kHz: at most 4.64 in wide band (ITU-T P.862.2), 4.55 in narrow (P.862.1).

    A `MetricError` if one is silent or shorter than 0.25 s, no speech is found, or the lengths differ.
    """
    package = require("pesq", "eval")
    degraded, clean = sounding_pair(prediction, reference)
    try:
        return float(package.pesq(METRIC_RATE, clean, degraded, band))
    except package.PesqError as error:
        message = error.args[0] if error.args else type(error).__name__
        # The package's messages are bytes.
        raise MetricError(f"PESQ: {message.decode() if isinstance(message, bytes) else message}") from error


def stoi(prediction: Wave, reference: Wave, extended: bool = False) -> float:
    """Return STOI, or ESTOI if `extended`, at most 1, of two (S,) signals at 16 kHz, by pystoi.

    Taal et al., An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech (2011); Jensen and
    Taal, An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers (2016). A
    `MetricError` if one is silent, less than about 0.4 s of the reference is speech, or the lengths differ.
    """
    processed, clean = sounding_pair(prediction, reference)
    package = require("pystoi", "eval")
    # A frame has 256 samples at 10 kHz.
    if len(clean) < 410:
        raise MetricError("STOI: the signal is shorter than a frame (26 ms)")
    # Where bands are silent, the noise decides: it is drawn from numpy's global generator, which would give another
    # number each time, so that one of the same draws stands in.
    noise = np.random.default_rng(SEED).standard_normal
    with warnings.catch_warnings(), patch.object(np.random, "standard_normal", noise):
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            value = float(package.stoi(clean, processed, METRIC_RATE, extended=extended))
        except RuntimeWarning as error:
            reason = "the reference has too little speech: STOI: Not enough STFT frames (0.4 s are needed)"
            raise MetricError(reason) from error
    if not np.isfinite(value):
        raise MetricError("STOI: the measure is not finite")
    return value


def si_sdr(prediction: Wave, reference: Wave) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB for two (S,) signals, each without its mean.

    Le Roux et al., SDR - half-baked or well done? (2019). A `MetricError` if one is silent or constant, they are
    orthogonal or multiples of each other (the ratio is infinite), or the lengths differ.

    >>> round(si_sdr(np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, 0.0, -1.0, 0.0])), 6)
    0.0
    """
    pair = sounding_pair(prediction, reference)
    estimate, target = (wave.astype(np.float64) - wave.mean(dtype=np.float64) for wave in pair)
    for wave, name in ((target, "reference"), (estimate, "signal")):
        if not wave.any():
            raise MetricError(f"the {name} is constant")
    projection = (estimate @ target) / (target @ target) * target
    signal, distortion = np.sum(projection**2), np.sum((estimate - projection) ** 2)
    if distortion == 0.0:
        raise MetricError(INFINITE)
    if signal == 0.0:
        raise MetricError("SI-SDR is minus infinity: nothing of the reference is in the signal")
    return float(10.0 * np.log10(signal / distortion))


class IntrusiveMetric(UtteranceMetric):
    """A metric of a signal beside its reference, for tasks whose results keep the reference's timing."""

    keeps_timing = True

    @property
    @abstractmethod
    def compare(self) -> Callable[[np.ndarray, np.ndarray], float]:
        """The measure of a prediction and its reference, (S,) each at 16 kHz."""

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the measure beside the reference."""
        return measure(self.columns, lambda: self.compare(*item.pair()))


class PesqMetric(IntrusiveMetric):
    """PESQ in wide band."""

    order = 30
    packages = ("pesq",)
    columns = (Column("PESQ", "PESQ"),)
    definition = {"pesq": "P.862.2 wide band; P.862.1 narrow band"}
    compare = staticmethod(pesq)


class NarrowBandPesqMetric(PesqMetric):
    """PESQ in narrow band, which may find speech where wide band finds none, and the other way round."""

    order = 31
    columns = (Column("PESQ_NB", "PESQ_NB"),)
    compare = staticmethod(partial(pesq, band="nb"))


class StoiMetric(IntrusiveMetric):
    """STOI."""

    order = 40
    packages = ("pystoi",)
    columns = (Column("STOI", "STOI"),)
    definition = {"stoi": f"not extended, and extended with noise of seed {SEED}"}
    compare = staticmethod(stoi)


class EstoiMetric(StoiMetric):
    """ESTOI."""

    order = 41
    columns = (Column("ESTOI", "ESTOI"),)
    compare = staticmethod(partial(stoi, extended=True))


class SiSdrMetric(IntrusiveMetric):
    """SI-SDR."""

    order = 50
    columns = (Column("SI_SDR", "SI_SDR", "dB"),)
    definition = {"si_sdr": "without the mean"}
    compare = staticmethod(si_sdr)
