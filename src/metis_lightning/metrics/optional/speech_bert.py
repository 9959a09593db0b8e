"""SpeechBERTScore: for each frame of what was generated, the nearest of the reference, by features of an encoder.

Saeki et al., SpeechBERTScore: reference-aware automatic evaluation of speech generation leveraging NLP evaluation
metrics (Interspeech 2024); the precision, which is what they and URGENT report. The encoder is any that transformers
loads; URGENT takes layer 8 of utter-project/mHuBERT-147, Saeki layer 14 of microsoft/wavlm-large.

Shape letters: S samples, T frames, C features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import Column, MetricError, OptionalMetric
from metis_lightning.metrics.model_files import model_folder, model_name, require, versions, weight_hashes
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem, with_sound
from metis_lightning.task_table import Task

_LAYER = 8
_SHORTEST = 400


def bert_precision(features: Tensor, reference: Tensor) -> float:
    """Return the mean over frames (T, C) of the cosine to the nearest reference frame (U, C).

    >>> bert_precision(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    0.853553...
    """
    cosines = nn.functional.normalize(features.double(), dim=1) @ nn.functional.normalize(reference.double(), dim=1).T
    return float(cosines.amax(dim=1).mean())


class SpeechBertScoreMetric(OptionalMetric):
    """SPEECHBERT_…: from -1 to 1, 1 for the reference itself."""

    kind = "speechbertscore"
    takes = "an encoder of transformers, PATH[@LAYER] (layer 8 without)"

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        transformers = require("transformers", "ssl")
        place, _, layer = source.partition("@")
        folder, self._device = model_folder(place), options.device
        try:
            self._layer = int(layer or _LAYER)
            self._encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"--metrics {self.kind}:{source}: {error}; give {self.takes}") from error
        count = self._encoder.config.num_hidden_layers
        if not 0 <= self._layer <= count:
            raise UserError(f"--metrics {self.kind}:{source}: the encoder has layers 0 to {count}; give PATH@LAYER")
        self._encoder.eval().requires_grad_(False).to(self._device)
        name = f"{model_name(place, 'microsoft')}-{self._layer}"
        self.columns = (Column.by_model("SPEECHBERT", name),)
        packages = versions(("transformers", "torch"))
        self.models = {f"{self.kind} {name}": {"sha256": weight_hashes(folder), "packages": packages}}

    @torch.no_grad()
    def features(self, wave: np.ndarray, name: str) -> Tensor:
        """Return the features (T, C) of (S,) samples at 16 kHz, which the authors give to the encoder as they are."""
        samples = with_sound(wave, name)
        if len(samples) < _SHORTEST:
            raise MetricError(f"the {name} is too short for {self.kind}: 25 ms are needed")
        inputs = torch.from_numpy(samples)[None].to(self._device)
        return self._encoder(inputs, output_hidden_states=True).hidden_states[self._layer][0].cpu()

    def value(self, item: ScoringItem) -> float:
        """Return the precision."""
        reference = self.features(item.wave("reference"), "reference")
        return bert_precision(self.features(item.wave("generated"), "signal"), reference)
