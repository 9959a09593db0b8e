"""WavLM with an x-vector head by transformers: `microsoft/wavlm-base-plus-sv`, the paper's encoder for enhancement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import Kind, TransformersModel
from metis_lightning.metrics.packages import versions
from metis_lightning.metrics.signal import METRIC_RATE, Wave, with_sound

PUBLISHED = {
    "wavlm-base-plus-sv": {"hidden_size": 768, "num_hidden_layers": 12, "xvector_output_dim": 512},
    "wavlm-base-sv": {"hidden_size": 768, "num_hidden_layers": 12, "xvector_output_dim": 512},
}
_FRAME = 320
_FIRST_FRAME = 400

KIND = Kind("AutoFeatureExtractor", "WavLMForXVector", "microsoft", PUBLISHED)


class WavLmXVector:
    """A WavLM speaker verification model as transformers has it. Not an `nn.Module`, as `Ge2eEncoder`."""

    def __init__(self, source: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu") -> None:
        """Load a model.

        Args:
            source: a folder as transformers saves it, or a name on the hub.
            device: "cpu" or "cuda".

        Raises:
            UserError: transformers or the model is missing, or the model is not the one that its name says.
        """
        self._loaded = TransformersModel.load(KIND, source, device)
        self.name = self._loaded.name
        kernels = zip(self._loaded.model.config.tdnn_kernel, self._loaded.model.config.tdnn_dilation, strict=True)
        # Two frames have to be left for the standard deviation over time.
        frames = 2 + sum((size - 1) * dilation for size, dilation in kernels)
        self._min_samples = _FIRST_FRAME + (frames - 1) * _FRAME

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return the float64 embedding of unit length of one utterance, (S,) at 16 kHz.

        Raises:
            MetricError: the audio is empty, silent, not finite, or too short (0.33 s for the published model).
        """
        samples = with_sound(wave)
        if len(samples) < self._min_samples:
            needed = self._min_samples / METRIC_RATE
            raise MetricError(f"the signal is too short for {self.name}: {needed:.2f} s are needed")
        inputs = self._loaded.processor(samples, sampling_rate=METRIC_RATE, return_tensors="pt")
        embedding = self._loaded.model(inputs.input_values.to(self._loaded.device)).embeddings[0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes and versions."""
        return {"name": self.name, "sha256": self._loaded.hashes, "packages": versions(("transformers", "torch"))}
