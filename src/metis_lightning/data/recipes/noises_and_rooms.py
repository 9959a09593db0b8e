"""Noises and room responses for corruption: the user's recordings, or made of colours, voices and decaying noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import audio_seconds, check_sound, read_audio
from metis_lightning.data.media.corruption import coloured_noise, synthetic_room
from metis_lightning.data.media.mixing import SILENT_RMS, fit_length, rms
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.data.recipes.prompts import draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import check_ranges, draw_coin, draw_int, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.progress import tracked
from metis_lightning.types import WAVE_RATE, Applied

SUFFIXES = (".wav", ".flac")
# Files that a message names.
_MOST_NAMED = 5


@dataclass(frozen=True)
class RecordingFolder:
    """Every wav and flac file below a folder, at any depth; it and folders in it may be links.

    It is listed at the first draw, so that a config can be read on a machine that lacks it.
    """

    root: Path

    @cached_property
    def paths(self) -> list[Path]:
        """The files in order of their names; a UserError if there is no such folder or no such file in it."""
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give the folder of the recordings, or none for synthetic ones"
            )
        paths = files_below(self.root, SUFFIXES)
        if not paths:
            raise UserError(f"{self.root}: no {' or '.join(SUFFIXES)} file in it or below it")
        return paths

    def check(self) -> None:
        """Decode every file before a run begins, and say what else lies there; a UserError if one is no sound."""
        paths, faults = self.paths, []
        below = [path.relative_to(self.root) for path in files_below(self.root)]
        if note := skipped_note(self.root, below, SUFFIXES):
            rank_zero_info(note)
        for path in tracked(paths, f"looking through {self.root}", "files"):
            try:
                check_sound(path, channel=0)
            except UserError as error:
                faults.append(f"{path.relative_to(self.root)} ({getattr(error, 'reason', '') or 'unreadable'})")
        if faults:
            more = ", …" if len(faults) > _MOST_NAMED else ""
            raise UserError(
                f"{self.root}: {len(faults)} of {len(paths)} recordings hold no sound: "
                f"{', '.join(faults[:_MOST_NAMED])}{more}; remove or replace them"
            )

    def draw(
        self, generator: torch.Generator, samples: int | None = None, sample_rate: int = WAVE_RATE
    ) -> tuple[Tensor, str]:
        """Return the first channel (S,) of a file, each equally likely, and its path below the folder.

        With `samples`, a longer file is read from a random place on for about so many: some corpora's files are minutes
        long.
        """
        path = self.paths[draw_int(len(self.paths), generator)]
        part = None
        if samples is not None:
            seconds = samples / sample_rate
            spare = audio_seconds(path) - seconds
            part = (draw_uniform(0.0, spare, generator), seconds) if spare > 0 else None
        return read_audio(path, sample_rate, channel=0, part=part), path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class SyntheticNoises:
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
        """Return noise (S,) of `samples` samples at any level for utterance `index`, and what it is."""
        # Babble is of others than the utterance's speaker.
        if len(corpus.by_speaker) > 1 and draw_coin(self.babble_chance, generator):
            total, ids = torch.zeros(samples), []
            for _ in range(self.voices[0] + draw_int(self.voices[1] - self.voices[0] + 1, generator)):
                other = draw_interferer(corpus, index, generator)
                voice = speech_crop(corpus.wave(other), samples, generator)
                total += fit_length(voice / max(rms(voice), SILENT_RMS), samples)
                ids.append(corpus.utterances[other].id)
            return total, {"noise": "babble", "voices": " ".join(ids)}
        slope_db = draw_uniform(*self.slope_db, generator)
        return coloured_noise(samples, slope_db, WAVE_RATE, generator), {"noise": "coloured", "slope_db": slope_db}


@dataclass(frozen=True)
class SyntheticRooms:
    """Exponentially decaying noise after a direct path; a ValueError if a range is reversed.

    rt60: seconds of decay by 60 dB, uniform between these; those of the DNS Challenge's test set are 0.3 to 1.3.
    direct_db: direct-to-reverberant energy ratio in dB, uniform between these.
    """

    rt60: tuple[float, float] = (0.2, 1.3)
    direct_db: tuple[float, float] = (-3.0, 12.0)

    def __post_init__(self) -> None:
        check_ranges(rt60=self.rt60, direct_db=self.direct_db)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return a response (R,) at 24 kHz, and what it is."""
        rt60, direct_db = draw_uniform(*self.rt60, generator), draw_uniform(*self.direct_db, generator)
        response = synthetic_room(rt60, direct_db, WAVE_RATE, generator)
        return response, {"room": "synthetic", "rt60": rt60, "direct_db": direct_db}
