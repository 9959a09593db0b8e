"""Prompts of the wanted voice, for the tasks that are given one (TSE, VC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.recipe import FRAME, Piece, crop_start, draw_uniform, whole_frames
from metis_lightning.data.voices import draw_enrollment

Enrollment = Literal["prefix", "utterance"]


class Prompted(NamedTuple):
    """A prompt of whole token frames and the target that follows it, both (S,), and what they are made of."""

    prompt: Tensor
    target: Tensor
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Prompts:
    """Where the prompt comes from; Metis (2502.03128, section 4.2) says a random prefix and not how long it is.

    enrollment: "prefix" (the paper's): a random prefix of the utterance is the prompt and only the rest the target.
        "utterance" (as at inference): another utterance of the speaker is put before the target; a speaker who has no
        other gets a prefix.
    fraction: for "prefix", the prompt's share of the utterance is uniform between these.
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
        wave, most = corpus.wave(index), whole_frames(self.max_seconds)
        whole = Piece(index, 0, wave.numel())
        other = draw_enrollment(corpus, index, generator) if self.enrollment == "utterance" else None
        if other is None:
            return Prompted(*split_prefix(wave, self.fraction, most, generator), (whole,))
        enrolled = corpus.wave(other)
        start, samples = crop_start(enrolled, most, generator), min(most, enrolled.numel()) // FRAME * FRAME
        return Prompted(enrolled[start : start + samples], wave, (Piece(other, start, samples), whole))

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the utterance's length, and the longest prompt's where that is put before it."""
        listed = corpus.seconds(index)
        return listed if self.enrollment == "prefix" else listed + self.max_seconds


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
