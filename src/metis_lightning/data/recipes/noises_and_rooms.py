"""Noises and room responses for corruption: the user's recordings, or made of colours, voices and decaying noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import audio_seconds, check_sound, read_audio
from metis_lightning.data.media.corruption import synthetic_room, tilt
from metis_lightning.data.media.mixing import SILENT_RMS, fit_length, rms
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.data.recipes.prompts import draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import draw_coin, draw_int, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.progress import tracked
from metis_lightning.types import WAVE_RATE, Applied

SUFFIXES = (".wav", ".flac")
# Files that a message names.
_MOST_NAMED = 5
# How often noise is babble, of how many voices, least and most; else its slope is uniform in these dB an octave.
_BABBLE_CHANCE, _VOICES, _SLOPE_DB = 0.3, (3, 6), (-6.0, 3.0)
# Seconds of a room's decay by 60 dB (the DNS Challenge's test set has 0.3 to 1.3), and direct to reverberant dB.
_RT60, _DIRECT_DB = (0.2, 1.3), (-3.0, 12.0)


@dataclass(frozen=True)
class RecordingFolder:
    """Every wav and flac file below a folder, at any depth; it and folders in it may be links."""

    root: Path

    # Listed at the first draw, so that a config can be read on a machine that lacks the folder.
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
        self, generator: Generator, samples: int | None = None, sample_rate: int = WAVE_RATE
    ) -> tuple[Tensor, str]:
        """Return the first channel (S,) of a file, each equally likely, and its path below the folder.

        With `samples`, of a longer file about so many from a random place on: some corpora's files last minutes.
        """
        path = self.paths[draw_int(len(self.paths), generator)]
        part = None
        if samples is not None:
            seconds = samples / sample_rate
            spare = audio_seconds(path) - seconds
            part = (draw_uniform(0.0, spare, generator), seconds) if spare > 0 else None
        return read_audio(path, sample_rate, channel=0, part=part), path.relative_to(self.root).as_posix()


def draw_noise(corpus: SpeechCorpus, index: int, samples: int, generator: Generator) -> tuple[Tensor, Applied]:
    """Return noise (S,) at any level, coloured or babble of others than utterance `index`'s speaker, and what it is."""
    if len(corpus.by_speaker) > 1 and draw_coin(_BABBLE_CHANCE, generator):
        total, ids = torch.zeros(samples), []
        for _ in range(_VOICES[0] + draw_int(_VOICES[1] - _VOICES[0] + 1, generator)):
            other = draw_interferer(corpus, index, generator)
            voice = speech_crop(corpus.wave(other), samples, generator)
            total += fit_length(voice / max(rms(voice), SILENT_RMS), samples)
            ids.append(corpus.utterances[other].id)
        return total, {"noise": "babble", "voices": " ".join(ids)}
    slope_db = draw_uniform(*_SLOPE_DB, generator)
    white = torch.randn(samples, generator=generator, device=generator.device)
    return tilt(white, slope_db, WAVE_RATE), {"noise": "coloured", "slope_db": slope_db}


def draw_room(generator: Generator) -> tuple[Tensor, Applied]:
    """Return a room response (R,) at 24 kHz, exponentially decaying noise after a direct path, and what it is."""
    rt60, direct_db = draw_uniform(*_RT60, generator), draw_uniform(*_DIRECT_DB, generator)
    response = synthetic_room(rt60, direct_db, WAVE_RATE, generator)
    return response, {"room": "synthetic", "rt60": rt60, "direct_db": direct_db}
