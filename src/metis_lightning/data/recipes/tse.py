"""Target speaker extraction: a prompt of one voice, then that voice with others, mixed in training or by the corpus."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.mixing import PEAK, SILENT_RMS, VoiceMix, add_voices, mix_at_snr, peak_gain, rms
from metis_lightning.data.recipes.prompts import Enrollment, PromptedRecipe, Prompts, draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import Segment, SpeechItem, check_ranges, draw_uniform
from metis_lightning.types import Applied


class TseRecipe(PromptedRecipe):
    """Mixtures for target speaker extraction (Metis, 2502.03128, section 4.2).

    The paper adds another sample to the rest of the target "by plain waveform addition", both as loud as they are: that
    is `snr_range: null`. An SNR is ours, as is the length of the prefix, which the paper does not state.
    """

    def __init__(
        self,
        snr_range: tuple[float, float] | None = (-5.0, 5.0),
        enrollment: Enrollment = "prefix",
        prompt_fraction: tuple[float, float] = (0.1, 0.4),
        max_prompt_seconds: float = 4.0,
        gain_db: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Choose the mixtures.

        Args:
            snr_range: the SNR is uniform between these, in dB, taken over the target without its prompt; the interferer
                is turned and repeated as a loop, and where either is silent the target stays alone. None adds the
                interferer as it is: a longer one is cropped, a shorter one ends before the target.
            enrollment: "prefix" (the paper's) or "utterance" (as at inference), see `Prompts`.
            prompt_fraction: for "prefix", the prompt's share of the utterance is uniform between these.
            max_prompt_seconds: no prompt is longer.
            gain_db: the level of the whole item changes by a uniform draw from these, in dB, short of 0.99.

        Raises:
            ValueError: if a range is reversed, a fraction is not between 0 and 1, or `enrollment` is unknown.
        """
        check_ranges(snr_range=snr_range, gain_db=gain_db)
        self.snr_range, self.gain_db = snr_range, gain_db
        self.prompts: Prompts = Prompts(enrollment, prompt_fraction, max_prompt_seconds)

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return prompt and target as `wave`, prompt and mixture as `source`."""
        prompt, target, pieces, enrollment = self.prompts.draw(corpus, index, generator)
        voices, interference = self._mix(corpus, index, target, generator)
        wave = torch.cat([prompt * voices.gain, voices.target])
        source = torch.cat([prompt * voices.gain, voices.mixture])
        # One gain for all: the SNR, and the prompt's level beside the mixture, stay as they are.
        gain = 10 ** (draw_uniform(*self.gain_db, generator) / 20)
        loudest = max(float(wave.abs().max()), float(source.abs().max()))
        gain = gain if gain * loudest <= PEAK else PEAK / loudest
        utterance, applied = corpus.utterances[index], {**enrollment, **interference, "gain": voices.gain * gain}
        return SpeechItem.of(
            utterance, wave * gain, source=source * gain, prompt_length=len(prompt), applied=applied, pieces=pieces
        )

    def _mix(self, corpus: SpeechCorpus, index: int, target: Tensor, generator: Generator) -> tuple[VoiceMix, Applied]:
        interferer = draw_interferer(corpus, index, generator)
        other, name = corpus.wave(interferer), corpus.utterances[interferer].id
        if self.snr_range is None:
            missing = target.numel() - other.numel()
            other = pad(other, (0, missing)) if missing >= 0 else speech_crop(other, target.numel(), generator)
            return add_voices(target, other), {"interferer": name}
        other = speech_crop(other, target.numel(), generator)
        # Drawn in any case, so that a silent target does not move the draws that follow.
        snr_db = draw_uniform(*self.snr_range, generator)
        if min(rms(target), rms(other)) < SILENT_RMS:
            return VoiceMix(target, target, torch.zeros_like(target), gain=1.0), {}
        return mix_at_snr(target, other, snr_db), {"interferer": name, "snr_db": snr_db}


class PairedRecipe(PromptedRecipe):
    """Clean speech and the corpus's own recording of it: mixtures (LibriMix) or noisy (SE, with `prompts: false`)."""

    def __init__(self, prompts: bool = True, max_prompt_seconds: float = 4.0) -> None:
        """Choose whether another utterance of the speaker comes before the target as prompt, and its longest crop."""
        self.prompts = Prompts("utterance", max_seconds=max_prompt_seconds) if prompts else None

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return prompt and clean speech as `wave`, prompt and mixture as `source`."""
        utterance, target = corpus.utterances[index], corpus.wave(index)
        # A speaker who says nothing else is left without a prompt: a prefix of the mixture is not clean.
        other = None if self.prompts is None else self.prompts.draw_other(corpus, index, generator)
        prompt, pieces = (target[:0], ()) if other is None else (other[0], (other[1],))
        pieces = (*pieces, Segment(index, 0, len(target)))
        wave, source = torch.cat([prompt, target]), torch.cat([prompt, corpus.mixture(index)])
        gain = peak_gain(source)
        applied: Applied = {"mixture": utterance.source, "gain": gain}
        return SpeechItem.of(
            utterance, wave * gain, source=source * gain, prompt_length=len(prompt), applied=applied, pieces=pieces
        )
