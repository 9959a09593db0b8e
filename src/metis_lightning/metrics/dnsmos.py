"""DNSMOS: predicted quality ratings of speech, background and overall (P.835), and of the whole (P.808).

Reddy et al., DNSMOS P.835 (ICASSP 2022). The windows and polynomials are those of `dnsmos_local.py` in
microsoft/DNS-Challenge (commit 591184a), without the personalised variant; the ONNX files are the ones that the package
speechmos carries. That package is never imported, since it would import librosa.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metis_lightning.metrics.base import UtteranceMean
from metis_lightning.metrics.mel import PowerMel
from metis_lightning.metrics.packages import missing, require, verify
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array, utterances

COLUMNS = ("DNSMOS_SIG", "DNSMOS_BAK", "DNSMOS_OVRL", "DNSMOS_P808")
"""Names of the ratings in results, in the order of `DnsmosScores`."""

WINDOW_SECONDS = 9.01
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


def windows(wave: np.ndarray) -> list[np.ndarray]:
    """Cut 16 kHz audio (S,) into windows of 9.01 s, one each second; audio that is too short is doubled until it fits.

    What the published script leaves out stays out: the tail after the last whole window, and the 8th to 24th window,
    which its rounding makes one sample too short.
    """
    size = int(WINDOW_SECONDS * METRIC_RATE)
    while len(wave) < size:
        wave = np.append(wave, wave)
    hops = int(np.floor(len(wave) / METRIC_RATE) - WINDOW_SECONDS) + 1
    # In exact arithmetic every window would have the same length.
    cuts = [wave[hop * METRIC_RATE : int((hop + WINDOW_SECONDS) * METRIC_RATE)] for hop in range(hops)]
    return [cut for cut in cuts if len(cut) == size]


class Dnsmos:
    """The two networks, ready to rate 16 kHz audio. Can be copied and pickled; a copy opens the files again."""

    def __init__(self, num_threads: int = 1) -> None:
        """Open the networks, each with `num_threads` threads.

        Raises:
            UserError: onnxruntime or speechmos is not installed.
        """
        self.num_threads = num_threads
        files = model_files()
        self._p835 = _session(files["dnsmos_p835"], num_threads)
        self._p808 = _session(files["dnsmos_p808"], num_threads)
        self._mel = PowerMel(METRIC_RATE, n_fft=321, hop_length=160, n_mels=120)

    def __reduce__(self) -> tuple[type[Dnsmos], tuple[int]]:
        """Rebuild from the files: sessions cannot be pickled, and torchmetrics copies its metrics."""
        return Dnsmos, (self.num_threads,)

    def __call__(self, wave: Wave) -> DnsmosScores:
        """Rate one utterance, (S,) at 16 kHz. Silence is rated too, as by the published script.

        Raises:
            MetricError: the audio is empty or not finite.
        """
        ratings = [self._rate(window) for window in windows(as_array(wave))]
        return DnsmosScores(*np.mean(ratings, axis=0).tolist())

    def _rate(self, window: np.ndarray) -> list[float]:
        sig, bak, ovrl = self._p835.run(None, {"input_1": window[None]})[0][0].astype(np.float64)
        # The P.808 network was trained on windows that end one hop earlier.
        features = self._decibels(window[:-160]).numpy()[None]
        p808 = float(self._p808.run(None, {"input_1": features})[0][0][0])
        return [float(np.polyval(*fit)) for fit in ((_SIG, sig), (_BAK, bak), (_OVRL, ovrl))] + [p808]

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


def _session(path: Path, num_threads: int) -> Any:  # noqa: ANN401  (onnxruntime is imported late and has no types)
    # onnxruntime reports usage to its maker unless told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = require("onnxruntime", "eval")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    # Idle threads of one network would spin on the cores that the other metrics need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
