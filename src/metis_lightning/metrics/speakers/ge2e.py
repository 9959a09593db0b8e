"""The GE2E speaker encoder: a voice as a 256-dimensional direction.

Wan et al., Generalized End-to-End Loss (2018), with the features and the published weights of Resemblyzer 0.1.4 (see
`assets/speaker_encoder/README.md`). One deviation: Resemblyzer shortens silences with webrtcvad first, we do not.

Shape letters: P partial utterances, S samples.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import file_identity
from metis_lightning.metrics.signal import METRIC_RATE, Wave, with_sound
from metis_lightning.tokens.mel import PowerMel

GE2E_WEIGHTS = Path(__file__).parents[2] / "assets" / "speaker_encoder" / "ge2e.safetensors"
EMBEDDING_DIM = 256

_MELS = 40
_HOP = 160
_PARTIAL_FRAMES = 160
_FRAME_STEP = round(METRIC_RATE / 1.3 / _HOP)  # 1.3 partial utterances a second
_MIN_COVERAGE = 0.75
_LOUDNESS = -30.0  # dBFS


class Ge2eNetwork(nn.Module):
    """Three LSTM layers over power mel frames; the last state, rectified and of unit length, is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, EMBEDDING_DIM, num_layers=3, batch_first=True)
        self.linear = nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM)

    def forward(self, mels: Tensor) -> Tensor:
        """Map (P, 160, 40) frames to (P, 256) embeddings of unit length."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=-1)


def partial_starts(num_samples: int) -> list[int]:
    """Return the first frame of each partial utterance of 1.6 s that covers `num_samples` at 16 kHz.

    The last one reaches beyond the end, and is left out if less than three quarters of it is audio.
    """
    frames = math.ceil((num_samples + 1) / _HOP)
    starts = list(range(0, max(1, frames - _PARTIAL_FRAMES + _FRAME_STEP + 1), _FRAME_STEP))
    covered = (num_samples - starts[-1] * _HOP) / (_PARTIAL_FRAMES * _HOP)
    return starts[:-1] if covered < _MIN_COVERAGE and len(starts) > 1 else starts


def raise_volume(wave: np.ndarray) -> np.ndarray:
    """Bring (S,) samples up to -30 dBFS (root mean square); louder audio stays as it is."""
    loudness = 20.0 * math.log10(math.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return wave * np.float32(10.0 ** (max(0.0, _LOUDNESS - loudness) / 20.0))


class Ge2eEncoder:
    """The network with the published weights, on the CPU. Not an `nn.Module`: it must stay out of checkpoints."""

    name = "ge2e"

    def __init__(self) -> None:
        """Load the weights shipped with the project."""
        self._network = Ge2eNetwork().eval().requires_grad_(False)
        self._network.load_state_dict(load_file(GE2E_WEIGHTS))
        self.identity = file_identity(self.name, GE2E_WEIGHTS)
        self._mel = PowerMel(METRIC_RATE, n_fft=400, hop_length=_HOP, n_mels=_MELS)

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return (256,); see `SpeakerEncoder.embed`. There is none where the rectified embedding is zero."""
        # Resemblyzer's order: level first, then padding to whole partial utterances.
        samples = torch.from_numpy(raise_volume(with_sound(wave)))
        starts = partial_starts(len(samples))
        padding = (starts[-1] + _PARTIAL_FRAMES) * _HOP - len(samples)
        mel = self._mel(nn.functional.pad(samples, (0, max(0, padding))))
        partials = self._network(torch.stack([mel[start : start + _PARTIAL_FRAMES] for start in starts]))
        if not partials.any():
            raise MetricError("the speaker encoder finds no voice")
        return nn.functional.normalize(partials.double().mean(dim=0), dim=0)
