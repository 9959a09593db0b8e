"""The DataModule that every corpus shares: a corpus's own file says where its utterances are and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from metis_lightning.data.batching import ItemKey, SecondsBatchSampler, collate
from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.hours import within_hours
from metis_lightning.data.recipe import Recipe, SpeechItem, derived_generator
from metis_lightning.data.speed import perturb_speed
from metis_lightning.types import Utterance


class RecipeDataset(Dataset[SpeechItem]):
    """Items of a corpus, each drawn by a generator of its own from (seed, epoch, id).

    So an item is the same whatever batch, worker or process asks for it.
    """

    def __init__(self, corpus: SpeechCorpus, recipe: Recipe, seed: int) -> None:
        """Join a corpus and a recipe."""
        self.corpus, self.recipe, self.seed = corpus, recipe, seed

    def __len__(self) -> int:
        """Return the number of items in an epoch."""
        return len(self.corpus)

    def __getitem__(self, key: ItemKey) -> SpeechItem:
        """Make the item of (epoch, index)."""
        epoch, index = key
        generator = derived_generator("item", self.seed, epoch, self.corpus.utterances[index].id)
        return self.recipe(self.corpus, index, generator)


class SpeechDataModule(L.LightningDataModule, ABC):
    """Training and validation batches of one corpus.

    Training batches and draws are new in each epoch; validation ones are those of epoch 0 in all.
    Give the Trainer `use_distributed_sampler: false`: the batch sampler shares the batches between processes itself.
    """

    train_split = "train"
    val_split = "dev"

    def __init__(
        self,
        recipe: Recipe,
        val_recipe: Recipe | None = None,
        root: Path | None = None,
        batch_seconds: float = 60.0,
        num_workers: int = 0,
        seed: int = 0,
        max_seconds: float = 14.0,
        cache: bool = True,
        speeds: Sequence[float] = (1.0,),
        hours: float | None = None,
    ) -> None:
        """Describe the batches; nothing is read before `setup`.

        Args:
            recipe: makes a training item from an utterance.
            val_recipe: makes a validation item; None takes `recipe`.
            root: folder of the corpus; None takes the corpus's default, if it has one.
            batch_seconds: seconds in a batch, padding included, on each process.
            num_workers: processes that prepare batches; each keeps an audio cache of its own.
            seed: of the order of batches and of every item's draws.
            max_seconds: longer utterances are left out.
            cache: keep decoded audio in memory (2 bytes a sample).
            speeds: training hears each utterance at each of these speeds, other speeds as other speakers
                (`data.speed`); validation hears none but 1.
            hours: training hears at most this much of the corpus, before `speeds` (`data.hours`); None is all of it.
        """
        super().__init__()
        self.recipe, self.val_recipe = recipe, recipe if val_recipe is None else val_recipe
        self.root, self.seed, self.max_seconds, self.cache = root, seed, max_seconds, cache
        self.batch_seconds, self.num_workers, self.speeds = batch_seconds, num_workers, tuple(speeds)
        self.hours = hours
        self._corpora: dict[str, SpeechCorpus] = {}
        self._resume = {"epoch": 0, "batches": 0}

    @abstractmethod
    def utterances(self) -> list[Utterance]:
        """Return all utterances of the corpus, of every split."""

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest, once."""
        if self._corpora:
            return
        listed = self.utterances()
        train, val = ([u for u in listed if u.split == split] for split in (self.train_split, self.val_split))
        if self.hours is not None:
            train = within_hours((u for u in train if u.seconds <= self.max_seconds), self.hours)
        for split, recorded, speeds in ((self.train_split, train, self.speeds), (self.val_split, val, (1.0,))):
            heard = perturb_speed(recorded, speeds)
            self._corpora[split] = SpeechCorpus((u for u in heard if u.seconds <= self.max_seconds), cache=self.cache)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches are done, for the checkpoint."""
        if self.trainer is None:
            return dict(self._resume)
        done, epoch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready, self.trainer.current_epoch
        whole = done >= self.trainer.num_training_batches
        return {"epoch": epoch + 1, "batches": 0} if whole else {"epoch": epoch, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where a checkpoint was made: its epoch's first batches are not drawn again."""
        self._resume = dict(state_dict)

    def train_dataloader(self) -> DataLoader[SpeechItem]:
        """Return the loader of shuffled training batches."""
        loader = self._loader(self.train_split, self.recipe, shuffle=True)
        loader.batch_sampler.resume(**self._resume)  # type: ignore[union-attr]
        return loader

    def val_dataloader(self) -> DataLoader[SpeechItem]:
        """Return the loader of fixed validation batches, shortest first."""
        return self._loader(self.val_split, self.val_recipe, shuffle=False)

    def _loader(self, split: str, recipe: Recipe, shuffle: bool) -> DataLoader[SpeechItem]:
        self.setup()
        corpus = self._corpora[split]
        lengths = [recipe.seconds(corpus, index) for index in range(len(corpus))]
        sampler = SecondsBatchSampler(lengths, self.batch_seconds, shuffle, self.seed)
        return DataLoader(
            RecipeDataset(corpus, recipe, self.seed),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            # Workers that live on keep their audio cache; the epoch reaches them through the item keys.
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
