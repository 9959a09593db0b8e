"""STOI and ESTOI: predicted intelligibility of a signal beside its clean reference.

Taal et al., An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech (2011); Jensen and
Taal, An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers (2016).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from metis_lightning.metrics.base import PairMean
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, sounding_pair

SEED = 0
"""ESTOI normalises silent bands too; as in pystoi, noise of 2e-16 keeps that defined. Ours is always the same."""

_RATE = 10_000
_FRAME, _HOP, _FFT = 256, 128, 512
_SEGMENT = 30  # frames: 384 ms
_DYNAMIC_RANGE = 40  # dB below the loudest frame of the reference, under which a frame is silent
_CLIP = 1.0 + 10.0 ** (15.0 / 20.0)  # the lower bound of the signal-to-distortion ratio is -15 dB
_EPS = np.finfo(np.float64).eps


class Intelligibility(NamedTuple):
    """Both measures, at most 1."""

    stoi: float
    estoi: float


def intelligibility(prediction: Wave, reference: Wave) -> Intelligibility:
    """Return STOI and ESTOI of two (S,) signals at 16 kHz: nearly all of the work is the same for both.

    Resampling, silent frames and bands are pystoi's; both measures follow their papers and equal pystoi's.

    Raises:
        MetricError: one is silent, less than about 0.4 s of the reference is speech, or the lengths differ.
        UserError: the package pystoi is not installed.
    """
    processed, clean = sounding_pair(prediction, reference)
    utils = require("pystoi.utils", "eval")
    pair = [utils.resample_oct(wave, _RATE, METRIC_RATE) for wave in (clean, processed)]
    if len(pair[0]) <= _FRAME:
        raise MetricError("STOI: the signal is shorter than a frame (26 ms)")
    bands, _ = utils.thirdoct(_RATE, _FFT, 15, 150)
    spoken = utils.remove_silent_frames(*pair, _DYNAMIC_RANGE, _FRAME, _HOP)
    envelopes = [np.sqrt(bands @ np.abs(_spectrum(wave)) ** 2) for wave in spoken]
    if envelopes[0].shape[1] < _SEGMENT:
        raise MetricError("the reference has too little speech: STOI: Not enough STFT frames (0.4 s are needed)")
    # (segments, bands, frames)
    x, y = (sliding_window_view(envelope, _SEGMENT, axis=1).swapaxes(0, 1) for envelope in envelopes)
    both = Intelligibility(_stoi(x, y), _estoi(x, y))
    if not np.isfinite(both).all():
        raise MetricError("STOI: the measure is not finite")
    return both


def stoi(prediction: Wave, reference: Wave, extended: bool = False) -> float:
    """Return STOI, or ESTOI if `extended`; see `intelligibility`."""
    return intelligibility(prediction, reference)[int(extended)]


def _spectrum(wave: np.ndarray) -> np.ndarray:
    """Return the (257, frames) transform of a signal in frames of 25.6 ms, half overlapping."""
    # The window of the papers has no zeros at its ends, and they leave the frame that ends with the signal out.
    frames = sliding_window_view(wave, _FRAME)[: len(wave) - _FRAME : _HOP]
    return np.fft.rfft(frames * np.hanning(_FRAME + 2)[1:-1], _FFT).T


def _stoi(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean correlation of each band's envelope over segments (2011, eq. 3 to 6)."""
    scale = _norm(x, 2) / (_norm(y, 2) + _EPS)
    clipped = np.minimum(y * scale, x * _CLIP)
    centred = [part - part.mean(axis=2, keepdims=True) for part in (x, clipped)]
    first, second = (part / (_norm(part, 2) + _EPS) for part in centred)
    return float((first * second).sum() / (x.shape[0] * x.shape[1]))


def _estoi(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean correlation of the frames' spectra, after each band and each frame was normalised (2016)."""
    noise = np.random.default_rng(SEED)
    first, second = (_unit(_unit(part, 2, noise), 1, noise) for part in (x, y))
    return float((first * second).sum() / _SEGMENT / x.shape[0])


def _unit(x: np.ndarray, axis: int, noise: np.random.Generator) -> np.ndarray:
    """Return `x` without its mean and of unit length along an axis."""
    x = x + _EPS * noise.standard_normal(x.shape)
    x -= x.mean(axis=axis, keepdims=True)
    return x / _norm(x, axis)


def _norm(x: np.ndarray, axis: int) -> np.ndarray:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


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
