"""Speaker similarity: whether two recordings have the same voice, as the cosine of their speaker embeddings.

Values of different encoders are not comparable, so columns have the encoder's name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import Column, MetricError, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem, Wave
from metis_lightning.metrics.speakers.ecapa import SpeechBrainEcapa
from metis_lightning.metrics.speakers.ge2e import Ge2eEncoder
from metis_lightning.metrics.speakers.wavlm import WavLmEcapa, WavLmXVector
from metis_lightning.task_table import Task

# By what a voice is compared with, as `Task.similar_to` has it.
QUANTITIES = {"prompt": "SIM", "reference": "SIM_target", "margin": "SIM_margin"}


class SpeakerEncoder(Protocol):
    """A voice as a direction; `name` is as in column names, `identity` what decides it: hashes, package versions."""

    name: str
    identity: dict[str, Any]

    def embed(self, wave: Wave) -> Tensor:
        """Return the float64 embedding of unit length of an utterance, (S,) at 16 kHz. A `MetricError` if too short."""


def speaker_encoder(spec: str, device: str = "cpu") -> SpeakerEncoder:
    """Return the encoder of a specification, KIND[:SOURCE]. A `UserError` if it is unknown, or something is missing."""
    kind, _, source = spec.partition(":")
    kinds: dict[str, Callable[[], SpeakerEncoder]] = {
        "ge2e": Ge2eEncoder,
        "wavlm-large": lambda: WavLmEcapa(source, device),
        "wavlm-sv": lambda: WavLmXVector(source, device),
        "speechbrain": lambda: SpeechBrainEcapa(source, device),
    }
    if kind not in kinds:
        raise UserError(f"unknown speaker encoder '{spec}': give KIND[:SOURCE], KIND one of {', '.join(kinds)}")
    files = {"wavlm-large": "wavlm_large_finetune.pth of UniSpeech", "speechbrain": "speechbrain/spkrec-ecapa-voxceleb"}
    if kind in files and not source:
        raise UserError(f"the speaker encoder '{spec}' needs a path: {spec}:PATH, the path of {files[kind]}")
    return kinds[kind]()


class SimMetric(UtteranceMetric):
    """Similarities: SIM_… to the prompt, SIM_target_… to the reference, SIM_margin_… that less the interferer's."""

    order = 60

    def __init__(self, options: SuiteOptions, task: Task) -> None:
        self._encoders = [speaker_encoder(spec, options.device) for spec in options.speakers or ()]
        self.models = {"speakers": [encoder.identity for encoder in self._encoders]}
        self._similar_to = task.similar_to
        names = [encoder.name for encoder in self._encoders]
        self.columns = tuple(Column.by_model(QUANTITIES[other], name) for name in names for other in task.similar_to)

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return each similarity by each encoder."""
        values: dict[str, MetricValue] = {}
        for encoder in self._encoders:
            # Each signal is embedded once.
            embed = cache(partial(_embedding, encoder, item))
            for other in self._similar_to:
                column = Column.by_model(QUANTITIES[other], encoder.name)
                values |= measure((column,), _similarity, embed, other)
        return values


def _embedding(encoder: SpeakerEncoder, item: ScoringItem, name: str) -> Tensor:
    wave = item.wave(name)
    try:
        return encoder.embed(wave)
    except MetricError as error:
        # Encoders call whatever they are given the signal.
        raise MetricError(str(error) if name == "generated" else f"the {name}: {error}") from error


def _similarity(embed: Callable[[str], Tensor], other: str) -> float:
    """Return the similarity of what was generated to another signal, or the margin."""
    if other == "margin":
        return _similarity(embed, "reference") - _similarity(embed, "interferer")
    # What the test set lacks is said before what the system lacks.
    voice = embed(other)
    return float(embed("generated") @ voice)
