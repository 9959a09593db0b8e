"""Speaker encoders: what each promises, and how one is made from its specification `KIND[:SOURCE]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.metrics.signal import Wave
from metis_lightning.metrics.speakers.ge2e import Ge2eEncoder
from metis_lightning.metrics.speakers.speechbrain_ecapa import SpeechBrainEcapa
from metis_lightning.metrics.speakers.wavlm import WavLmEcapa
from metis_lightning.metrics.speakers.xvector import WavLmXVector


class SpeakerEncoder(Protocol):
    """A voice as a direction. `name` stands in column names."""

    name: str

    def embed(self, wave: Wave) -> Tensor:
        """Return the float64 embedding of unit length of one utterance, (S,) at 16 kHz.

        Raises:
            MetricError: the audio cannot be used, or is too short.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the embeddings: files with hashes, package versions."""
        ...


def speaker_encoder(spec: str, device: str = "cpu") -> SpeakerEncoder:
    """Return the encoder that a specification names.

    Args:
        spec: "ge2e", "wavlm-large:CHECKPOINT", "wavlm-sv[:SOURCE]" or "speechbrain:FOLDER".
        device: "cpu" or "cuda"; GE2E is on the CPU.

    Raises:
        UserError: it is unknown, needs a path, or a package or a model is missing.
    """
    kind, _, source = spec.partition(":")
    kinds: dict[str, Callable[[], SpeakerEncoder]] = {
        "ge2e": Ge2eEncoder,
        "wavlm-large": lambda: WavLmEcapa(_given(spec, source, "wavlm_large_finetune.pth of UniSpeech"), device),
        "wavlm-sv": lambda: WavLmXVector(source, device) if source else WavLmXVector(device=device),
        "speechbrain": lambda: SpeechBrainEcapa(_given(spec, source, "speechbrain/spkrec-ecapa-voxceleb"), device),
    }
    if kind not in kinds:
        raise UserError(f"unknown speaker encoder '{spec}': give KIND[:SOURCE], KIND one of {', '.join(kinds)}")
    return kinds[kind]()


def _given(spec: str, source: str, what: str) -> str:
    if not source:
        raise UserError(f"the speaker encoder '{spec}' needs a path: {spec}:PATH, the path of {what}")
    return source
