"""Speech enhancement: clean speech, and the same through a room, with noise, in a narrow band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.corruption import add_noise, band_limit, convolve_room
from metis_lightning.data.media.mixing import SILENT_RMS, fit_length, peak_gain, rms
from metis_lightning.data.recipes.noises_and_rooms import RecordingFolder, draw_noise, draw_room
from metis_lightning.data.recipes.prompts import PromptedRecipe, Prompts
from metis_lightning.data.recipes.recipe import Segment, SpeechItem, check_ranges, draw_coin, draw_int, draw_uniform
from metis_lightning.types import WAVE_RATE, Applied


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
    """Clean speech as the target, and what is left of it as the source; without a prompt by default, as the paper."""

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
            prompt_fraction: None: no prompt. Else a clean prefix is the prompt, as in the other tasks.
            max_prompt_seconds: no prompt is longer.
        """
        self.corruptions = corruptions
        self.noises = None if noise_root is None else RecordingFolder(noise_root)
        self.rooms = None if rir_root is None else RecordingFolder(rir_root)
        self.prompts = None if prompt_fraction is None else Prompts("prefix", prompt_fraction, max_prompt_seconds)

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return clean speech as `wave`, and a clean prompt, if any, before corrupted speech as `source`."""
        clean = corpus.wave(index)
        prompt, target = clean[:0], clean
        if self.prompts is not None:
            prompt, target, *_ = self.prompts.draw(corpus, index, generator)
        corrupted, applied = self._corrupt(corpus, index, target, generator)
        source = torch.cat([prompt, corrupted])
        gain = peak_gain(clean, source)
        return SpeechItem.of(
            corpus.utterances[index],
            clean * gain,
            source=source * gain,
            prompt_length=prompt.numel(),
            applied={**applied, "gain": gain},
            pieces=(Segment(index, 0, clean.numel()),),
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
            samples = speech.numel()
            if self.noises is None:
                noise, kind = draw_noise(corpus, index, samples, generator)
            else:
                recording, name = self.noises.draw(generator, samples)
                noise, kind = fit_length(recording, samples), {"noise": name}
            # Drawn before the look at silence: what comes next draws the same either way.
            snr_db = draw_uniform(*chances.snr_range, generator)
            if min(rms(speech), rms(noise)) >= SILENT_RMS:
                speech, applied = add_noise(speech, noise, snr_db), {**applied, **kind, "snr_db": snr_db}
        if draw_coin(chances.band_chance, generator):
            cutoff_hz = chances.cutoffs_hz[draw_int(len(chances.cutoffs_hz), generator)]
            speech, applied = band_limit(speech, cutoff_hz, WAVE_RATE), {**applied, "cutoff_hz": cutoff_hz}
        return speech, applied
