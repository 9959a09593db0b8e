"""Batches by total seconds: which items meet, on which process, and how they are padded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from metis_lightning.data.batches.buckets import LOOSE, TIGHT, Buckets, brought_to, divisible_count, permutation
from metis_lightning.data.recipes.recipe import SpeechItem, derived_generator
from metis_lightning.errors import UserError
from metis_lightning.types import SpeechBatch

ItemKey = tuple[int, int]
"""(epoch, index). The epoch travels with the index because workers hold a copy of the dataset from before it."""

# Items from which the padding without buckets is told.
_ENOUGH = 200_000


def collate(items: Sequence[SpeechItem]) -> SpeechBatch:
    """Pad items with zeros at the end and stack them.

    Items with and without a source or a prompt may meet: see `has_source` and `prompt_lengths` of `SpeechBatch`.

    Raises:
        ValueError: if some items have features and others have none, or a source differs in length.
    """
    lengths = [item.wave.numel() for item in items]
    if any(i.source is not None and i.source.shape != i.wave.shape for i in items):
        raise ValueError("a source must have the shape of its wave")
    features = _all_or_none([item.features for item in items], "features")
    sources = _sources(items)
    return SpeechBatch(
        ids=tuple(item.id for item in items),
        speakers=tuple(item.speaker for item in items),
        texts=tuple(item.text for item in items),
        wave=_waves(items),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        source=sources,
        prompt_lengths=_prompt_lengths(items),
        applied=() if sources is None else tuple(item.applied for item in items),
        languages=tuple(item.language for item in items),
        scripts=tuple(item.script for item in items),
        has_source=_has_source(items),
        features=None if features is None else _stack(features),
        feature_lengths=None if features is None else torch.tensor([len(frames) for frames in features]),
        ssl_tokens=_stored([item.ssl_tokens for item in items]),
        acoustic_tokens=_stored([item.acoustic_tokens for item in items]),
    )


def _waves(items: Sequence[SpeechItem]) -> Tensor:
    """Return the waves, zeros after their ends; (B, 0) where tokens stand for them and no sound was read."""
    stand_ins = (item.ssl_tokens is not None and item.wave.stride() == (0,) for item in items)
    return torch.empty(len(items), 0) if all(stand_ins) else _stack([item.wave for item in items])


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True)


def _stored(tokens: Sequence[Tensor | None]) -> Tensor | None:
    """Return tokens as int64 (B, T) or (B, T, Q), padded with zeros; None without."""
    present = _all_or_none(tokens, "tokens")
    return None if present is None else _stack(present).long()


def _sources(items: Sequence[SpeechItem]) -> Tensor | None:
    if all(item.source is None for item in items):
        return None
    return _stack([torch.zeros_like(i.wave) if i.source is None else i.source for i in items])


def _has_source(items: Sequence[SpeechItem]) -> Tensor | None:
    """Return which items have a source; None where all have one, or none has."""
    present = torch.tensor([item.source is not None for item in items])
    return None if present.all() or not present.any() else present


def _prompt_lengths(items: Sequence[SpeechItem]) -> Tensor | None:
    if all(item.prompt_length is None for item in items):
        return None
    return torch.tensor([-1 if i.prompt_length is None else i.prompt_length for i in items], dtype=torch.int64)


def _all_or_none(frames: Sequence[Tensor | None], what: str) -> list[Tensor] | None:
    present = [tensor for tensor in frames if tensor is not None]
    if present and len(present) != len(frames):
        raise ValueError(f"{len(present)} of {len(frames)} items of a batch have {what}; all or none must")
    return present or None


class SecondsBatchSampler(Sampler[list[ItemKey]]):
    """Batches whose padded length stays within a number of seconds.

    Items are grouped with others of similar length. Every item occurs once an epoch, over all processes together,
    and each process gets the same number of batches: where the count does not divide, the largest batches are
    halved (or, with too few items for that, the shortest joined, which may then exceed `batch_seconds`).
    The order follows from (seed, epoch, rank) alone and `len` is the same in every epoch. Memory is 16 bytes an item.
    """

    def __init__(
        self,
        lengths: Sequence[float] | np.ndarray | Callable[[int], np.ndarray],
        batch_seconds: float,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        """Plan the buckets.

        Args:
            lengths: duration of each item in seconds; a function of the epoch where it is drawn anew in each.
            batch_seconds: the longest item times the number of items stays within this; a longer item is alone.
            shuffle: new batches each epoch. Without it, all epochs are epoch 0 and equal, also in their draws.
            seed: of the order.

        Raises:
            UserError: if there is no item.
        """
        self._drawn = lengths if callable(lengths) else None
        self.lengths = np.asarray(lengths(0) if callable(lengths) else lengths, dtype=np.float64)
        if not len(self.lengths):
            raise UserError("no utterances to make batches from; check the data root, the split and max_seconds")
        self.batch_seconds, self.shuffle, self.seed = batch_seconds, shuffle, seed
        self.epoch, self._begun, self._done = 0, 0, 0
        self._planned = (0, Buckets(self.lengths, batch_seconds))
        counts = [self._planned[1].count, *(Buckets(other, batch_seconds).count for other in self._other_epochs())]
        # As many as any of these epochs has, and their range more: no other epoch is likely to need as many.
        self._most = 2 * max(counts) - min(counts)

    @property
    def sampler(self) -> SecondsBatchSampler:
        """This object: Lightning announces epochs to `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; not one before `resume`'s, and only with `shuffle`."""
        self.epoch = max(epoch, self._begun) if self.shuffle else 0

    def resume(self, epoch: int, batches: int) -> None:
        """Go on in `epoch` after its first `batches` batches on this process; `len` stays that of a whole epoch.

        The batches that are done are not drawn, only left out: this takes as long as the start of any epoch.
        """
        self._begun, self._done = epoch, batches
        self.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of batches on this process."""
        return self._count() // process_world_size()

    def __iter__(self) -> Iterator[list[ItemKey]]:
        """Yield this process's batches as (epoch, index) pairs."""
        epoch = self.epoch
        done = self._done if self.shuffle and epoch == self._begun else 0
        for batch in self._epoch_batches()[process_rank() :: process_world_size()][done:]:
            yield [(epoch, index) for index in batch.tolist()]

    def padding(self) -> float:
        """Return the share of this epoch's batches that is padding, over all processes, by the lengths given."""
        lengths = self._buckets().lengths
        padded = sum(len(batch) * lengths[batch].max() for batch in self._epoch_batches())
        return float(1 - lengths.sum() / padded)

    def mean_seconds(self) -> float:
        """Return how much a batch holds without its padding, on average over the first epoch."""
        return float(self.lengths.sum()) / self._count()

    def fingerprint(self) -> str:
        """Return a hash of everything that the batches follow from, the number of processes included."""
        settings = f"{self.batch_seconds}|{self.shuffle}|{self.seed}|{process_world_size()}|{TIGHT}|{LOOSE}"
        return hashlib.sha256(self.lengths.tobytes() + settings.encode()).hexdigest()[:16]

    def _other_epochs(self) -> Iterator[np.ndarray]:
        """Yield the lengths of some further epochs, if they differ; of few for a large corpus, which varies less."""
        if self._drawn is not None and self.shuffle:
            epochs = min(8, 2 + _ENOUGH // len(self.lengths))
            yield from (self._drawn(epoch) for epoch in range(1, epochs))

    def _buckets(self) -> Buckets:
        """Return the buckets of this epoch."""
        if self._drawn is not None and self._planned[0] != self.epoch:
            self._planned = (self.epoch, Buckets(self._drawn(self.epoch), self.batch_seconds))
        return self._planned[1]

    def _count(self) -> int:
        """Return the number of batches of all processes, in every epoch."""
        return divisible_count(self._most, len(self.lengths), process_world_size())

    def _epoch_batches(self) -> list[np.ndarray]:
        """Return the batches of all processes, in order, their count a multiple of the number of processes."""
        generator = derived_generator("batches", self.seed, self.epoch)
        buckets, count = self._buckets(), self._count()
        while self._drawn is not None and buckets.count > count < len(self.lengths):
            # An epoch that drew more than was to be expected has batches that are longer by as much, all of them.
            buckets = Buckets(buckets.lengths, 1.01 * buckets.batch_seconds)
        batches = brought_to(count, buckets.batches(generator if self.shuffle else None), buckets.lengths)
        return [batches[i] for i in permutation(len(batches), generator)] if self.shuffle else batches


def padding_without_buckets(lengths: Sequence[float] | np.ndarray, batch_seconds: float, seed: int = 0) -> float:
    """Return the share of padding if batches of the same seconds were filled in random order: what buckets save."""
    order = permutation(len(lengths), derived_generator("unbucketed", seed))[:_ENOUGH]
    drawn = np.asarray(lengths, dtype=np.float64)[order]
    padded, longest, count = 0.0, 0.0, 0
    for length in drawn.tolist():
        if count and max(longest, length) * (count + 1) > batch_seconds:
            padded, longest, count = padded + longest * count, 0.0, 0
        longest, count = max(longest, length), count + 1
    return float(1 - drawn.sum() / (padded + longest * count))


def process_rank() -> int:
    """Return this process's rank among those that train together, 0 if it is alone."""
    return torch.distributed.get_rank() if _distributed() else 0


def process_world_size() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    # Asked at each use: the process group exists only after Lightning has started, later than this sampler.
    return torch.distributed.is_available() and torch.distributed.is_initialized()
