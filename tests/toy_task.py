"""A task and a corpus that the package knows nothing of, as a user would add them: this file and a yaml."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import write_wav
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import HOP, SpeechBatch, Utterance


class TonesDataModule(SpeechDataModule):
    """A corpus of two tones."""

    def utterances(self) -> list[Utterance]:
        return [self._tone(split, 200.0 + 90 * n) for n, split in enumerate(("train", "dev"))]

    def _tone(self, name: str, hertz: float) -> Utterance:
        path = Path(self.root) / f"{name}.wav"
        write_wav(path, 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(12_000) / 24_000), 24_000)
        return Utterance(name, path, name, "la", "en", 0.5, 24_000, name)


class HumRecipe(Recipe):
    """What is heard is what was said, hummed: without its high frequencies."""

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        wave = corpus.wave(index)
        hummed = torch.nn.functional.avg_pool1d(wave[None], 9, 1, 4)[0]
        return SpeechItem(str(index), "s", "la", wave, hummed, prompt_length=5 * HOP)

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        return corpus.utterances[index].seconds


class UnhumModule(FinetuneModule):
    """Says what was hummed."""

    task = "unhum"

    def condition(self, batch: SpeechBatch) -> Tensor:
        return self.tokenizer.ssl_features(batch.source, batch.lengths)[0]
