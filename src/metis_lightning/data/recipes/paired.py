"""Pairs that a corpus has on disk, or makes when they are read: speech, and a noisy or mixed recording of it."""

from __future__ import annotations

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.mixing import peak_gain
from metis_lightning.data.recipes.prompts import Prompts
from metis_lightning.data.recipes.recipe import Piece, Recipe, SpeechItem


class PairedRecipe(Recipe):
    """Clean speech as the target and the corpus's own noisy or mixed recording of it as the source.

    For LibriMix (TSE) and for noisy-clean pairs (SE, `prompts: false`).
    """

    def __init__(self, prompts: bool = True, max_prompt_seconds: float = 4.0) -> None:
        """Choose whether another utterance of the speaker comes before the target as prompt, and its longest crop."""
        self.prompts = Prompts("utterance", max_seconds=max_prompt_seconds) if prompts else None

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return prompt and clean speech as `wave`, prompt and mixture as `source`."""
        utterance = corpus.utterances[index]
        target, mixture = corpus.wave(index), corpus.mixture(index)
        # A speaker who says nothing else is left without a prompt: a prefix of the mixture is not clean.
        other = None if self.prompts is None else self.prompts.other(corpus, index, generator)
        prompt, pieces = (target[:0], ()) if other is None else (other[0], (other[1],))
        source = torch.cat([prompt, mixture])
        gain = peak_gain(source)
        return SpeechItem(
            id=utterance.id,
            speaker=utterance.speaker,
            text=utterance.text,
            wave=torch.cat([prompt, target]) * gain,
            source=source * gain,
            prompt_length=prompt.numel(),
            applied={"mixture": utterance.source, "gain": gain},
            pieces=(*pieces, Piece(index, 0, target.numel())),
        )

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the utterance's length and the longest prompt's."""
        return corpus.seconds(index) if self.prompts is None else self.prompts.seconds(corpus, index)

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether there are prompts, which are drawn."""
        return self.prompts is not None

    def drawn_seconds(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> float:
        """Return the utterance's length, and that of the prompt that such a generator draws."""
        prompts = self.prompts
        return corpus.seconds(index) if prompts is None else prompts.drawn_seconds(corpus, index, generator)
