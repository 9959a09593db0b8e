"""Folders of the user's recordings: noises and room responses, drawn one at a time.

Where noise comes from: the user's recordings, or made on the spot of colours and voices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import audio_seconds, check_sound, read_audio
from metis_lightning.data.media.corruption import coloured_noise
from metis_lightning.data.media.mixing import SILENT_RMS, fit_length, rms
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.data.recipes.prompts import draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import draw_coin, draw_int, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.progress import Progress
from metis_lightning.types import WAVE_RATE, Applied

SUFFIXES = (".wav", ".flac")
# Files that a message names.
_SHOWN = 5


class Recordings:
    """Every wav and flac file below a folder.

    The folder is listed at the first draw, so that a config can be read on a machine that lacks it.
    """

    def __init__(self, root: Path) -> None:
        """Name the folder; it is searched at any depth, and it and folders in it may be links."""
        self.root = Path(root)

    @cached_property
    def paths(self) -> list[Path]:
        """The files in order of their names.

        Raises:
            UserError: if there is no such folder or no such file in it.
        """
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give the folder of the recordings, or none for synthetic ones"
            )
        found = files_below(self.root, SUFFIXES)
        if not found:
            raise UserError(f"{self.root}: no {' or '.join(SUFFIXES)} file in it or below it")
        return found

    def look_through(self) -> None:
        """Read every file, so that one that is no sound ends a run before it begins, and say what else lies there.

        Raises:
            UserError: naming the first of them.
        """
        paths, faults = self.paths, []
        below = [path.relative_to(self.root) for path in files_below(self.root)]
        if left := skipped_note(self.root, below, SUFFIXES):
            rank_zero_info(left)
        with Progress(f"looking through {self.root}", "files", len(paths), leave=False) as progress:
            for path in paths:
                try:
                    check_sound(path, channel=0)
                except UserError as error:
                    faults.append(f"{path.relative_to(self.root)} ({getattr(error, 'reason', '') or 'unreadable'})")
                progress.step()
        if faults:
            more = ", …" if len(faults) > _SHOWN else ""
            raise UserError(
                f"{self.root}: {len(faults)} of {len(paths)} recordings hold no sound: "
                f"{', '.join(faults[:_SHOWN])}{more}; remove or replace them"
            )

    def draw(self, generator: torch.Generator, samples: int | None = None) -> tuple[Tensor, str]:
        """Return the first channel (S,) at 24 kHz of a file, each equally likely, and its path below the folder.

        With `samples`, a longer file is read from a random place on for about so many: some corpora's files are minutes
        long.
        """
        path = self.paths[draw_int(len(self.paths), generator)]
        part = None
        if samples is not None:
            seconds = samples / WAVE_RATE
            spare = audio_seconds(path) - seconds
            part = (draw_uniform(0.0, spare, generator), seconds) if spare > 0 else None
        return read_audio(path, WAVE_RATE, channel=0, part=part), path.relative_to(self.root).as_posix()


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
        total += fit_length(voice / max(rms(voice), SILENT_RMS), samples)
        ids.append(corpus.utterances[drawn].id)
    return total, ids
