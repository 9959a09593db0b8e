"""Where noise comes from: the user's recordings, or made on the spot of colours and voices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.corruption import coloured_noise
from metis_lightning.data.mixing import SILENCE, fit_length, rms
from metis_lightning.data.recipe import draw_coin, draw_int, draw_uniform
from metis_lightning.data.recordings import Recordings
from metis_lightning.data.voices import draw_interferer, speech_crop
from metis_lightning.types import WAVE_RATE, Applied


class Noises(ABC):
    """Draws noise to lay under an utterance."""

    @abstractmethod
    def draw(
        self, corpus: SpeechCorpus, index: int, samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Applied]:
        """Return noise (S,) of `samples` samples at any level, and what it is."""


class RecordedNoises(Noises):
    """Crops of the recordings in a folder, such as WHAM! or DEMAND (the paper's); short ones are repeated."""

    def __init__(self, root: Path) -> None:
        """Name the folder."""
        self.recordings = Recordings(root)

    def draw(
        self, corpus: SpeechCorpus, index: int, samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Applied]:
        """Return a crop from anywhere in a recording; only the crop is read."""
        wave, name = self.recordings.draw(generator, samples)
        return fit_length(wave, samples), {"noise": name}


@dataclass(frozen=True)
class SyntheticNoises(Noises):
    """Coloured noise, or babble of other speakers of the corpus where it has any.

    slope_db: the colour's slope is uniform between these, in dB an octave.
    babble_chance: how often it is babble.
    voices: how many voices babble, least and most.
    """

    slope_db: tuple[float, float] = (-6.0, 3.0)
    babble_chance: float = 0.3
    voices: tuple[int, int] = (3, 6)

    def draw(
        self, corpus: SpeechCorpus, index: int, samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Applied]:
        """Return coloured noise or babble."""
        if len(corpus.by_speaker) > 1 and draw_coin(self.babble_chance, generator):
            count = self.voices[0] + draw_int(self.voices[1] - self.voices[0] + 1, generator)
            noise, voices = babble(corpus, index, samples, count, generator)
            return noise, {"noise": "babble", "voices": " ".join(voices)}
        slope_db = draw_uniform(*self.slope_db, generator)
        return coloured_noise(samples, slope_db, WAVE_RATE, generator), {"noise": "coloured", "slope_db": slope_db}


def babble(
    corpus: SpeechCorpus, index: int, samples: int, count: int, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Return the sum (S,) of `count` equally loud utterances of others than the speaker of `index`, and their ids."""
    total, ids = torch.zeros(samples), []
    for _ in range(count):
        drawn = draw_interferer(corpus, index, generator)
        voice = speech_crop(corpus.wave(drawn), samples, generator)
        total += fit_length(voice / max(rms(voice), SILENCE), samples)
        ids.append(corpus.utterances[drawn].id)
    return total, ids
