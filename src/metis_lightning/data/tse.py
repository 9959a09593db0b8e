"""Target speaker extraction: a prompt of one voice, then that voice with another on top."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.mixing import PEAK, mix_at_snr
from metis_lightning.data.recipe import (
    FRAME,
    Recipe,
    SpeechItem,
    draw_int,
    draw_uniform,
    random_crop,
    whole_frames,
)
from metis_lightning.errors import UserError

_TRIES = 1000


class TseRecipe(Recipe):
    """Mixtures for target speaker extraction (Metis, 2502.03128, section 4.2).

    The paper adds another sample to the rest of the target "by plain waveform addition" and states neither SNR nor
    the length of the prefix; `snr_range` and `prompt_fraction` are ours.
    """

    def __init__(
        self,
        snr_range: tuple[float, float] = (-5.0, 5.0),
        enrollment: Literal["prefix", "utterance"] = "prefix",
        prompt_fraction: tuple[float, float] = (0.1, 0.4),
        max_prompt_seconds: float = 4.0,
        gain_db: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Choose the mixtures.

        Args:
            snr_range: the SNR is uniform between these, in dB, taken over the target without its prompt.
            enrollment: "prefix" (the paper's): a random prefix of the utterance is the prompt and only the rest is
                mixed. "utterance" (as at inference): another utterance of the speaker is put before the target;
                a speaker who has no other gets a prefix.
            prompt_fraction: for "prefix", the prompt's share of the utterance is uniform between these.
            max_prompt_seconds: no prompt is longer; a longer enrollment utterance is cropped at random.
            gain_db: the level of the whole item changes by a uniform draw from these, in dB, short of clipping.

        Raises:
            ValueError: if a range is reversed, a fraction is not between 0 and 1, or `enrollment` is neither.
        """
        for name, (low, high) in (("snr_range", snr_range), ("gain_db", gain_db), ("prompt_fraction", prompt_fraction)):
            if low > high:
                raise ValueError(f"{name}: {low} is greater than {high}")
        if prompt_fraction[0] < 0 or prompt_fraction[1] >= 1:
            raise ValueError(f"prompt_fraction must lie in [0, 1), got {prompt_fraction}")
        if enrollment not in ("prefix", "utterance"):
            raise ValueError(f"enrollment must be 'prefix' or 'utterance', got {enrollment!r}")
        self.snr_range, self.gain_db, self.prompt_fraction = snr_range, gain_db, prompt_fraction
        self.enrollment, self.max_prompt_seconds = enrollment, max_prompt_seconds

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return prompt and target as `wave`, prompt and mixture as `mixture`."""
        utterance = corpus.utterances[index]
        prompt, target = self._prompt_and_target(corpus, index, generator)
        other = corpus.wave(draw_interferer(corpus, index, generator))
        mixed = mix_at_snr(
            target, speech_crop(other, target.numel(), generator), draw_uniform(*self.snr_range, generator)
        )
        wave = torch.cat([prompt * mixed.gain, mixed.target])
        mixture = torch.cat([prompt * mixed.gain, mixed.mixture])
        gain = self._level(wave, mixture, generator)
        return SpeechItem(
            id=utterance.id,
            speaker=utterance.speaker,
            text=utterance.text,
            wave=wave * gain,
            mixture=mixture * gain,
            prompt_length=prompt.numel(),
        )

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the utterance's length, and the longest prompt's where that is put before it."""
        listed = corpus.utterances[index].seconds
        return listed if self.enrollment == "prefix" else listed + self.max_prompt_seconds

    def _prompt_and_target(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        wave, most = corpus.wave(index), whole_frames(self.max_prompt_seconds)
        other = draw_enrollment(corpus, index, generator) if self.enrollment == "utterance" else None
        if other is not None:
            prompt = random_crop(corpus.wave(other), most, generator)
            return prompt[: prompt.numel() // FRAME * FRAME], wave
        share = draw_uniform(*self.prompt_fraction, generator)
        cut = min(most, int(share * wave.numel()) // FRAME * FRAME)
        return wave[:cut], wave[cut:]

    def _level(self, wave: Tensor, mixture: Tensor, generator: torch.Generator) -> float:
        gain = 10 ** (draw_uniform(*self.gain_db, generator) / 20)
        peak = max(float(wave.abs().max()), float(mixture.abs().max()))
        return min(gain, max(1.0, PEAK / peak))


def draw_interferer(corpus: SpeechCorpus, index: int, generator: torch.Generator) -> int:
    """Draw an utterance of another speaker, saying something else, uniformly over utterances.

    Raises:
        UserError: if the corpus has none (or hardly any).
    """
    target = corpus.utterances[index]
    for _ in range(_TRIES if len(corpus.by_speaker) > 1 else 0):
        drawn = draw_int(len(corpus), generator)
        other = corpus.utterances[drawn]
        if other.speaker != target.speaker and not same_words(other.text, target.text):
            return drawn
    raise UserError(f"no interferer for utterance {target.id!r}: mixtures need utterances of at least two speakers")


def draw_enrollment(corpus: SpeechCorpus, index: int, generator: torch.Generator) -> int | None:
    """Draw another utterance of the speaker, with other words where there is one; None if this is the only one."""
    target = corpus.utterances[index]
    others = [i for i in corpus.by_speaker[target.speaker] if i != index]
    different = [i for i in others if not same_words(corpus.utterances[i].text, target.text)]
    choice = different or others
    return choice[draw_int(len(choice), generator)] if choice else None


def same_words(first: str, second: str) -> bool:
    """Tell whether two transcripts are known and equal but for case and outer space."""
    return first.strip().lower() == second.strip().lower() != ""


def speech_crop(wave: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return `samples` consecutive samples of a (S,) wave, taken as a loop where it is shorter.

    The place is random but includes the loudest sample: a crop that fell into a pause would, scaled to an SNR,
    become loud noise.
    """
    spare = wave.numel() - samples
    if spare <= 0:
        return torch.roll(wave, draw_int(wave.numel(), generator))
    loudest = int(wave.abs().argmax())
    first, last = max(0, loudest - samples + 1), min(loudest, spare)
    start = first + draw_int(last - first + 1, generator)
    return wave[start : start + samples]
