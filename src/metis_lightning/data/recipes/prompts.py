"""Prompts of the wanted voice that come with the data: those of TSE, VC and pairs, and of SE if asked for.

They are drawn before anything is mixed or corrupted, since a prompt is clean beside a source that is not. In the other
tasks a prompt is a random prefix of the tokens, which `models.masking.draw_masking` draws without a `prompt_length`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import speed_prefix
from metis_lightning.data.manifest.test_sets import parse_source
from metis_lightning.data.recipes.recipe import (
    Recipe,
    Segment,
    check_ranges,
    crop_start,
    draw_int,
    draw_uniform,
    whole_frames,
)
from metis_lightning.errors import UserError
from metis_lightning.types import HOP, Applied, Utterance

Enrollment = Literal["prefix", "utterance"]

# Draws before all utterances are looked through: enough unless nearly all of them are the target's speaker's.
_TRIES = 100


class PromptAndTarget(NamedTuple):
    """A prompt of whole token frames and the target that follows it, both (S,), what they are made of, and the draw."""

    prompt: Tensor
    target: Tensor
    pieces: tuple[Segment, ...]
    applied: Applied


@dataclass(frozen=True)
class Prompts:
    """Where the prompts of an item come from; a ValueError if `fraction` is no range within [0, 1).

    enrollment: "prefix" (the paper's, 2502.03128, section 4.2): a random prefix of the utterance is the prompt and only
        the rest the target. "utterance" (as the released code is used at inference): another utterance of the speaker
        is put before the target; a speaker who has no other gets a prefix.
    fraction: for "prefix", the prompt's share of the utterance is uniform between these. The paper gives none for these
        tasks, and (0.0, 0.4) for pre-training; less than 0.1 hardly tells who is wanted.
    max_seconds: no prompt is longer; a longer enrollment utterance is cropped at random.
    """

    enrollment: Enrollment = "prefix"
    fraction: tuple[float, float] = (0.1, 0.4)
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        check_ranges(prompt_fraction=self.fraction)
        if self.fraction[0] < 0 or self.fraction[1] >= 1:
            raise ValueError(f"prompt_fraction must lie in [0, 1), got {self.fraction}")
        if self.enrollment not in ("prefix", "utterance"):
            raise ValueError(f"enrollment must be 'prefix' or 'utterance', got {self.enrollment!r}")

    def draw(self, corpus: SpeechCorpus, index: int, generator: Generator) -> PromptAndTarget:
        """Return a prompt and the target of utterance `index`."""
        wave = corpus.wave(index)
        whole = Segment(index, 0, wave.numel())
        other = self.draw_other(corpus, index, generator) if self.enrollment == "utterance" else None
        if other is None:
            share = draw_uniform(*self.fraction, generator)
            # The cut falls between two token frames, so that none is half prompt and half target.
            cut = min(whole_frames(self.max_seconds), int(share * wave.numel()) // HOP * HOP)
            return PromptAndTarget(wave[:cut], wave[cut:], (whole,), {"enrollment": "prefix"})
        prompt, segment = other
        return PromptAndTarget(prompt, wave, (segment, whole), {"enrollment": corpus.utterances[segment.index].id})

    def draw_other(self, corpus: SpeechCorpus, index: int, generator: Generator) -> tuple[Tensor, Segment] | None:
        """Return a prompt (S,) of whole frames from another utterance of the speaker and its place, or None."""
        if (enrollment := draw_enrollment(corpus, index, generator)) is None:
            return None
        wave, longest = corpus.wave(enrollment), whole_frames(self.max_seconds)
        start, samples = crop_start(wave, longest, generator), min(longest, wave.numel()) // HOP * HOP
        return wave[start : start + samples], Segment(enrollment, start, samples)


class PromptedRecipe(Recipe):
    """A recipe whose items start with a prompt of their own, or without any where `prompts` is None."""

    prompts: Prompts | None

    def seconds(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> float:
        """Return the utterance's length and that of the prompt that is put before it: the longest, or the drawn one."""
        if self.prompts is None or not self.varies(corpus):
            return corpus.seconds(index)
        prompt = self.prompts.max_seconds
        if generator is not None:
            enrollment = draw_enrollment(corpus, index, generator)
            prompt = 0.0 if enrollment is None else min(prompt, corpus.seconds(enrollment))
        return corpus.seconds(index) + prompt

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether the prompt is another utterance, which is drawn."""
        return self.prompts is not None and self.prompts.enrollment == "utterance"


def draw_interferer(corpus: SpeechCorpus, index: int, generator: Generator) -> int:
    """Draw an utterance of another speaker with other words, uniformly; a UserError if the corpus has none."""
    target = corpus.utterances[index]

    def interferes(other: int) -> bool:
        utterance = corpus.utterances[other]
        return utterance.speaker != target.speaker and not same_words(utterance.text, target.text)

    interferer = _draw_accepted(range(len(corpus)), interferes, generator)
    if interferer is None:
        raise UserError(
            f"no interferer for utterance {target.id!r}: mixtures need utterances of at least two speakers that say "
            "different words"
        )
    return interferer


def draw_enrollment(corpus: SpeechCorpus, index: int, generator: Generator) -> int | None:
    """Draw another recording of the speaker, with other words where there is one; None if this is the only one."""
    target = corpus.utterances[index]
    voice = corpus.by_speaker[target.speaker]
    if len(voice) == 1:
        return None

    def enrolls(other: int, other_words: bool = True) -> bool:
        utterance = corpus.utterances[other]
        is_same = other == index or recording_name(utterance) == recording_name(target)
        return not is_same and not (other_words and same_words(utterance.text, target.text))

    enrollment = _draw_accepted(voice, enrolls, generator)
    if enrollment is None and (repeats := [other for other in voice if enrolls(other, other_words=False)]):
        enrollment = repeats[draw_int(len(repeats), generator)]
    return enrollment


def _draw_accepted(indices: Sequence[int], accepts: Callable[[int], bool], generator: Generator) -> int | None:
    """Draw one of the indices that are accepted, uniformly; None if there is none."""
    # By trial: a list of all candidates would take a look at every line of the manifest.
    for _ in range(_TRIES):
        drawn = indices[draw_int(len(indices), generator)]
        if accepts(drawn):
            return drawn
    candidates = [index for index in indices if accepts(index)]
    return candidates[draw_int(len(candidates), generator)] if candidates else None


def recording_name(utterance: Utterance) -> str:
    """Return the recording's name: in LibriMix one LibriSpeech utterance is a source of several mixtures."""
    if not utterance.source.startswith("LibriMix"):
        return utterance.id
    return parse_source(utterance.id.removeprefix(speed_prefix(utterance.speed))).utterance


def same_words(first: str, second: str) -> bool:
    """Tell whether two transcripts are known and equal but for case and outer space."""
    return first.strip().lower() == second.strip().lower() != ""


def speech_crop(wave: Tensor, samples: int, generator: Generator) -> Tensor:
    """Return `samples` samples of a (S,) wave with the loudest among them, or all of a shorter one turned as a loop."""
    spare = wave.numel() - samples
    if spare <= 0:
        return torch.roll(wave, draw_int(wave.numel(), generator))
    # A crop that fell into a pause would, scaled to an SNR, become loud noise.
    loudest = int(wave.abs().argmax())
    first, last = max(0, loudest - samples + 1), min(loudest, spare)
    start = first + draw_int(last - first + 1, generator)
    return wave[start : start + samples]
