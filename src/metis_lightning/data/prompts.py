"""Prompts of the wanted voice, for the tasks that are given one (TSE, VC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.recipe import FRAME, Piece, crop_start, draw_uniform, whole_frames
from metis_lightning.data.voices import draw_enrollment
from metis_lightning.types import Applied

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
        start, samples = crop_start(enrolled, most, generator), min(most, enrolled.numel()) // FRAME * FRAME
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
    cut = min(most, int(share * wave.numel()) // FRAME * FRAME)
    return wave[:cut], wave[cut:]


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """Refuse a range that is reversed.

    Raises:
        ValueError: naming it.
    """
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: {bounds[0]} is greater than {bounds[1]}")
