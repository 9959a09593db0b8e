"""Prosody: how the pitch moves beside the reference's, and how fast it is spoken.

The words must be the same. Beside the reference stands, where there is none, the source; for voice conversion the
source comes first, since its prosody is what should be kept. Pitch is WORLD's (Morise et al., 2016), by Harvest.

Shape letters: S samples, F frames, C coefficients.
"""

from __future__ import annotations

import numpy as np
import torch

from metis_lightning.data.recipes.vc import import_world
from metis_lightning.metrics.metric import Column, MetricError, OptionalMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem, with_sound
from metis_lightning.task_table import Task
from metis_lightning.tokens.mel import PowerMel

_HOP, _LEVEL_HOP = 320, 160  # 20 ms, 10 ms
_LEAST_VOICED = 10
# Decibels below the loudest hundredth of the frames down to which a frame is speech.
_ACTIVE_DB = 40.0
_LEAST_ACTIVE_SECONDS = 0.1
_CEPSTRUM = 13
_LOWEST, _HIGHEST = 60.0, 600.0


class _Prosody(OptionalMetric):
    """A metric beside the reference or the source, whichever tells the prosody."""

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        self._models = ("source", "reference") if task.name == "vc" else ("reference", "source")

    def _pair(self, item: ScoringItem) -> tuple[np.ndarray, np.ndarray]:
        """Return what was generated and what it is compared with, (S,) each at 16 kHz."""
        name = next((name for name in self._models if getattr(item, name) is not None), "reference")
        model = with_sound(item.wave(name), name)
        return with_sound(item.wave("generated")), model


class F0CorrelationMetric(_Prosody):
    """F0_CORR: Pearson's correlation of log pitch over frames that both voice, after time warping: -1 to 1."""

    kind = "f0"
    packages = ("pyworld",)
    columns = (Column("F0_CORR", "F0_CORR"),)
    definition = {
        "f0": f"Harvest {_LOWEST:.0f} to {_HIGHEST:.0f} Hz, 20 ms; warped by {_CEPSTRUM - 1} mel cepstra without level"
    }

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        super().__init__(options, task, source)
        # A missing package ends a run before hours are spent.
        import_world()

    def value(self, item: ScoringItem) -> float:
        """Return the correlation."""
        return pitch_correlation(*self._pair(item))


class SpeakingRateMetric(_Prosody):
    """RATE_RATIO: the faster speaking rate over the slower, of result and reference: from 1, which is the same pace."""

    kind = "rate"
    columns = (Column("RATE_RATIO", "RATE_RATIO", higher_is_better=False),)
    definition = {"rate": f"of the same words, so of active seconds: frames within {_ACTIVE_DB:.0f} dB"}

    def value(self, item: ScoringItem) -> float:
        """Return the ratio."""
        signal, model = self._pair(item)
        seconds = active_seconds(signal), active_seconds(model, "reference")
        return max(seconds) / min(seconds)


def pitch(wave: np.ndarray) -> np.ndarray:
    """Return the pitch in Hz of each 20 ms of (S,) samples at 16 kHz, 0 where there is no voice: (F,)."""
    f0, _ = import_world().harvest(
        wave.astype(np.float64), METRIC_RATE, f0_floor=_LOWEST, f0_ceil=_HIGHEST, frame_period=1000 * _HOP / METRIC_RATE
    )
    return np.asarray(f0)


def pitch_correlation(signal: np.ndarray, model: np.ndarray) -> float:
    """Return the correlation of the log pitch of two recordings of the same words, (S,) each at 16 kHz.

    A `MetricError` if fewer than 10 frames are voiced in both, or a pitch does not move.
    """
    of_signal, of_model = pitch(signal), pitch(model)
    rows, columns = warping_path(cepstra(signal)[: len(of_signal)], cepstra(model)[: len(of_model)])
    pairs = of_signal[rows], of_model[columns]
    voiced = (pairs[0] > 0) & (pairs[1] > 0)
    if voiced.sum() < _LEAST_VOICED:
        raise MetricError(f"fewer than {_LEAST_VOICED} frames are voiced in both")
    logs = np.log(pairs[0][voiced]), np.log(pairs[1][voiced])
    if min(logs[0].std(), logs[1].std()) < 1e-6:
        raise MetricError("the pitch does not move")
    return float(np.corrcoef(*logs)[0, 1])


def cepstra(wave: np.ndarray) -> np.ndarray:
    """Return mel cepstra (F, C) of (S,) samples each 20 ms, without the level, of mean 0 and deviation 1."""
    from scipy.fft import dct

    mel = PowerMel(METRIC_RATE, n_fft=400, hop_length=_HOP, n_mels=40)(torch.from_numpy(wave).float())
    # A floor 80 dB below the loudest cell, so that what cannot be heard does not decide.
    logs = np.log(np.maximum(mel.numpy(), 1e-8 * float(mel.max())))
    kept = dct(logs, axis=1, norm="ortho")[:, 1:_CEPSTRUM]
    return np.asarray((kept - kept.mean(axis=0)) / (kept.std(axis=0) + 1e-8))


def warping_path(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of `a` (F, C) and of `b` (G, C) that lie beside each other on the cheapest path.

    Steps are one frame of either or of both, the cost is the Euclidean distance.

    >>> [side.tolist() for side in warping_path(np.array([[0.0], [1.0]]), np.array([[0.0], [0.0], [1.0]]))]
    [[0, 0, 1], [0, 1, 2]]
    """
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    cost = np.sqrt(np.maximum(squares, 0.0))
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # Cells of one diagonal depend on the two before it alone.
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j + 1], total[i + 1, j]), total[i, j])
        total[i + 1, j + 1] = cost[i, j] + before
    path = [(rows - 1, columns - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        # Of equal ways the diagonal one.
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        path.append(min(steps, key=lambda step: total[step[0] + 1, step[1] + 1]))
    first, second = np.array(path[::-1]).T
    return first, second


def active_seconds(wave: np.ndarray, name: str = "signal") -> float:
    """Return how long there is speech in (S,) samples at 16 kHz. A `MetricError` if that is less than 0.1 s."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (0, 400)), 400)[::_LEVEL_HOP]
    levels = 10.0 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
    seconds = float((levels > np.percentile(levels, 99) - _ACTIVE_DB).sum() * _LEVEL_HOP / METRIC_RATE)
    if seconds < _LEAST_ACTIVE_SECONDS:
        raise MetricError(f"the {name} has less than {_LEAST_ACTIVE_SECONDS} s of speech")
    return seconds
