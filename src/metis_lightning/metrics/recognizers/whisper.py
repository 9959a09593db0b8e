"""Whisper of any size by transformers (Radford et al., 2022): the paper's recogniser is `openai/whisper-large-v3`."""

from __future__ import annotations

from typing import Any

import torch

from metis_lightning.metrics.model_files import Kind, TransformersModel
from metis_lightning.metrics.packages import versions
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array

_WINDOW_SECONDS = 30
_GREEDY = {"num_beams": 1, "do_sample": False}
_KEYS = ("d_model", "encoder_layers", "decoder_layers", "num_mel_bins")
_SIZES = {
    "tiny": (384, 4, 4, 80),
    "base": (512, 6, 6, 80),
    "small": (768, 12, 12, 80),
    "medium": (1024, 24, 24, 80),
    "large": (1280, 32, 32, 80),
    "large-v2": (1280, 32, 32, 80),
    "large-v3": (1280, 32, 32, 128),
    "large-v3-turbo": (1280, 32, 4, 128),
}
PUBLISHED = {f"whisper-{size}": dict(zip(_KEYS, sizes, strict=True)) for size, sizes in _SIZES.items()}
"""Sizes of the published models by name, so that no other passes for one of them."""

KIND = Kind("AutoProcessor", "WhisperForConditionalGeneration", "openai", PUBLISHED)


class Whisper:
    """Whisper, greedy, in float32: the same audio always gives the same text."""

    languages: frozenset[str] | None = None

    def __init__(self, source: str = "openai/whisper-large-v3", device: str = "cpu") -> None:
        """Load a model.

        Args:
            source: a folder as transformers saves it, or a name on the hub.
            device: "cpu" or "cuda".

        Raises:
            UserError: transformers or the model is missing, or the model is not the one that its name says.
        """
        self._loaded = TransformersModel.load(KIND, source, device)
        self.name = self._loaded.name
        if not getattr(self._loaded.model.generation_config, "is_multilingual", True):
            self.languages = frozenset({"en"})

    @torch.no_grad()
    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard; see `AsrBackend.transcribe`. Beyond 30 s it goes on from its own time stamps."""
        samples = as_array(wave)
        is_long = len(samples) > _WINDOW_SECONDS * METRIC_RATE
        padding = {"truncation": False, "padding": "longest"} if is_long else {}
        inputs = self._loaded.processor(
            samples, sampling_rate=METRIC_RATE, return_tensors="pt", return_attention_mask=True, **padding
        )
        # A model that knows only English refuses to be told a task and a language.
        decoding = _GREEDY | ({"task": "transcribe", "language": language} if self.languages is None else {})
        tokens = self._loaded.model.generate(
            inputs.input_features.to(self._loaded.device),
            attention_mask=inputs.attention_mask.to(self._loaded.device),
            return_timestamps=is_long,
            **decoding,
        )
        return str(self._loaded.processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes, decoding options and versions."""
        return {
            "name": self.name,
            "sha256": self._loaded.hashes,
            "decoding": {**_GREEDY, "task": "transcribe", "compute_type": "float32"},
            "packages": versions(("transformers", "torch")),
        }
