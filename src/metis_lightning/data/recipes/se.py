"""Speech enhancement: clean speech, and the same through a room, with noise, in a narrow band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import audio_seconds, check_sound, read_audio
from metis_lightning.data.media.corruption import add_noise, band_limit, convolve_room, synthetic_room, tilt
from metis_lightning.data.media.mixing import SILENT_RMS, fit_length, peak_gain, rms
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.data.recipes.prompts import PromptedRecipe, Prompts, draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import Segment, SpeechItem, check_ranges, draw_coin, draw_int, draw_uniform
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
        if paths := files_below(self.root, SUFFIXES):
            return paths
        raise UserError(f"{self.root}: no {' or '.join(SUFFIXES)} file in it or below it")

    def check(self) -> None:
        """Decode every file before a run begins, and say what else lies there; a UserError if one is no sound."""
        paths, faults = self.paths, []
        below = [path.relative_to(self.root) for path in files_below(self.root)]
        if note := skipped_note(self.root, below, SUFFIXES):
            from lightning.pytorch.utilities import rank_zero_info

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
        path, part = self.paths[draw_int(len(self.paths), generator)], None
        if samples is not None and (spare := audio_seconds(path) - samples / sample_rate) > 0:
            part = (draw_uniform(0.0, spare, generator), samples / sample_rate)
        return read_audio(path, sample_rate, channel=0, part=part), path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Corruptions:
    """How often speech is corrupted and how much (Metis, 2502.03128, section 4.2), in the order of application.

    The defaults are what SE is trained with. A ValueError if a chance is not between 0 and 1, the SNRs are reversed, or
    there is no cut-off to choose.

    room_chance: of a room response.
    noise_chance, snr_range: of noise, its SNR uniform between these in dB, over the speech as the room leaves it,
        pauses and all, as in the DNS Challenge of 2020. Where either is silent there is no SNR, and no noise.
    band_chance, cutoffs_hz: of a narrow band, up to one of these frequencies. The paper's "2/4/8 kHz" does not say
        whether that is the band's edge (as here) or a sample rate.
    """

    room_chance: float = 0.35
    noise_chance: float = 0.9
    snr_range: tuple[float, float] = (-5.0, 20.0)
    band_chance: float = 0.25
    cutoffs_hz: tuple[int, ...] = (2000, 4000, 8000)

    def __post_init__(self) -> None:
        for name in ("room_chance", "noise_chance", "band_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        check_ranges(snr_range=self.snr_range)
        if not self.cutoffs_hz or min(self.cutoffs_hz) <= 0:
            raise ValueError(f"cutoffs_hz must be frequencies above 0, got {self.cutoffs_hz}")


class SeRecipe(PromptedRecipe):
    """Clean speech as the target, and what is left of it as the source.

    SE has no prompt when it is used (released code and paper), so by default it has none here: `prompt_length` is 0.
    """

    def __init__(
        self,
        corruptions: Corruptions = Corruptions(),  # noqa: B008  frozen
        noise_root: Path | None = None,
        rir_root: Path | None = None,
        prompt_fraction: tuple[float, float] | None = None,
        max_prompt_seconds: float = 4.0,
    ) -> None:
        """Choose the corruptions; a ValueError if `prompt_fraction` is not a range within [0, 1).

        Args:
            corruptions: how often and how much.
            noise_root: folder with wav or flac files of noise, such as WHAM! or DEMAND (the paper's); None makes
                coloured noise and babble.
            rir_root: folder with wav or flac files of room responses and nothing else, such as OpenSLR 26 and 28 (the
                paper's; of the second `simulated_rirs`, its other folders hold noises too); of several microphones the
                first is taken. None makes them.
            prompt_fraction: None: no prompt. Else a prefix, whose share is uniform between these, stays clean and is
                the prompt, as in the other tasks.
            max_prompt_seconds: no prompt is longer.
        """
        self.corruptions = corruptions
        self.noises = None if noise_root is None else RecordingFolder(Path(noise_root))
        self.rooms = None if rir_root is None else RecordingFolder(Path(rir_root))
        self.prompts = None if prompt_fraction is None else Prompts("prefix", prompt_fraction, max_prompt_seconds)

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return clean speech as `wave`, and a clean prompt, if any, before corrupted speech as `source`."""
        clean = corpus.wave(index)
        prompt, target = clean[:0], clean
        if self.prompts is not None:
            prompt, target, *_ = self.prompts.draw(corpus, index, generator)
        corrupted, applied = self._corrupt(corpus, index, target, generator)
        source, pieces = torch.cat([prompt, corrupted]), (Segment(index, 0, len(clean)),)
        gain = peak_gain(clean, source)
        utterance, applied = corpus.utterances[index], {**applied, "gain": gain}
        return SpeechItem.of(
            utterance, clean * gain, source=source * gain, prompt_length=len(prompt), applied=applied, pieces=pieces
        )

    def recordings(self) -> Sequence[RecordingFolder]:
        """Return the folders of noises and rooms, as far as the corruptions draw from them."""
        drawn = ((self.noises, self.corruptions.noise_chance), (self.rooms, self.corruptions.room_chance))
        return [folder for folder, chance in drawn if folder is not None and chance]

    def _corrupt(self, corpus: SpeechCorpus, index: int, clean: Tensor, generator: Generator) -> tuple[Tensor, Applied]:
        chances, speech, applied = self.corruptions, clean, dict[str, float | str]()
        if draw_coin(chances.room_chance, generator):
            if self.rooms is None:
                response, room = draw_room(generator)
            else:
                response, name = self.rooms.draw(generator)
                room = {"room": name}
            speech, applied = convolve_room(speech, response), {**applied, **room}
        if draw_coin(chances.noise_chance, generator):
            if self.noises is None:
                noise, kind = draw_noise(corpus, index, len(speech), generator)
            else:
                recording, name = self.noises.draw(generator, len(speech))
                noise, kind = fit_length(recording, len(speech)), {"noise": name}
            # Drawn before the look at silence: what comes next draws the same either way.
            snr_db = draw_uniform(*chances.snr_range, generator)
            if min(rms(speech), rms(noise)) >= SILENT_RMS:
                speech, applied = add_noise(speech, noise, snr_db), {**applied, **kind, "snr_db": snr_db}
        if draw_coin(chances.band_chance, generator):
            cutoff_hz = chances.cutoffs_hz[draw_int(len(chances.cutoffs_hz), generator)]
            speech, applied = band_limit(speech, cutoff_hz, WAVE_RATE), {**applied, "cutoff_hz": cutoff_hz}
        return speech, applied


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
