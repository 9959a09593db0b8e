"""The P.835 network of DNSMOS without its repetitions: the same numbers, faster.

The published script cuts windows of 9.01 s, one each second, and repeats shorter audio until it fills one; so most of
what the network hears, it hears many times. Its first four convolutions, nearly all of its work, see four frames to
either side. So the published graph is cut behind them, their output is computed once for each different frame, and only
at the ends of a window, where they see padding, again for that window. A test compares with the uncut network.

Shape letters: F frames of a stream (100 a second), W windows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metis_lightning.metrics.packages import require

HOP = 160
"""Samples at 16 kHz between two frames."""

WINDOW_FRAMES = 900

_STEP = 100  # frames between two windows
_REACH = 4  # frames that four convolutions of kernel 3 see to either side
_CHUNK = 900  # frames at a time, which bounds the memory
_AUDIO, _IMAGE = "input_1", "adjusted_input6"
_FEATURES, _RATINGS = "mos_estimator_logpow/conv2d_3/Relu:0", "Identity:0"


class P835:
    """The network in three parts: audio to log spectra, spectra to features frame by frame, features to ratings."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """Cut the graph and open its parts, each with `num_threads` threads.

        Raises:
            UserError: onnx or onnxruntime is not installed.
        """
        onnx = require("onnx", "eval")
        network = onnx.load(path)
        # What is between the parts may have any number of frames.
        between = {_IMAGE: ("batch", 1, "frames", 161), _FEATURES: ("batch", 32, "frames", 161)}
        make = onnx.helper.make_tensor_value_info
        network.graph.value_info.extend(make(name, onnx.TensorProto.FLOAT, shape) for name, shape in between.items())
        extractor = require("onnx.utils", "eval").Extractor(network)
        cuts = ((_AUDIO, _IMAGE), (_IMAGE, _FEATURES), (_FEATURES, _RATINGS))
        parts = [extractor.extract_model([start], [end]) for start, end in cuts]
        opened = [session(part.SerializeToString(), num_threads) for part in parts]
        self._spectra, self._convolutions, self._head = opened

    def __call__(self, windows: Sequence[np.ndarray], starts: Sequence[int], period: int | None = None) -> np.ndarray:
        """Return the raw ratings of windows of one stream of audio.

        Args:
            windows: (144160,) float32 each, at 16 kHz.
            starts: the second of the stream at which each begins, ascending.
            period: samples after which the stream repeats itself, None if it does not.

        Returns:
            (W, 3): signal, background, overall.
        """
        ratings: list[np.ndarray] = []
        frames = period // HOP if period and period % HOP == 0 else None
        first = 0
        for last in range(1, len(starts) + 1):
            # A gap: where the published rounding skips windows.
            if last == len(starts) or starts[last] != starts[last - 1] + 1:
                ratings += self._rate(np.stack(windows[first:last]), frames)
                first = last
        return np.stack(ratings)

    def _rate(self, windows: np.ndarray, period: int | None) -> list[np.ndarray]:
        """Return the ratings of windows that follow each other at one second; `period` in frames."""
        images = np.concatenate([_run(self._spectra, window[None]) for window in windows])[:, 0]
        if len(images) == 1 and (period is None or period > WINDOW_FRAMES - 4 * _REACH):
            return [_run(self._head, self._features(images[0]))[0]]
        stream = np.concatenate([images[0], *(image[-_STEP:] for image in images[1:])])
        inner = self._inner(stream, period)
        ratings = []
        for number, image in enumerate(images):
            ends = self._features(np.stack([image[: 2 * _REACH], image[-2 * _REACH :]]))
            frames = np.arange(_REACH, WINDOW_FRAMES - _REACH) + number * _STEP
            middle = inner[:, frames if period is None else frames % period]
            window = np.concatenate([ends[0, :, :_REACH], middle, ends[1, :, -_REACH:]], axis=1)
            ratings.append(_run(self._head, window[None])[0])
        return ratings

    def _inner(self, stream: np.ndarray, period: int | None) -> np.ndarray:
        """Return features (32, F, 161) of a stream (F, 161) of spectra, or of its first `period` frames.

        Without a period those of the first and last frames are not those of the stream, and not to be used.
        """
        if period is not None:
            stream = stream[np.arange(-_REACH, period + _REACH) % period]
            return self._features(stream)[0, :, _REACH:-_REACH]
        padded = np.pad(stream, ((_REACH, _REACH), (0, 0)))
        starts = range(0, len(stream), _CHUNK)
        chunks = [self._features(padded[start : start + _CHUNK + 2 * _REACH]) for start in starts]
        return np.concatenate([chunk[0, :, _REACH:-_REACH] for chunk in chunks], axis=1)

    def _features(self, spectra: np.ndarray) -> np.ndarray:
        """Map (frames, 161) or (B, frames, 161) to (B, 32, frames, 161), with zeros beyond the ends."""
        batch = spectra if spectra.ndim == 3 else spectra[None]
        return _run(self._convolutions, batch[:, None])


def session(model: Path | bytes, num_threads: int) -> Any:  # noqa: ANN401  (onnxruntime is imported late, without types)
    """Open a network with `num_threads` CPU threads.

    Raises:
        UserError: onnxruntime is not installed.
    """
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


def _run(network: Any, batch: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Return the one output of a network with one input."""
    return network.run(None, {network.get_inputs()[0].name: np.ascontiguousarray(batch)})[0]
