"""SpeechBrain's ECAPA-TDNN from a local copy of `speechbrain/spkrec-ecapa-voxceleb`.

The network is built here at its published sizes and only its tensors are read: the folder's `hyperparams.yaml`, which
SpeechBrain would run as code, is not opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.signal import METRIC_RATE, Wave, with_sound

WEIGHTS = "embedding_model.ckpt"
_MELS = 80
_DIM = 192
_MIN_SAMPLES = METRIC_RATE // 10


class SpeechBrainEcapa:
    """The encoder with its features: 80 log mel bands, each less its mean over the utterance."""

    name = "ecapa-voxceleb"

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        """Load the weights.

        Args:
            folder: with `embedding_model.ckpt`.
            device: "cpu" or "cuda".

        Raises:
            UserError: speechbrain is not installed, or the file is missing or of another network.
        """
        ecapa = require("speechbrain.lobes.models.ECAPA_TDNN", "speechbrain")
        features = require("speechbrain.lobes.features", "speechbrain")
        norm = require("speechbrain.processing.features", "speechbrain")
        path = Path(folder).expanduser() / WEIGHTS
        if not path.is_file():
            raise UserError(f"no speaker encoder {path}: give the folder of speechbrain/spkrec-ecapa-voxceleb")
        self._device = device
        self._filters = features.Fbank(n_mels=_MELS)
        self._normalize = norm.InputNormalization(norm_type="sentence", std_norm=False)
        self._network = ecapa.ECAPA_TDNN(
            _MELS,
            channels=[1024, 1024, 1024, 1024, 3072],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=128,
            lin_neurons=_DIM,
        )
        try:
            self._network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UserError(f"{path}: not the weights of spkrec-ecapa-voxceleb: {error}") from error
        self._network.eval().requires_grad_(False).to(device)
        self._sha256 = sha256_of(path)

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return the (192,) float64 embedding of unit length of one utterance, (S,) at 16 kHz.

        Raises:
            MetricError: the audio is empty, silent, not finite, or shorter than 0.1 s.
        """
        samples = with_sound(wave)
        if len(samples) < _MIN_SAMPLES:
            raise MetricError(f"the signal is too short for {self.name}: 0.1 s are needed")
        whole = torch.ones(1)
        mels = self._normalize(self._filters(torch.from_numpy(samples)[None]), whole)
        embedding = self._network(mels.to(self._device), whole.to(self._device))[0, 0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)

    def fingerprint(self) -> dict[str, Any]:
        """Return the file's hash and versions."""
        packages = versions(("speechbrain", "torch"))
        return {"name": self.name, "file": WEIGHTS, "sha256": self._sha256, "packages": packages}
