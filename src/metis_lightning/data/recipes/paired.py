"""Pairs that a corpus has on disk, or makes when they are read: speech, and a noisy or mixed recording of it."""

from __future__ import annotations

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.mixing import peak_gain
from metis_lightning.data.recipes.prompts import PromptedRecipe, Prompts
from metis_lightning.data.recipes.recipe import Segment, SpeechItem


class PairedRecipe(PromptedRecipe):
    """Clean speech as the target and the corpus's own noisy or mixed recording of it as the source.

    For LibriMix (TSE) and for noisy-clean pairs (SE, `prompts: false`).
    """

    def __init__(self, prompts: bool = True, max_prompt_seconds: float = 4.0) -> None:
        """Choose whether another utterance of the speaker comes before the target as prompt, and its longest crop."""
        self.prompts = Prompts("utterance", max_seconds=max_prompt_seconds) if prompts else None

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return prompt and clean speech as `wave`, prompt and mixture as `source`."""
        utterance, target = corpus.utterances[index], corpus.wave(index)
        # A speaker who says nothing else is left without a prompt: a prefix of the mixture is not clean.
        other = None if self.prompts is None else self.prompts.draw_other(corpus, index, generator)
        prompt, pieces = (target[:0], ()) if other is None else (other[0], (other[1],))
        source = torch.cat([prompt, corpus.mixture(index)])
        gain = peak_gain(source)
        return SpeechItem.of(
            utterance,
            torch.cat([prompt, target]) * gain,
            source=source * gain,
            prompt_length=prompt.numel(),
            applied={"mixture": utterance.source, "gain": gain},
            pieces=(*pieces, Segment(index, 0, target.numel())),
        )
