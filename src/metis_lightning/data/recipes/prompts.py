"""Prompts of the wanted voice, for the tasks that are given one (TSE, VC).

Draws of utterances by who speaks and what is said, and crops that hold speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.enrollment import parse_source
from metis_lightning.data.media.speed import speed_prefix
from metis_lightning.data.recipes.recipe import Piece, crop_start, draw_int, draw_uniform, whole_frames
from metis_lightning.errors import UserError
from metis_lightning.types import HOP, Applied, Utterance

Enrollment = Literal["prefix", "utterance"]


class Prompted(NamedTuple):
    """A prompt of whole token frames and the target that follows it, both (S,), what they are made of, and the draw."""

    prompt: Tensor
    target: Tensor
    pieces: tuple[Piece, ...]
    chosen: Applied


@dataclass(frozen=True)
class Prompts:
    """Where the prompts of tasks come from that bring their own. How often they are dropped is in `PromptRule`.

    enrollment: "prefix" (the paper's, 2502.03128, section 4.2): a random prefix of the utterance is the prompt and only
        the rest the target. "utterance" (as the released code is used at inference): another utterance of the speaker
        is put before the target; a speaker who has no other gets a prefix.
    fraction: for "prefix", the prompt's share of the utterance is uniform between these. The paper gives none for these
        tasks; in pre-training its range is (0.0, 0.4), and the released code's the same from 5 frames on. Ours starts
        at 0.1: less hardly tells who is wanted.
    max_seconds: no prompt is longer; a longer enrollment utterance is cropped at random.

    Raises:
        ValueError: if a range is reversed, a fraction is not between 0 and 1, or `enrollment` is neither.
    """

    enrollment: Enrollment = "prefix"
    fraction: tuple[float, float] = (0.1, 0.4)
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        check_range("prompt_fraction", self.fraction)
        if self.fraction[0] < 0 or self.fraction[1] >= 1:
            raise ValueError(f"prompt_fraction must lie in [0, 1), got {self.fraction}")
        if self.enrollment not in ("prefix", "utterance"):
            raise ValueError(f"enrollment must be 'prefix' or 'utterance', got {self.enrollment!r}")

    def draw(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> Prompted:
        """Return a prompt and the target of utterance `index`."""
        wave = corpus.wave(index)
        whole = Piece(index, 0, wave.numel())
        other = self.other(corpus, index, generator) if self.enrollment == "utterance" else None
        if other is None:
            split = split_prefix(wave, self.fraction, whole_frames(self.max_seconds), generator)
            return Prompted(*split, (whole,), {"enrollment": "prefix"})
        prompt, piece = other
        return Prompted(prompt, wave, (piece, whole), {"enrollment": corpus.utterances[piece.index].id})

    def other(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> tuple[Tensor, Piece] | None:
        """Return a prompt (S,) of whole token frames from another utterance of the speaker, and where that is.

        None if there is none.
        """
        drawn, most = draw_enrollment(corpus, index, generator), whole_frames(self.max_seconds)
        if drawn is None:
            return None
        enrolled = corpus.wave(drawn)
        start, samples = crop_start(enrolled, most, generator), min(most, enrolled.numel()) // HOP * HOP
        return enrolled[start : start + samples], Piece(drawn, start, samples)

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the utterance's length, and the longest prompt's where that is put before it."""
        listed = corpus.seconds(index)
        return listed if self.enrollment == "prefix" else listed + self.max_seconds

    @property
    def vary(self) -> bool:
        """Whether what comes before an utterance is drawn."""
        return self.enrollment == "utterance"

    def drawn_seconds(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> float:
        """Return what `draw` makes with such a generator: the utterance, and the prompt if that is put before it."""
        drawn = draw_enrollment(corpus, index, generator) if self.vary else None
        prompt = 0.0 if drawn is None else min(self.max_seconds, corpus.seconds(drawn))
        return corpus.seconds(index) + prompt


def split_prefix(
    wave: Tensor, fraction: tuple[float, float], most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a (S,) wave in two at a token frame, the first part a random share of it and at most `most` samples."""
    share = draw_uniform(*fraction, generator)
    cut = min(most, int(share * wave.numel()) // HOP * HOP)
    return wave[:cut], wave[cut:]


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """Refuse a range that is reversed.

    Raises:
        ValueError: naming it.
    """
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: {bounds[0]} is greater than {bounds[1]}")


# Draws before all utterances are looked through: enough unless nearly all of them are the target's speaker's.
_TRIES = 100


def draw_interferer(corpus: SpeechCorpus, index: int, generator: torch.Generator) -> int:
    """Draw an utterance of another speaker, saying something else, uniformly over utterances.

    Raises:
        UserError: if the corpus has none.
    """
    target = corpus.utterances[index]

    def interferes(other: Utterance) -> bool:
        return other.speaker != target.speaker and not same_words(other.text, target.text)

    for _ in range(_TRIES):
        drawn = draw_int(len(corpus), generator)
        if interferes(corpus.utterances[drawn]):
            return drawn
    candidates = [drawn for drawn, other in enumerate(corpus.utterances) if interferes(other)]
    if candidates:
        return candidates[draw_int(len(candidates), generator)]
    raise UserError(
        f"no interferer for utterance {target.id!r}: mixtures need utterances of at least two speakers that say "
        "different words"
    )


def draw_enrollment(corpus: SpeechCorpus, index: int, generator: torch.Generator) -> int | None:
    """Draw another recording of the speaker, with other words where there is one; None if this is the only one."""
    target, voice = corpus.utterances[index], corpus.by_speaker[corpus.utterances[index].speaker]

    def differs(other: int) -> bool:
        return other != index and recording(corpus.utterances[other]) != recording(target)

    def says_other_words(other: int) -> bool:
        return differs(other) and not same_words(corpus.utterances[other].text, target.text)

    for _ in range(_TRIES if len(voice) > 1 else 0):
        if says_other_words(drawn := voice[draw_int(len(voice), generator)]):
            return drawn
    choice = [i for i in voice if says_other_words(i)] or [i for i in voice if differs(i)]
    return choice[draw_int(len(choice), generator)] if choice else None


def recording(utterance: Utterance) -> str:
    """Return the name of the recording of what is said.

    In LibriMix one LibriSpeech utterance is a source of several mixtures: other ids, and the same sound.
    """
    if not utterance.source.startswith("LibriMix"):
        return utterance.id
    return parse_source(utterance.id.removeprefix(speed_prefix(utterance.speed))).utterance


def same_words(first: str, second: str) -> bool:
    """Tell whether two transcripts are known and equal but for case and outer space."""
    return first.strip().lower() == second.strip().lower() != ""


def speech_crop(wave: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return `samples` consecutive samples of a (S,) wave, or all of a shorter one, turned as a loop.

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
