"""Recipes, which make a training item of an utterance, and those that need no second voice or noise.

Tasks differ in their data by the recipe alone; the corpus, the batches and the DataModule stay the same.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.errors import UserError
from metis_lightning.types import HOP, TOKEN_RATE, Applied, Utterance

if TYPE_CHECKING:
    from metis_lightning.data.recipes.se import RecordingFolder


@dataclass(frozen=True)
class Segment:
    """A stretch of a wave that comes from utterance `index`: where it starts there and how long it is, in samples."""

    index: int
    start: int
    samples: int


@dataclass(frozen=True)
class SpeechItem:
    """One row of a batch before padding; the fields are those of `SpeechBatch`.

    wave: (S,) float32 at 24 kHz, the prompt followed by the target.
    source: (S,) or None, the task's input: the prompt followed by the corrupted target.
    prompt_length: samples at the start of `wave` that are the prompt, or None if the task leaves that to the model.
    applied: what was done to the target to make `source`.
    script: the text that the model is given to speak, in `language`; empty if there is none.
    features: (F, C) float32 or None, frames of a condition that is not audio.
    pieces: what `wave` is made of, in order, up to its level; empty if it is no recording any more.
    ssl_tokens, acoustic_tokens: (T,) and (T, Q) of `wave` from a token store, which fills them in; None without.
    """

    id: str
    speaker: str
    text: str
    wave: Tensor
    source: Tensor | None = None
    prompt_length: int | None = None
    applied: Applied = field(default_factory=dict)
    language: str = ""
    script: str = ""
    features: Tensor | None = None
    pieces: tuple[Segment, ...] = ()
    ssl_tokens: Tensor | None = None
    acoustic_tokens: Tensor | None = None

    @classmethod
    def of(cls, utterance: Utterance, wave: Tensor, **fields: Any) -> SpeechItem:
        """Return an item of an utterance, whose text and language it has unless `fields` has others."""
        fields.setdefault("text", utterance.text)
        fields.setdefault("language", utterance.language)
        return cls(id=utterance.id, speaker=utterance.speaker, wave=wave, **fields)


class Recipe(ABC):
    """Turns an utterance into an item, with all chance from the generator it is given."""

    needs_audio: bool = True
    """Whether an item needs the sound itself, for a source or features, where its tokens come from a store."""

    @abstractmethod
    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the item made from utterance `index` of `corpus`."""

    def recordings(self) -> Sequence[RecordingFolder]:
        """Return the folders that the recipe draws from beside the corpus, which are checked before training."""
        return ()

    def seconds(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> float:
        """Return what an item lasts, without reading audio, by which batches are planned: here, as its utterance.

        With the item's generator it draws what decides the length as `__call__` does, and nothing before that; without
        one it returns the most that an item of this utterance can last.
        """
        return corpus.seconds(index)

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether an utterance's items differ in length from draw to draw."""
        return False


class PlainRecipe(Recipe):
    """Clean speech: whole utterances, or random crops of one length.

    The text stays that of the whole utterance, also beside a crop.
    """

    needs_audio = False

    def __init__(self, max_seconds: float | None = None, crop_seconds: float | None = None) -> None:
        """Choose whole utterances or crops; a ValueError if both are given, or one is shorter than a token frame.

        Args:
            max_seconds: a longer utterance is cropped to this at random; None keeps it whole.
            crop_seconds: every item lasts this long, rounded to token frames: a random crop, or the utterance
                followed by silence where it is shorter. For codecs.
        """
        if max_seconds is not None and crop_seconds is not None:
            raise ValueError("give max_seconds or crop_seconds, not both")
        self.limit = max_seconds if crop_seconds is None else crop_seconds
        self.is_fixed = crop_seconds is not None
        if self.limit is not None and whole_frames(self.limit) < HOP:
            raise ValueError(f"a crop of {self.limit} s is shorter than one token frame (0.02 s)")

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the utterance or a crop of it."""
        wave = corpus.wave(index)
        samples = wave.numel() if self.limit is None else whole_frames(self.limit)
        start = crop_start(wave, samples, generator)
        wave = wave[start : start + samples]
        pieces = (Segment(index, start, wave.numel()),)
        if self.is_fixed:
            wave = pad(wave, (0, samples - wave.numel()))
        return SpeechItem.of(corpus.utterances[index], wave, pieces=pieces)

    def seconds(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> float:
        """Return the crop's length, or the utterance's."""
        if self.limit is None:
            return corpus.seconds(index)
        return self.limit if self.is_fixed else min(corpus.seconds(index), self.limit)


def whole_frames(seconds: float) -> int:
    """Return the samples of a duration at 24 kHz, rounded to whole token frames."""
    return round(seconds * TOKEN_RATE) * HOP


def crop_start(wave: Tensor, samples: int, generator: Generator) -> int:
    """Return where a random crop of a (S,) wave starts: at 0, without a draw, in one of at most `samples` samples."""
    spare = wave.numel() - samples
    if spare <= 0:
        return 0
    return draw_int(spare + 1, generator)


def draw_int(stop: int, generator: Generator) -> int:
    """Draw an integer from 0 to `stop` - 1."""
    return int(torch.randint(stop, (), generator=generator))


def draw_uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a float from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_coin(chance: float, generator: Generator) -> bool:
    """Draw True with probability `chance`."""
    return float(torch.rand((), generator=generator)) < chance


def check_ranges(**ranges: tuple[float, float] | None) -> None:
    """Refuse a range that is reversed by a ValueError that names it."""
    for name, bounds in ranges.items():
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"{name}: {bounds[0]} is greater than {bounds[1]}")


def item_generator(seed: int, epoch: int, corpus: SpeechCorpus, index: int) -> Generator:
    """Return the generator of all draws of an item: a hash of (seed, epoch, id)."""
    return derived_generator("item", seed, epoch, corpus.utterances[index].id)


def derived_generator(*parts: int | str) -> Generator:
    """Return a CPU generator whose seed is a hash of `parts`, the same in every process and on every machine."""
    # A separator: (1, 11) and (11, 1) are different generators.
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    # 63 bits: torch takes signed seeds.
    seed = int.from_bytes(digest[:8], "big") >> 1
    return Generator().manual_seed(seed)


def planned_lengths(recipe: Recipe, corpus: SpeechCorpus, seed: int) -> np.ndarray | Callable[[int], np.ndarray]:
    """Return the seconds (N,) of all items of a corpus; a function of the epoch where they are drawn in each."""
    if not recipe.varies(corpus):
        return np.fromiter((recipe.seconds(corpus, index) for index in range(len(corpus))), dtype=np.float64)

    def lengths_of_epoch(epoch: int) -> np.ndarray:
        lengths = np.empty(len(corpus))
        for index in range(len(corpus)):
            # The item's own generator: the plan and the item draw the same prompt.
            lengths[index] = recipe.seconds(corpus, index, item_generator(seed, epoch, corpus, index))
        return lengths

    return lengths_of_epoch


class TtsRecipe(Recipe):
    """Whole utterances with their transcripts as scripts (Metis, 2502.03128, section 3.5).

    Nothing is cropped: the script is what is said in prompt and target, as prompt text and text are at inference.
    """

    needs_audio = False

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the utterance with its script; a UserError if the utterance has no transcript."""
        utterance = corpus.utterances[index]
        if not utterance.text.strip():
            raise UserError(f"utterance {utterance.id!r} has no text, which TTS needs; leave it out of the manifest")
        wave = corpus.wave(index)
        return SpeechItem.of(utterance, wave, script=utterance.text, pieces=(Segment(index, 0, wave.numel()),))


@dataclass(frozen=True)
class WeightedRecipe:
    """A recipe and how often it is drawn, relative to the others."""

    recipe: Recipe
    weight: float


class OmniRecipe(Recipe):
    """Draws one of several recipes for every item (Metis, 2502.03128, section 4.2).

    The paper's weights, which need not sum to one, are TTS : VC : TSE : SE = 0.5 : 0.1 : 0.2 : 0.2.
    """

    def __init__(self, tasks: Sequence[WeightedRecipe]) -> None:
        if not tasks or any(task.weight <= 0 for task in tasks):
            raise ValueError("tasks: give at least one recipe, each with a weight above zero")
        self.recipes = tuple(task.recipe for task in tasks)
        self.weights = torch.tensor([task.weight for task in tasks])

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the item of the drawn recipe."""
        recipe = self.recipes[int(torch.multinomial(self.weights, 1, generator=generator))]
        return recipe(corpus, index, generator)

    def recordings(self) -> Sequence[RecordingFolder]:
        """Return the folders that any of the recipes draws from."""
        return [folder for recipe in self.recipes for folder in recipe.recordings()]

    def seconds(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> float:
        """Return the longest that any of the recipes gives, or what the item of the drawn recipe lasts."""
        if generator is None:
            return max(recipe.seconds(corpus, index) for recipe in self.recipes)
        # The first draw of the item's generator, as in the item.
        recipe = self.recipes[int(torch.multinomial(self.weights, 1, generator=generator))]
        return recipe.seconds(corpus, index, generator)

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether items of a recipe differ, or recipes differ in what an utterance lasts."""
        if any(recipe.varies(corpus) for recipe in self.recipes):
            return True
        return any(len({recipe.seconds(corpus, i) for recipe in self.recipes}) > 1 for i in range(len(corpus)))
