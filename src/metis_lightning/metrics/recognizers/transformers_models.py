"""Recognisers of transformers: Whisper of any size, and HuBERT with a CTC head.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision (2022); Hsu et al., HuBERT (2021).
"""

from __future__ import annotations

import torch

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import TransformersModel
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array

_WINDOW_SECONDS = 30
_GREEDY = {"num_beams": 1, "do_sample": False}
_SIZE_NAMES = ("d_model", "encoder_layers", "decoder_layers", "num_mel_bins")
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


class Whisper(TransformersModel):
    """Whisper, greedy, in float32: the same audio always gives the same text. The paper's is large-v3."""

    processor_class = "AutoProcessor"
    model_class = "WhisperForConditionalGeneration"
    source = "openai/whisper-large-v3"
    owner = "openai"
    decoding = {**_GREEDY, "task": "transcribe", "compute_type": "float32"}
    published = {f"whisper-{size}": dict(zip(_SIZE_NAMES, sizes, strict=True)) for size, sizes in _SIZES.items()}
    languages: frozenset[str] | None = None

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        super().__init__(source, device, num_threads)
        if not getattr(self.model.generation_config, "is_multilingual", True):
            self.languages = frozenset({"en"})

    @torch.no_grad()
    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words; see `Recognizer.transcribe`. Beyond 30 s it goes on from its own time stamps."""
        samples = as_array(wave)
        is_long = len(samples) > _WINDOW_SECONDS * METRIC_RATE
        padding = {"truncation": False, "padding": "longest"} if is_long else {}
        inputs = self.processor(
            samples, sampling_rate=METRIC_RATE, return_tensors="pt", return_attention_mask=True, **padding
        )
        # A model that knows only English refuses to be told a task and a language.
        decoding = _GREEDY | ({"task": "transcribe", "language": language} if self.languages is None else {})
        tokens = self.model.generate(
            inputs.input_features.to(self.device),
            attention_mask=inputs.attention_mask.to(self.device),
            return_timestamps=is_long,
            **decoding,
        )
        return str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


class HubertCtc(TransformersModel):
    """HuBERT: English letters, best path, no language model."""

    processor_class = "Wav2Vec2Processor"
    model_class = "HubertForCTC"
    source = "facebook/hubert-large-ls960-ft"
    owner = "facebook"
    decoding = "best path"
    published = {
        "hubert-large-ls960-ft": {"hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 32},
        "hubert-xlarge-ls960-ft": {"hidden_size": 1280, "num_hidden_layers": 48, "vocab_size": 32},
    }
    languages: frozenset[str] | None = frozenset({"en"})

    @torch.no_grad()
    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words; see `Recognizer.transcribe`."""
        samples = as_array(wave)
        # The receptive field of the convolutions: less gives no frame.
        if len(samples) < 400:
            raise MetricError(f"the signal is shorter than {self.name} can hear (25 ms)")
        inputs = self.processor(samples, sampling_rate=METRIC_RATE, return_tensors="pt")
        tokens = self.model(inputs.input_values.to(self.device)).logits.argmax(dim=-1)
        # To skip special tokens would skip the blanks before doubled letters are told from long ones.
        return str(self.processor.batch_decode(tokens)[0]).strip()
