"""The DataModules: of any corpus, whose own file says where its utterances are, and of a manifest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from metis_lightning.data.batches.resume import DataPosition
from metis_lightning.data.batches.sampler import (
    ItemKey,
    ScriptPhones,
    SecondsBatchSampler,
    collate,
    padding_without_buckets,
)
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_trials
from metis_lightning.data.manifest.selection import Selection, hold_out, select, within_hours
from metis_lightning.data.manifest.table import UtteranceTable, open_manifest
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem, item_generator, planned_lengths
from metis_lightning.data.token_store.store import LengthOnlyCorpus, TokenStore, attach_tokens
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


class RecipeDataset(Dataset[SpeechItem]):
    """Items of a corpus, each drawn by a generator from (seed, epoch, id): the same in whatever batch or process."""

    def __init__(self, corpus: SpeechCorpus, recipe: Recipe, seed: int, stores: Mapping[str, TokenStore]) -> None:
        self.corpus, self.recipe, self.seed, self.stores = corpus, recipe, seed, stores
        # Audio is not read where tokens are all that the recipe takes of it.
        if stores and not recipe.needs_audio:
            self.corpus = LengthOnlyCorpus(corpus, next(iter(stores.values())))

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, key: ItemKey) -> SpeechItem:
        epoch, index = key
        item = self.recipe(self.corpus, index, item_generator(self.seed, epoch, self.corpus, index))
        return attach_tokens(item, self.corpus, self.stores) if self.stores else item


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
        tokens: Path | None = None,
    ) -> None:
        """Describe the batches; nothing is read before `setup`.

        Args:
            recipe: makes a training item from an utterance.
            val_recipe: makes a validation item; None takes `recipe`.
            root: folder of the corpus; None takes the corpus's default, if it has one.
            batch_seconds: seconds in a batch, padding included, on each process; 200 are the paper's 10K tokens.
            num_workers: processes that prepare batches; each keeps an audio cache of its own.
            seed: of the order of batches and of every item's draws.
            max_seconds: longer utterances are left out.
            cache: keep decoded audio in memory (2 bytes a sample).
            speeds: training has each utterance at each of these speeds, those other than 1 as other speakers.
            hours: of the corpus in training at most, before `speeds` (`within_hours`); None is all of it.
            tokens: folder that `prepare tokens` wrote, from which tokens are read, and audio only where a recipe needs
                the sound itself; None makes them of the audio, batch by batch.
        """
        super().__init__()
        self.recipe, self.val_recipe = recipe, recipe if val_recipe is None else val_recipe
        self.root, self.seed, self.max_seconds, self.cache = root, seed, max_seconds, cache
        self.batch_seconds, self.num_workers = batch_seconds, num_workers
        self.speeds, self.hours = tuple(speeds), hours
        self.tokens = None if tokens is None else Path(tokens)
        self._corpora: dict[str, SpeechCorpus] = {}
        self._stores: dict[str, TokenStore] = {}
        self._phones: ScriptPhones | None = None
        self._position = DataPosition()

    @abstractmethod
    def utterances(self) -> Sequence[Utterance]:
        """Return all utterances of the corpus, of every split; of a large one as `open_manifest` does."""

    def prepare_data(self) -> None:
        """Check the folders of noises and rooms, once a machine and before anything is trained."""
        folders = dict.fromkeys([*self.recipe.recordings(), *self.val_recipe.recordings()])
        for folder in folders:
            folder.check()

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest, once."""
        if self._corpora:
            return
        table = UtteranceTable.of(self.utterances())
        train, val = table.in_split(self.train_split), table.in_split(self.val_split)
        if self.hours is not None:
            # What is too long must not count as hours.
            train = within_hours(self._short_enough(self.train_split, train), self.hours)
        for split, recorded, speeds in ((self.train_split, train, self.speeds), (self.val_split, val, (1.0,))):
            utterances = self._short_enough(split, recorded.at_speeds(speeds))
            self._corpora[split] = SpeechCorpus(utterances, cache=self.cache)

    def _short_enough(self, split: str, utterances: UtteranceTable) -> UtteranceTable:
        """Return the utterances within `max_seconds`, and say what that leaves out."""
        fits = utterances.seconds <= self.max_seconds
        if not fits.all():
            total, left = (float(seconds.sum()) / 3600 for seconds in (utterances.seconds, utterances.seconds[~fits]))
            rank_zero_info(
                f"{split}: {(~fits).sum():,} of {len(fits):,} utterances, {left:.3g} of {total:.3g} hours, left out: "
                f"longer than data.max_seconds, {self.max_seconds:g} s"
            )
        return utterances.where(fits)

    def corpora(self) -> Mapping[str, SpeechCorpus]:
        """Return the corpora of training and of validation, by split."""
        self.setup()
        return self._corpora

    def fingerprint(self) -> str:
        """Return a hash of the utterances of training and validation: their ids, and how long they are."""
        digest = hashlib.sha256()
        for split, corpus in self.corpora().items():
            digest.update(split.encode() + corpus.utterances.names().tobytes() + corpus.utterances.seconds.tobytes())
        return digest.hexdigest()

    def use_tokens(self, fingerprints: Mapping[str, str]) -> None:
        """Read these kinds of tokens from the folder `tokens`; a UserError if some are damaged or missing."""
        if self.tokens is None:
            raise UserError("no token store: name the folder that `prepare tokens` wrote with --data.tokens")
        self._stores = {kind: TokenStore(self.tokens, kind, fingerprint) for kind, fingerprint in fingerprints.items()}
        for corpus in self.corpora().values():
            names = corpus.utterances.names()
            for store in self._stores.values():
                store.check(names)

    def use_phones(self, phones: ScriptPhones) -> None:
        """Make the phones of the scripts with each batch: in the workers, if there are any."""
        self._phones = phones

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the run in its training data, for the checkpoint."""
        return (self._position if self.trainer is None else self._position.reached(self.trainer)).state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was made, within its epoch; a UserError if the state is no such place."""
        self._position = DataPosition.from_state(state_dict, type(self).__name__)

    def train_dataloader(self) -> DataLoader[SpeechItem]:
        """Return the loader of shuffled training batches."""
        sampler = self._sampler(self.train_split, self.recipe, shuffle=True)
        self._position = self._position.restore(sampler, self.trainer)
        unbucketed = padding_without_buckets(sampler.lengths, sampler.batch_seconds)
        rank_zero_info(
            f"training batches: {len(sampler):,} of {sampler.batch_seconds:g} s a process and epoch, "
            f"{sampler.padding():.1%} of them padding (without length buckets {unbucketed:.1%})"
        )
        return self._loader(self.train_split, self.recipe, sampler)

    def seconds_of_a_batch(self) -> float:
        """Return how much a training batch holds without its padding, on average."""
        return self._sampler(self.train_split, self.recipe, shuffle=True).mean_seconds()

    def val_dataloader(self) -> DataLoader[SpeechItem]:
        """Return the loader of fixed validation batches, shortest first."""
        sampler = self._sampler(self.val_split, self.val_recipe, shuffle=False)
        return self._loader(self.val_split, self.val_recipe, sampler)

    def _sampler(self, split: str, recipe: Recipe, shuffle: bool) -> SecondsBatchSampler:
        corpus = self.corpora()[split]
        lengths = planned_lengths(recipe, corpus, self.seed)
        return SecondsBatchSampler(lengths, self.batch_seconds, shuffle, self.seed)

    def _loader(self, split: str, recipe: Recipe, sampler: SecondsBatchSampler) -> DataLoader[SpeechItem]:
        return DataLoader(
            RecipeDataset(self.corpora()[split], recipe, self.seed, self._stores),
            batch_sampler=sampler,
            collate_fn=partial(collate, phones=self._phones),
            num_workers=self.num_workers,
            # Workers that live on keep their audio cache; the epoch reaches them through the item keys.
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class PreparedDataModule(SpeechDataModule):
    """Training and validation batches of a manifest, or of a selection of it, whose lines are read as they are used."""

    def __init__(
        self,
        recipe: Recipe,
        manifest: Path | None = None,
        root: str | None = None,
        selection: Selection = Selection(),  # noqa: B008  frozen
        leave_out: Path | None = None,
        **kwargs: Any,  # noqa: ANN401  passed on
    ) -> None:
        """Name the manifest; nothing is read before `setup`.

        Args:
            recipe: makes a training item from an utterance.
            manifest: as `prepare` writes it, or in that format (`data.manifest.records.parse_row`); it must be named.
            root: folder or URL that its paths are relative to; None is the manifest's folder.
            selection: of its utterances.
            leave_out: a test list made of the same corpus, such as EmiliaMix's, whose utterances are not trained on.
            kwargs: see `SpeechDataModule`.
        """
        super().__init__(recipe, **kwargs)
        self.manifest, self.corpus_root = manifest, root
        self.selection, self.leave_out = selection, leave_out

    def utterances(self) -> UtteranceTable:
        """Return the selection, with speakers held out for validation if need be; a UserError if nothing is there."""
        if self.manifest is None:
            raise UserError("no corpus: name the manifest that `prepare` wrote with --data.manifest")
        table = open_manifest(Path(self.manifest), self.corpus_root)
        if self.leave_out is not None:
            trials = read_trials(self.leave_out)
            names = {name for trial in trials for name in (trial.target, trial.interferer, trial.enrollment)}
            table = table.where(~table.is_named(names))
        selected = select(table, self.selection)
        if not len(selected):
            raise UserError(f"{self.manifest}: nothing is left by {self.selection}; loosen it")
        return hold_out(selected, self.val_split, self.selection.dev_hours)
