"""Draws of utterances by who speaks and what is said, and crops that hold speech."""

from __future__ import annotations

import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.enrollment import parse_source
from metis_lightning.data.recipe import draw_int
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance

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
    return parse_source(utterance.id.removeprefix(f"sp{utterance.speed:g}-")).utterance


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
