"""Corpora: utterances, their speakers, and their waveforms read once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from metis_lightning.data.manifest.table import UtteranceTable
from metis_lightning.data.media.audio import read_audio, resample
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, AudioLocation, Utterance

# What 1 is in 16 bits: not 2**15, so that samples up to 2 in size fit, as lossy codecs overshoot 1 on loud speech.
FULL_SCALE = 2.0**14
# Seconds; half of a tenth, to which manifests may be rounded, and more than encoders pad.
_ROUNDING = 0.051
_Key = int | tuple[AudioLocation, float]


class SpeechCorpus:
    """Utterances with their waveforms at 24 kHz.

    A cached and a fresh read are equal bit for bit: both are of 16-bit samples. The cache belongs to one process: it is
    left behind when the corpus is sent to a spawned worker. `by_speaker` has the indices of a speaker's utterances.
    """

    def __init__(self, utterances: Iterable[Utterance], cache: bool = True) -> None:
        """Index `utterances`; with `cache`, keep each waveform in memory after its first read (2 bytes a sample)."""
        self.utterances = UtteranceTable.of(utterances)
        self.by_speaker = self.utterances.by_speaker()
        # Mixtures by place and speed, as several utterances may share one; the utterances' own by index.
        self._cache: dict[_Key, Tensor] | None = {} if cache else None
        self._indices: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.utterances)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    def seconds(self, index: int) -> float:
        """Return an utterance's duration as listed, without reading its line of the manifest."""
        return float(self.utterances.seconds[index])

    def index_of(self, utterance_id: str) -> int:
        """Return the index of an utterance; a UserError if there is none of this id."""
        if not self._indices:
            self._indices = {utterance.id: index for index, utterance in enumerate(self.utterances)}
        if utterance_id not in self._indices:
            raise UserError(f"no utterance {utterance_id!r} in this corpus; check that list and manifest fit together")
        return self._indices[utterance_id]

    def find(self, utterance_id: str) -> Utterance:
        """Return the utterance of an id; a UserError if there is none."""
        return self.utterances[self.index_of(utterance_id)]

    def wave(self, index: int) -> Tensor:
        """Return an utterance's waveform, (S,) float32 at 24 kHz, as a new tensor."""
        return self.samples(index) / FULL_SCALE

    def mixture(self, index: int) -> Tensor:
        """Return an utterance's mixture, (S,) float32, in time with `wave(index)`; a UserError if none fits."""
        utterance = self.utterances[index]
        if utterance.mixture is None:
            raise UserError(f"utterance {utterance.id!r} has nothing `heard`: use a corpus of pairs, such as librimix")
        samples = self._read((utterance.mixture, utterance.speed), utterance.mixture, utterance)
        if samples.shape != (clean := self.samples(index)).shape:
            raise UserError(
                f"utterance {utterance.id!r}: {clean.numel()} samples, its mixture has {samples.numel()}; prepare anew"
            )
        return samples / FULL_SCALE

    def samples(self, index: int) -> Tensor:
        """Return what `wave` is made of, (S,) int16 at `FULL_SCALE`; not to be changed."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        # Of a large corpus it is a line read from disk.
        return self._read(index, (utterance := self.utterances[index]).path, utterance)

    def _read(self, key: _Key, location: AudioLocation, utterance: Utterance) -> Tensor:
        """Return the samples of an utterance or its mixture, read only if not in the cache."""
        if self._cache is not None and key in self._cache:
            return self._cache[key]
        # A tape that plays faster has the samples of a higher rate.
        wave = resample(read_listed(location, utterance, WAVE_RATE).numpy(), WAVE_RATE * utterance.speed, WAVE_RATE)
        samples = (wave * FULL_SCALE).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
        if self._cache is not None:
            self._cache[key] = samples
        return samples


def read_listed(location: AudioLocation, utterance: Utterance, sample_rate: int) -> Tensor:
    """Return a recording (S,) at speed 1; a UserError if it cannot be read or lasts not as listed: it was replaced."""
    listed = utterance.seconds * utterance.speed
    wave = read_audio(location, sample_rate, longest=listed + 60.0)
    seconds = len(wave) / sample_rate
    if abs(seconds - listed) > _ROUNDING + 0.005 * listed:
        raise UserError(
            f"{location}: lasts {seconds:.2f} s, the manifest lists {utterance.id!r} with {listed:.2f} s: it was "
            "replaced since; put it back, or prepare anew"
        )
    return wave
