"""Scoring for tests of everything around it: two real numbers, in this process, of whatever process asks."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import torch

from metis_lightning.data.media.audio import resample
from metis_lightning.metrics.metric import Column, MetricValue, WerValue
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.types import WAVE_RATE

NO_ASR = "no ASR in this test"
COLUMNS = (
    Column("LEVEL", "LEVEL"),
    Column("MSE", "MSE", higher_is_better=False),
    Column.by_model("WER", "none", unit="%", higher_is_better=False),
)


class QuickPool:
    """The level of what is heard, and the error to the reference; it stands in for `ScoringPool`."""

    def __init__(self, options: SuiteOptions, processes: int) -> None:
        self.options = options
        self.columns = {column.name: column for column in COLUMNS}

    def __enter__(self) -> QuickPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fingerprint(self) -> dict[str, str]:
        return {"protocol": self.options.protocol}

    def submit(self, utterance: ScoringItem) -> Future[dict[str, MetricValue]]:
        scored: Future[dict[str, MetricValue]] = Future()
        scored.set_result(self.score(utterance))
        return scored

    def score(self, utterance: ScoringItem) -> dict[str, MetricValue]:
        wave = resample(np.asarray(utterance.generated), utterance.sample_rate, WAVE_RATE)
        empty = MetricValue(None, "the signal is empty")
        level = MetricValue(float(wave.square().mean().sqrt())) if len(wave) else empty
        return {"LEVEL": level, "MSE": self._error(utterance, wave), "WER_none": WerValue(None, NO_ASR)}

    def _error(self, utterance: ScoringItem, wave: torch.Tensor) -> MetricValue:
        if utterance.reference is None:
            return MetricValue(None, "no reference")
        reference = resample(
            np.asarray(utterance.reference), utterance.rates.get("reference", utterance.sample_rate), WAVE_RATE
        )
        if abs(len(wave) - len(reference)) > 2_400 and self.options.task not in ("tts", "vc"):
            return MetricValue(None, "signal and reference differ in length")
        length = min(len(wave), len(reference))
        return MetricValue(float((wave[:length] - reference[:length]).square().mean()))


class Interrupted(QuickPool):
    """Ctrl-C at the third utterance."""

    scored = 0

    def submit(self, utterance: ScoringItem) -> Future[dict[str, MetricValue]]:
        Interrupted.scored += 1
        if Interrupted.scored == 3:
            raise KeyboardInterrupt
        return super().submit(utterance)
