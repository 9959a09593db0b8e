"""A corpus: utterances, their speakers, and their waveforms read once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metis_lightning.data.audio import read_audio
from metis_lightning.data.speed import at_speed
from metis_lightning.data.table import UtteranceTable
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Utterance

# Full scale is 2**14, not 2**15, so that samples up to 2 in size fit: lossy codecs overshoot 1 on loud speech.
_SCALE = 2.0**14


class SpeechCorpus:
    """Utterances with their waveforms at 24 kHz.

    `wave` always returns 16-bit samples turned to float32, so that a cached and a fresh read are equal bit for bit.
    The cache belongs to one process: it is left behind when the corpus is sent to a spawned worker.

    Attributes:
        utterances: in the order given.
        by_speaker: speaker to the indices of that speaker's utterances.
    """

    def __init__(self, utterances: Iterable[Utterance], cache: bool = True) -> None:
        """Index `utterances`; with `cache`, keep each waveform in memory after its first read (2 bytes a sample)."""
        self.utterances = UtteranceTable.of(utterances)
        self.by_speaker = self.utterances.by_speaker()
        self._cache: dict[int, Tensor] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.utterances)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the cached audio."""
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {utterance.id: index for index, utterance in enumerate(self.utterances)}

    def seconds(self, index: int) -> float:
        """Return an utterance's duration as listed, without reading its line of the manifest."""
        return float(self.utterances.seconds[index])

    def index_of(self, utterance_id: str) -> int:
        """Return the index of an utterance.

        Raises:
            UserError: if there is none of this id.
        """
        if utterance_id not in self._index:
            raise UserError(f"no utterance {utterance_id!r} in this corpus; check that list and manifest fit together")
        return self._index[utterance_id]

    def wave(self, index: int) -> Tensor:
        """Return an utterance's waveform, (S,) float32 at 24 kHz, as a new tensor."""
        return as_wave(self.samples(index))

    def samples(self, index: int) -> Tensor:
        """Return what `wave` is made of, (S,) int16 at full scale 2**14; not to be changed."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        utterance = self.utterances[index]
        wave = at_speed(read_audio(utterance.path, WAVE_RATE), utterance.speed)
        samples = (wave * _SCALE).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
        if self._cache is not None:
            self._cache[index] = samples
        return samples


def as_wave(samples: Tensor) -> Tensor:
    """Return the waveform float32 of int16 samples as `SpeechCorpus.samples` gives them, as a new tensor."""
    return samples.to(torch.float32) / _SCALE
