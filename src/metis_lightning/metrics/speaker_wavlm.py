"""WavLM-large with ECAPA-TDNN: the paper's speaker encoder, from UniSpeech's `wavlm_large_finetune.pth`.

Chen et al., WavLM (2021); microsoft/UniSpeech, downstreams/speaker_verification; used so by seed-tts-eval. WavLM is
that of transformers, under the checkpoint's weights; the ECAPA-TDNN is ours.

Shape letters: C feature width, S samples, T frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.ecapa import EcapaTdnn
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.signal import Wave, with_sound
from metis_lightning.metrics.unispeech_keys import our_names, require_same

_MIN_SAMPLES = 720
"""Two frames: one has no variance to be normalised by."""

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": False,
    "mask_time_prob": 0.0,
}
"""Sizes of WavLM-large, for `transformers.WavLMConfig`. No masks: the encoder is never trained here."""


class WavLmEcapaNetwork(nn.Module):
    """WavLM's hidden states, averaged with the learnt weights, into the ECAPA-TDNN."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        """Make the network with random weights; `sizes` for `transformers.WavLMConfig`."""
        super().__init__()
        transformers = require("transformers", "ssl")
        config = transformers.WavLMConfig(**sizes)
        self.wavlm = transformers.WavLMModel(config)
        self.feature_weight = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.ecapa = EcapaTdnn(config.hidden_size)

    def forward(self, wave: Tensor) -> Tensor:
        """Map one utterance, (1, S) at 16 kHz, to its (1, 256) embedding."""
        normal = nn.functional.layer_norm(wave, wave.shape[-1:])
        states = self.wavlm(normal, output_hidden_states=True).hidden_states
        weights = self.feature_weight.softmax(dim=0)
        features = sum(weight * state for weight, state in zip(weights, states, strict=True))
        return self.ecapa(features.transpose(1, 2) + 1e-6)


class WavLmEcapa:
    """The network with published weights. Not an `nn.Module`, as `Ge2eEncoder`."""

    def __init__(self, checkpoint: str | Path, device: str = "cpu", sizes: dict[str, Any] | None = None) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: path of `wavlm_large_finetune.pth`.
            device: "cpu" or "cuda".
            sizes: of another WavLM than large; its name then says so.

        Raises:
            UserError: there is no such file, it is no checkpoint of tensors, or it is not this network's.
        """
        self._path, self._device = Path(checkpoint).expanduser(), device
        self.name = "wavlm-large" if sizes is None else "wavlm-other"
        with torch.device("meta"):
            self._network = WavLmEcapaNetwork(LARGE if sizes is None else sizes)
        found = our_names(_tensors(self._path), self._path)
        require_same(found, self._network.state_dict(), self._path)
        self._network.load_state_dict(found, assign=True)
        self._network.eval().requires_grad_(False).float().to(device)
        self._sha256 = sha256_of(self._path)

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return the (256,) float64 embedding of unit length of one utterance, (S,) at 16 kHz.

        Raises:
            MetricError: the audio is empty, silent, not finite, or shorter than 45 ms.
        """
        samples = torch.from_numpy(with_sound(wave))
        if len(samples) < _MIN_SAMPLES:
            raise MetricError(f"the signal is too short for {self.name}: 45 ms are needed")
        embedding = self._network(samples[None].to(self._device))[0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)

    def fingerprint(self) -> dict[str, Any]:
        """Return the file, its hash and versions."""
        packages = versions(("transformers", "torch"))
        return {"name": self.name, "file": self._path.name, "sha256": self._sha256, "packages": packages}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, which cannot run code.

    Raises:
        UserError: there is no such file, or it holds anything but tensors and plain data.
    """
    if not path.is_file():
        raise UserError(
            f"no speaker verification checkpoint {path}: download wavlm_large_finetune.pth as microsoft/UniSpeech, "
            "downstreams/speaker_verification, says, and give its path"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of plain tensors ({type(error).__name__}): {error}") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: no tensors under 'model': give UniSpeech's wavlm_large_finetune.pth")
    return tensors
