"""DNSMOS: predicted quality ratings of speech, background and overall (P.835), and of the whole (P.808).

Reddy et al., DNSMOS P.835 (ICASSP 2022). The windows and polynomials are those of `dnsmos_local.py` in
microsoft/DNS-Challenge (commit 591184a), without the personalised variant; the ONNX files are the ones that the package
speechmos carries. That package is never imported, since it would import librosa. What the script does to clips of any
length is in `window_starts`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metis_lightning.metrics.base import UtteranceMean
from metis_lightning.metrics.dnsmos_p835 import P835, session
from metis_lightning.metrics.packages import missing, verify
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array, utterances
from metis_lightning.tokens.mel import PowerMel

COLUMNS = ("DNSMOS_SIG", "DNSMOS_BAK", "DNSMOS_OVRL", "DNSMOS_P808")
"""Names of the ratings in results, in the order of `DnsmosScores`."""

WINDOW_SECONDS = 9.01
WINDOW_SAMPLES = int(WINDOW_SECONDS * METRIC_RATE)
_P835 = ("sig_bak_ovr.onnx", "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd")
_P808 = ("model_v8.onnx", "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91")
# Highest power first, as numpy.polyval wants them: raw network outputs to ratings.
_SIG = (-0.08397278, 1.22083953, 0.0052439)
_BAK = (-0.13166888, 1.60915514, -0.39604546)
_OVRL = (-0.06766283, 1.11546468, 0.04602535)


class DnsmosScores(NamedTuple):
    """Ratings from 1 to 5, higher is better."""

    sig: float
    bak: float
    ovrl: float
    p808: float


def model_files() -> dict[str, Path]:
    """Return the two ONNX files of the installed speechmos package, found without importing it.

    Raises:
        UserError: the package is missing, or a file is not the known one.
    """
    spec = importlib.util.find_spec("speechmos")
    if spec is None or spec.origin is None:
        raise missing("speechmos", "eval")
    folder = Path(spec.origin).parent / "dnsmos_models"
    for name, sha256 in (_P835, _P808):
        verify(folder / name, sha256, "speechmos==0.0.1.1")
    return {"dnsmos_p835": folder / _P835[0], "dnsmos_p808": folder / _P808[0]}


def window_starts(num_samples: int) -> list[int]:
    """Return the second at which each window of 9.01 s begins, for a number of samples at 16 kHz.

    What the published script leaves out stays out: the tail after the last whole window, and the 8th to 24th window,
    which its rounding makes one sample too short. So just past 9.01 s still one window is heard, the first 9.01 s; a
    second one comes from 11 s on. Shorter audio is repeated by doubling: 9.00 s become 18 s, of which the windows
    at 0 to 6 s are heard.

    >>> window_starts(144_160), window_starts(11 * 16_000), window_starts(18 * 16_000)
    ([0], [0, 1], [0, 1, 2, 3, 4, 5, 6])
    """
    hops = int(np.floor(num_samples / METRIC_RATE) - WINDOW_SECONDS) + 1
    # In exact arithmetic every window would have the same length.
    ends = [int((hop + WINDOW_SECONDS) * METRIC_RATE) for hop in range(hops)]
    return [hop for hop, end in enumerate(ends) if min(end, num_samples) - hop * METRIC_RATE == WINDOW_SAMPLES]


def repeated(wave: np.ndarray) -> np.ndarray:
    """Double audio (S,) until a window fits."""
    while len(wave) < WINDOW_SAMPLES:
        wave = np.append(wave, wave)
    return wave


def windows(wave: np.ndarray) -> list[np.ndarray]:
    """Cut 16 kHz audio (S,) into its windows, (144160,) each; audio that is too short is doubled until it fits."""
    stream = repeated(wave)
    starts = [start * METRIC_RATE for start in window_starts(len(stream))]
    return [stream[start : start + WINDOW_SAMPLES] for start in starts]


class Dnsmos:
    """The two networks, ready to rate 16 kHz audio. Can be copied and pickled; a copy opens the files again."""

    def __init__(self, num_threads: int = 1) -> None:
        """Open the networks, each with `num_threads` threads.

        Raises:
            UserError: onnxruntime or speechmos is not installed.
        """
        self.num_threads = num_threads
        files = model_files()
        self._p835 = P835(files["dnsmos_p835"], num_threads)
        self._p808 = session(files["dnsmos_p808"], num_threads)
        self._mel = PowerMel(METRIC_RATE, n_fft=321, hop_length=160, n_mels=120)

    def __reduce__(self) -> tuple[type[Dnsmos], tuple[int]]:
        """Rebuild from the files: sessions cannot be pickled, and torchmetrics copies its metrics."""
        return Dnsmos, (self.num_threads,)

    def __call__(self, wave: Wave) -> DnsmosScores:
        """Rate one utterance, (S,) at 16 kHz. Silence is rated too, as by the published script.

        Raises:
            MetricError: the audio is empty or not finite.
        """
        samples = as_array(wave)
        cuts = windows(samples)
        starts = window_starts(len(repeated(samples)))
        raw = self._p835(cuts, starts, len(samples) if len(samples) < WINDOW_SAMPLES else None).astype(np.float64)
        sig, bak, ovrl = (float(np.polyval(*pair).mean()) for pair in zip((_SIG, _BAK, _OVRL), raw.T, strict=True))
        return DnsmosScores(sig, bak, ovrl, float(np.mean([self._rate_p808(window) for window in cuts])))

    def _rate_p808(self, window: np.ndarray) -> float:
        # The P.808 network was trained on windows that end one hop earlier.
        features = self._decibels(window[:-160]).numpy()[None]
        return float(self._p808.run(None, {"input_1": features})[0][0][0])

    def _decibels(self, wave: np.ndarray) -> Tensor:
        """Map (S,) to (frames, 120): dB below the loudest cell, floored at -80, scaled to about -1 ... 1."""
        floor = 1e-10
        power = self._mel(torch.from_numpy(wave)).clamp_min(floor)
        decibels = 10.0 * torch.log10(power / power.max())
        return (decibels.clamp_min(-80.0) + 40.0) / 40.0


class DnsmosMetric(UtteranceMean):
    """Mean DNSMOS over utterances: DNSMOS_SIG, DNSMOS_BAK, DNSMOS_OVRL, DNSMOS_P808; higher is better."""

    def __init__(self, sample_rate: int, num_threads: int = 1) -> None:
        """Take waves at `sample_rate` Hz."""
        super().__init__(*COLUMNS, sample_rate=sample_rate)
        self._dnsmos = Dnsmos(num_threads)

    def update(self, *, prediction: Tensor, lengths: Tensor | None = None) -> None:
        """Add the utterances of `prediction` (B, S); `lengths` (B,) in samples."""
        for wave in utterances(prediction, lengths):
            self.add(wave)

    def values(self, *waves: np.ndarray) -> DnsmosScores:
        """Rate one utterance."""
        return self._dnsmos(*waves)
