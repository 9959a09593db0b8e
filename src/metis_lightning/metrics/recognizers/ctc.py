"""HuBERT with a CTC head by transformers (Hsu et al., 2021), e.g. `facebook/hubert-large-ls960-ft`, greedy."""

from __future__ import annotations

from typing import Any

import torch

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import Kind, TransformersModel
from metis_lightning.metrics.packages import versions
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array

_MIN_SAMPLES = 400
"""Receptive field of the convolutions, 25 ms: less gives no frame."""

PUBLISHED = {
    "hubert-large-ls960-ft": {"hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 32},
    "hubert-xlarge-ls960-ft": {"hidden_size": 1280, "num_hidden_layers": 48, "vocab_size": 32},
}

KIND = Kind("Wav2Vec2Processor", "HubertForCTC", "facebook", PUBLISHED)


class HubertCtc:
    """English letters, best path, no language model."""

    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self, source: str = "facebook/hubert-large-ls960-ft", device: str = "cpu") -> None:
        """Load a model.

        Args:
            source: a folder as transformers saves it, or a name on the hub.
            device: "cpu" or "cuda".

        Raises:
            UserError: transformers or the model is missing, or the model is not the one that its name says.
        """
        self._loaded = TransformersModel.load(KIND, source, device)
        self.name = self._loaded.name

    @torch.no_grad()
    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard; see `AsrBackend.transcribe`."""
        samples = as_array(wave)
        if len(samples) < _MIN_SAMPLES:
            raise MetricError(f"the signal is shorter than {self.name} can hear (25 ms)")
        inputs = self._loaded.processor(samples, sampling_rate=METRIC_RATE, return_tensors="pt")
        tokens = self._loaded.model(inputs.input_values.to(self._loaded.device)).logits.argmax(dim=-1)
        # To skip special tokens would skip the blanks before doubled letters are told from long ones.
        return str(self._loaded.processor.batch_decode(tokens)[0]).strip()

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes and versions."""
        return {
            "name": self.name,
            "sha256": self._loaded.hashes,
            "decoding": "best path",
            "packages": versions(("transformers", "torch")),
        }
