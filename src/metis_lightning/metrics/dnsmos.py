"""DNSMOS: predicted quality ratings of speech, background and overall (P.835), and of the whole (P.808).

Reddy et al., DNSMOS P.835 (ICASSP 2022). The windows and polynomials are those of `dnsmos_local.py` in
microsoft/DNS-Challenge (commit 591184a), without the personalised variant; the ONNX files are the ones that the package
speechmos carries. That package is never imported, since it would import librosa. What the script does to clips of any
length is in `window_starts`.

Shape letters: F frames of a window (100 a second), S samples.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import Column, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.model_files import missing, require, verify
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem, Wave, as_array
from metis_lightning.task_table import Task
from metis_lightning.tokens.mel import PowerMel

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


def package_file(name: str, sha256: str) -> Path:
    """Return a file of the installed package speechmos. A `UserError` unless it is the one with this SHA-256."""
    spec = importlib.util.find_spec("speechmos")
    if spec is None or spec.origin is None:
        raise missing("speechmos", "eval")
    path = Path(spec.origin).parent / name
    verify(path, sha256, "speechmos==0.0.1.1")
    return path


def model_files() -> dict[str, Path]:
    """Return the two ONNX files of the installed speechmos package, which must be the known ones."""
    return {
        name: package_file(f"dnsmos_models/{file}", sha256)
        for name, (file, sha256) in (("dnsmos_p835", _P835), ("dnsmos_p808", _P808))
    }


def session(model: Path | bytes, num_threads: int) -> Any:  # noqa: ANN401  (onnxruntime is imported late, without types)
    """Open a network with `num_threads` CPU threads."""
    # onnxruntime reports usage to its maker unless told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = require("onnxruntime", "eval")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    # It would keep a plan of its memory for every number of frames that it meets.
    options.enable_mem_pattern = False
    # Idle threads of one network would spin on the cores that the other metrics need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def window_starts(num_samples: int) -> list[int]:
    """Return the second at which each window of 9.01 s begins, for a number of samples at 16 kHz.

    What the published script leaves out stays out: the tail after the last whole window, and the 8th to 24th window,
    which its rounding makes one sample too short.

    >>> window_starts(144_160), window_starts(11 * 16_000), window_starts(18 * 16_000)
    ([0], [0, 1], [0, 1, 2, 3, 4, 5, 6])
    """
    hops = int(np.floor(num_samples / METRIC_RATE) - WINDOW_SECONDS) + 1
    # In exact arithmetic every window would have the same length.
    ends = [int((hop + WINDOW_SECONDS) * METRIC_RATE) for hop in range(hops)]
    return [hop for hop, end in enumerate(ends) if min(end, num_samples) - hop * METRIC_RATE == WINDOW_SAMPLES]


def windows(wave: np.ndarray) -> dict[int, np.ndarray]:
    """Cut 16 kHz audio (S,), doubled until one fits, into windows (144160,) by the second at which each begins."""
    while len(wave) < WINDOW_SAMPLES:
        wave = np.append(wave, wave)
    return {start: wave[start * METRIC_RATE :][:WINDOW_SAMPLES] for start in window_starts(len(wave))}


class P835:
    """The P.835 network without most of its repetitions: the same ratings, sooner where there are several windows.

    Windows begin a second apart, so eight ninths of one were in the window before. The network's first four
    convolutions, nearly all of its work, see four frames to either side: so the published graph is cut behind them, and
    they run on the frames that are new, and at the ends of a window, where they see padding. That is 3.5 times as fast
    on 30 s, 2.2 times on 3 s (repeated to 12 s), and no faster on a single window (`python bench/variants.py`).
    """

    _STEP = 100  # frames between two windows
    _REACH = 4  # frames that four convolutions of kernel 3 see to either side

    def __init__(self, path: Path, num_threads: int) -> None:
        onnx = require("onnx", "eval")
        network = onnx.load(path)
        image, features = "adjusted_input6", "mos_estimator_logpow/conv2d_3/Relu:0"
        # What is between the parts may have any number of frames.
        for name, shape in ((image, ("batch", 1, "frames", 161)), (features, ("batch", 32, "frames", 161))):
            network.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        extractor = require("onnx.utils", "eval").Extractor(network)
        cuts = (("input_1", image), (image, features), (features, "Identity:0"))
        parts = [extractor.extract_model([start], [end]) for start, end in cuts]
        self._networks = [session(part.SerializeToString(), num_threads) for part in parts]

    def __call__(self, cuts: dict[int, np.ndarray]) -> np.ndarray:
        """Return the raw ratings (windows, 3) of `windows`: signal, background, overall."""
        ratings, features = [], np.zeros(0, dtype=np.float32)
        for start, window in cuts.items():
            image = self._run(0, window[None])
            # Where the published rounding skips windows there is nothing to go on from.
            features = self._next(features, image) if start - 1 in cuts else self._run(1, image)
            ratings.append(self._run(2, features)[0])
        return np.stack(ratings)

    def _next(self, before: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the features (1, 32, F, 161) of a window's spectra (1, 1, F, 161), by those of the window before."""
        step, reach = self._STEP, self._REACH
        first = self._run(1, image[:, :, : 2 * reach])[:, :, :reach]
        last = self._run(1, image[:, :, -step - 3 * reach :])[:, :, 2 * reach :]
        return np.concatenate([first, before[:, :, step + reach : -reach], last], axis=2)

    def _run(self, part: int, batch: np.ndarray) -> np.ndarray:
        network = self._networks[part]
        return network.run(None, {network.get_inputs()[0].name: np.ascontiguousarray(batch)})[0]


class DnsmosMetric(UtteranceMetric):
    """The four ratings by the two networks."""

    order = 10
    packages = ("onnxruntime", "speechmos")
    columns = tuple(Column(name, name) for name in ("DNSMOS_SIG", "DNSMOS_BAK", "DNSMOS_OVRL", "DNSMOS_P808"))
    definition = {"dnsmos": "dnsmos_local 591184a: 9.01 s windows, 1 s hop, not personalised"}

    def __init__(self, options: SuiteOptions = SuiteOptions(), task: Task | None = None) -> None:  # noqa: B008  (frozen)
        files = model_files()
        self.models = {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in files.items()}
        self._p835 = P835(files["dnsmos_p835"], options.num_threads)
        self._p808 = session(files["dnsmos_p808"], options.num_threads)
        self._mel = PowerMel(METRIC_RATE, n_fft=321, hop_length=160, n_mels=120)

    def rate(self, wave: Wave) -> DnsmosScores:
        """Rate one utterance, (S,) at 16 kHz. Silence is rated too, as by the published script."""
        cuts = windows(as_array(wave))
        raw = self._p835(cuts).astype(np.float64)
        sig, bak, ovrl = (float(np.polyval(*pair).mean()) for pair in zip((_SIG, _BAK, _OVRL), raw.T, strict=True))
        return DnsmosScores(sig, bak, ovrl, float(np.mean([self._rate_p808(window) for window in cuts.values()])))

    def _rate_p808(self, window: np.ndarray) -> float:
        # This network was trained on windows that end one hop earlier.
        power = self._mel(torch.from_numpy(window[:-160])).clamp_min(1e-10)
        # Decibels below the loudest cell, floored at -80, scaled to about -1 ... 1.
        decibels = 10.0 * torch.log10(power / power.max())
        features = (decibels.clamp_min(-80.0) + 40.0) / 40.0
        return float(self._p808.run(None, {"input_1": features.numpy()[None]})[0][0][0])

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the ratings of what was generated."""
        return measure(self.columns, lambda: self.rate(item.wave("generated")))
