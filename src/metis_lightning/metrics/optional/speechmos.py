"""Personalised DNSMOS and PLCMOS: the further rating networks of the package speechmos.

Personalised DNSMOS (Reddy et al., DNSMOS P.835, 2022) is for speech of one wanted voice: another voice is background to
it. PLCMOS (Diener et al., PLCMOS - a data-driven non-intrusive metric for the evaluation of packet loss concealment
algorithms, Interspeech 2023) hears gaps and what fills them. The package, which is never imported, draws 15 imagined
raters from numpy's global generator at each call; here they are always those of seed 0, so that its numbers are met if
`numpy.random.seed(0)` stands before each of its calls.

Shape letters: F frames (16 ms), S samples.
"""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.dnsmos import P835, package_file, session, windows
from metis_lightning.metrics.metric import Column, MetricError, OptionalMetric
from metis_lightning.metrics.model_files import file_identity
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem, with_sound
from metis_lightning.task_table import Task

_P835 = ("pdnsmos_models/sig_bak_ovr.onnx", "9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c")
_PLC = ("plcmos_models/plcmos_v2.onnx", "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286")
# Highest power first: raw outputs to ratings of signal, background and the whole.
_RATINGS = (
    (-0.01019296, 0.02751166, 1.19576786, -0.24348726),
    (-0.04976499, 0.44276479, -0.1644611, 0.96883132),
    (-0.00533021, 0.005101, 1.18058466, -0.11236046),
)
_FRAME, _HOP, _LEAST_FRAMES, _RATERS, RATER_SEED = 512, 256, 7, 15, 0


class PersonalizedDnsmosMetric(OptionalMetric):
    """Ratings of the signal, the background and the whole."""

    kind = "pdnsmos"
    packages = ("onnxruntime", "speechmos")
    columns = tuple(Column(name, name) for name in ("PDNSMOS_SIG", "PDNSMOS_BAK", "PDNSMOS_OVRL"))
    definition = {"pdnsmos": "9.01 s windows, 1 s hop, personalised"}

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        path = package_file(*_P835)
        self.models = {self.kind: file_identity(self.kind, path)}
        self._network = P835(path, options.num_threads)

    def value(self, item: ScoringItem) -> list[float]:
        """Return the ratings of signal, background and the whole, from 1 to 5."""
        raw = self._network(windows(item.wave("generated"))).astype(np.float64)
        return [float(np.polyval(*pair).mean()) for pair in zip(_RATINGS, raw.T, strict=True)]


class PlcMosMetric(OptionalMetric):
    """The mean rating of 15 imagined raters."""

    kind = "plcmos"
    packages = ("onnxruntime", "speechmos")
    columns = (Column("PLCMOS", "PLCMOS"),)
    definition = {"plcmos": f"v2, {_RATERS} raters of seed {RATER_SEED}"}

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        path = package_file(*_PLC)
        self.models = {self.kind: file_identity(self.kind, path)}
        self._network = session(path, options.num_threads)
        raters = np.random.RandomState(RATER_SEED).normal(size=(_RATERS, 1, 64))
        self._raters = raters.astype(np.float32)

    def value(self, item: ScoringItem) -> float:
        """Return the rating, from 1 to 5."""
        features = log_power(with_sound(item.wave("generated")))[None, None]
        # Its pooling leaves no frame of fewer.
        if features.shape[2] < _LEAST_FRAMES:
            raise MetricError("the signal is too short for plcmos: 0.1 s are needed")
        given = ({"degraded_audio": features, "rater_embed": rater} for rater in self._raters)
        return float(np.mean([float(self._network.run(None, each)[0]) for each in given]))


def log_power(wave: np.ndarray) -> np.ndarray:
    """Return the log powers (F, 257) of frames of (S,) samples, as PLCMOS was trained on: float32.

    Frames begin one hop before the signal. Of magnitudes the package takes the logarithm of the square; a cell of
    nothing gets the least of the others less 120 dB.
    """
    count = -(-(len(wave) + _FRAME - _HOP) // _HOP)
    padded = np.zeros((count - 1) * _HOP + _FRAME, dtype=np.float32)
    padded[_FRAME - _HOP :][: len(wave)] = wave
    # The periodic Hamming window.
    window = np.hamming(_FRAME + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    if not (power > 0).any():
        raise MetricError("the signal is silent")
    least = np.log(power[power > 0].min()) - 12.0 * np.log(10.0)
    with np.errstate(divide="ignore"):
        logs = np.where(power > 0, np.log(power), least)
    return (logs / 20.0).astype(np.float32)
