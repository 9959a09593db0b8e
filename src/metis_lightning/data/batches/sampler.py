"""Batches by total seconds: which items meet, in which order, on which process, and how they are padded.

Shape letters: B batch, T token frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from metis_lightning.data.recipes.recipe import SpeechItem, derived_generator
from metis_lightning.errors import UserError
from metis_lightning.types import SpeechBatch

ItemKey = tuple[int, int]
"""(epoch, index). The epoch travels with the index because workers hold a copy of the dataset from before it."""
ScriptPhones = Callable[[Sequence[str], Sequence[str]], Tensor | None]
"""Phones (B, P) of scripts in their languages; None if all are empty."""
Shares = tuple[tuple[int, int], ...]
"""How an epoch was heard so far: a number of processes and of batches that each of them took, then perhaps another."""

# Lengths within 8% share a bucket, so that padding costs 4% or so; where that makes less than two batches, as in small
# corpora, lengths within a factor of 1.2 do, so that the neighbours of an item still vary.
_TIGHT, _LOOSE = 1.08, 1.2
# Items that are enough to estimate the padding without buckets, and the spread of the number of batches.
_ENOUGH = 200_000


class Buckets:
    """Items of similar length in `count` batches within `batch_seconds`, padding included; a longer one is alone."""

    def __init__(self, lengths: np.ndarray, batch_seconds: float) -> None:
        self.lengths, self.batch_seconds = lengths, batch_seconds
        # By length, then by place in the corpus.
        order = np.argsort(lengths, kind="stable")
        ascending = lengths[order]
        # As many as fit with each as the longest. A rounding error must not cost ten items of a tenth the last one.
        fitting = np.maximum(1, (batch_seconds / ascending + 1e-6).astype(np.int64))
        self._buckets: list[tuple[np.ndarray, int]] = []
        start = 0
        while start < len(order):
            limits = [float(ascending[start]) * factor for factor in (_TIGHT, _LOOSE)]
            tight, loose = np.searchsorted(ascending, limits, side="right").tolist()
            stop = max(tight, min(start + 2 * int(fitting[start]), loose))
            self._buckets.append((order[start:stop], -(-(stop - start) // int(fitting[stop - 1]))))
            start = stop
        self.count = sum(count for _, count in self._buckets)

    def batches(self, generator: Generator | None) -> list[np.ndarray]:
        """Return the batches of each bucket, of equal size or one less; with a generator, of items in random order."""
        batches = []
        for bucket, count in self._buckets:
            items = bucket if generator is None else bucket[torch.randperm(len(bucket), generator=generator).numpy()]
            edges = [len(items) * i // count for i in range(count + 1)]
            batches += [items[first:last] for first, last in zip(edges, edges[1:], strict=False)]
        return batches


class SecondsBatchSampler(Sampler[list[ItemKey]]):
    """Batches whose padded length stays within a number of seconds.

    Every item occurs once an epoch, over all processes together, and each process gets the same number of batches:
    where the count does not divide, the largest are halved (or, with too few items for that, the shortest joined, which
    may then exceed `batch_seconds`). The order follows from (seed, epoch, rank) alone, and `len` is that of any epoch.
    """

    def __init__(
        self,
        lengths: Sequence[float] | np.ndarray | Callable[[int], np.ndarray],
        batch_seconds: float,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        """Plan the buckets, in which a longer item than `batch_seconds` is alone; a UserError if there is no item.

        `lengths` (N,) are in seconds, or a function of the epoch where they are drawn anew in each. Without `shuffle`
        all epochs are epoch 0 and equal, also in their draws.
        """
        self._draw_lengths = lengths if callable(lengths) else None
        self.lengths = np.asarray(lengths(0) if callable(lengths) else lengths, dtype=np.float64)
        if not len(self.lengths):
            raise UserError("no utterances to make batches from; check the data root, the split and max_seconds")
        self.batch_seconds, self.shuffle, self.seed = batch_seconds, shuffle, seed
        self.epoch, self._first_epoch, self._shares = 0, 0, Shares()
        self._planned = (0, Buckets(self.lengths, batch_seconds))
        counts = [self._planned[1].count]
        if self._draw_lengths is not None and shuffle:
            # Of a large corpus few epochs are looked at: their counts vary less.
            epochs = range(1, min(8, 2 + _ENOUGH // len(self.lengths)))
            counts += [Buckets(self._draw_lengths(epoch), batch_seconds).count for epoch in epochs]
        # As many as any of these epochs has, and their range more: no other epoch is likely to need as many.
        self._most = 2 * max(counts) - min(counts)

    @property
    def sampler(self) -> SecondsBatchSampler:
        """This object: Lightning announces epochs to `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; not one before `resume`'s, and only with `shuffle`."""
        self.epoch = max(epoch, self._first_epoch) if self.shuffle else 0

    def resume(self, epoch: int, shares: Shares) -> None:
        """Go on in `epoch` after the shares of it that were heard; `len` stays that of a whole epoch."""
        self._first_epoch, self._shares = epoch, shares
        self.set_epoch(epoch)

    def place(self) -> int:
        """Return at which of an epoch's `len` batches each process goes on."""
        return len(self) - len(self._left()) // process_rank_and_count()[1]

    def __len__(self) -> int:
        processes = process_rank_and_count()[1]
        return self._count(processes) // processes

    def __iter__(self) -> Iterator[list[ItemKey]]:
        epoch = self.epoch
        rank, processes = process_rank_and_count()
        for batch in self._left()[rank::processes]:
            yield [(epoch, index) for index in batch.tolist()]

    def padding(self) -> float:
        """Return the share of this epoch's batches that is padding, over all processes, by the lengths given."""
        lengths = self._buckets().lengths
        batches = self._epoch_batches(process_rank_and_count()[1])
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        # Two sums in another order may differ in the last bit: there is no negative padding.
        return max(0.0, float(1 - lengths.sum() / padded))

    def mean_seconds(self) -> float:
        """Return how much a batch holds without its padding, on average over the first epoch."""
        return float(self.lengths.sum()) / self._count(process_rank_and_count()[1])

    def fingerprint(self) -> str:
        """Return a hash of everything that the batches follow from but the number of processes."""
        # The 1 was once the number of processes: runs of one go on.
        settings = f"{self.batch_seconds}|{self.shuffle}|{self.seed}|1|{_TIGHT}|{_LOOSE}"
        return hashlib.sha256(self.lengths.tobytes() + settings.encode()).hexdigest()[:16]

    def _buckets(self) -> Buckets:
        if self._draw_lengths is not None and self._planned[0] != self.epoch:
            self._planned = (self.epoch, Buckets(self._draw_lengths(self.epoch), self.batch_seconds))
        return self._planned[1]

    def _count(self, processes: int) -> int:
        if not (count := _divisible(self._most, len(self.lengths), processes)):
            raise UserError(
                f"{len(self.lengths)} utterances cannot be shared by {processes} processes; use fewer devices"
            )
        return count

    def _epoch_batches(self, processes: int) -> list[np.ndarray]:
        """Return all batches of the epoch as so many processes take them, in turns."""
        generator = derived_generator("batches", self.seed, self.epoch)
        buckets, count = self._buckets(), self._count(processes)
        while self._draw_lengths is not None and buckets.count > count < len(self.lengths):
            # An epoch that drew more than was to be expected has batches that are longer by as much, all of them.
            buckets = Buckets(buckets.lengths, 1.01 * buckets.batch_seconds)
        batches = _cut_and_joined(buckets.batches(generator if self.shuffle else None), count, buckets.lengths)
        if not self.shuffle:
            return batches
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _left(self) -> list[np.ndarray]:
        """Return the batches of the epoch that were not heard yet, which the processes take in turns."""
        own = process_rank_and_count()[1]
        shares = self._shares if self.shuffle and self.epoch == self._first_epoch else ()
        batches = self._epoch_batches(shares[0][0] if shares else own)
        for index, (processes, done) in enumerate(shares):
            batches = batches[processes * done :]
            # Whoever went on from there shared the rest equally.
            following = shares[index + 1][0] if index + 1 < len(shares) else own
            items = sum(map(len, batches))
            count = _divisible(len(batches), items, following)
            if items and not count:
                # `generate` fills batches, too, and can do without Lightning.
                from lightning.pytorch.utilities import rank_zero_warn

                rank_zero_warn(f"{items} utterances left of an epoch are too few for {following} processes: left out")
            batches = _cut_and_joined(batches, count, self._buckets().lengths) if count else []
        return batches


def _divisible(batches: int, items: int, processes: int) -> int:
    """Return a number of batches near `batches` that processes share equally: a larger one if there are the items."""
    rounded_up = -(-batches // processes) * processes
    return rounded_up if rounded_up <= items else min(batches, items) // processes * processes


def _cut_and_joined(batches: list[np.ndarray], count: int, lengths: np.ndarray) -> list[np.ndarray]:
    """Halve the largest of some batches, or join the shortest, until there are `count`."""
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = len(batches[largest]) // 2
        batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
    while len(batches) > count:
        batches.sort(key=lambda batch: len(batch) * float(lengths[batch].max()))
        batches[:2] = [np.concatenate(batches[:2])]
    return batches


def fill_batches(lengths: Iterable[float], batch_seconds: float) -> Iterator[list[int]]:
    """Yield the numbers of successive items as batches within `batch_seconds`, with padding; a longer one is alone."""
    batch, longest = list[int](), 0.0
    for number, length in enumerate(lengths):
        if batch and max(longest, length) * (len(batch) + 1) > batch_seconds:
            yield batch
            batch, longest = [], 0.0
        batch.append(number)
        longest = max(longest, length)
    if batch:
        yield batch


def padding_without_buckets(lengths: Sequence[float] | np.ndarray, batch_seconds: float, seed: int = 0) -> float:
    """Return the share of padding if batches of the same seconds were filled in random order: what buckets save."""
    order = torch.randperm(len(lengths), generator=derived_generator("unbucketed", seed)).numpy()[:_ENOUGH]
    sample = np.asarray(lengths, dtype=np.float64)[order]
    padded = sum(len(batch) * sample[batch].max() for batch in fill_batches(sample.tolist(), batch_seconds))
    return max(0.0, float(1 - sample.sum() / padded))


def process_rank_and_count() -> tuple[int, int]:
    """Return this process's rank among those that work together, and their number; (0, 1) if it is alone."""
    # Asked at each use: the process group exists only after Lightning has started, later than a sampler.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def collate(items: Sequence[SpeechItem], phones: ScriptPhones | None = None) -> SpeechBatch:
    """Pad items, with and without a source or a prompt, with zeros at the end and stack them; add phones of scripts.

    A ValueError if some have features or tokens and others have none, or a source differs in length from its wave.
    """
    if any(item.source is not None and item.source.shape != item.wave.shape for item in items):
        raise ValueError("a source must have the shape of its wave")
    has_source = torch.tensor([item.source is not None for item in items])
    has_prompts = any(item.prompt_length is not None for item in items)
    sources = [torch.zeros_like(item.wave) if item.source is None else item.source for item in items]
    prompt_lengths = [-1 if item.prompt_length is None else item.prompt_length for item in items]
    features = _pad([item.features for item in items], "features")
    feature_lengths = [len(item.features) for item in items if item.features is not None]
    # Where tokens stand for waves and no sound was read, a wave is one zero expanded to its length.
    is_silent = all(item.ssl_tokens is not None and item.wave.stride() == (0,) for item in items)
    waves = [item.wave[:0] if is_silent else item.wave for item in items]
    scripts, languages = [item.script for item in items], [item.language for item in items]
    return SpeechBatch(
        ids=tuple(item.id for item in items),
        speakers=tuple(item.speaker for item in items),
        texts=tuple(item.text for item in items),
        wave=pad_sequence(waves, batch_first=True),
        lengths=torch.tensor([item.wave.numel() for item in items], dtype=torch.int64),
        source=pad_sequence(sources, batch_first=True) if has_source.any() else None,
        prompt_lengths=torch.tensor(prompt_lengths, dtype=torch.int64) if has_prompts else None,
        applied=tuple(item.applied for item in items) if has_source.any() else (),
        languages=tuple(languages),
        scripts=tuple(scripts),
        has_source=has_source if has_source.any() and not has_source.all() else None,
        features=features,
        feature_lengths=torch.tensor(feature_lengths) if feature_lengths else None,
        ssl_tokens=_pad([item.ssl_tokens for item in items], "tokens"),
        acoustic_tokens=_pad([item.acoustic_tokens for item in items], "tokens"),
        phones=None if phones is None else phones(scripts, languages),
        samples=tuple(item.wave.numel() for item in items),
    )


def _pad(rows: Sequence[Tensor | None], name: str) -> Tensor | None:
    """Return rows (T, …) of every item as (B, T, …), zeros after their ends; None if no item has one."""
    present = [row for row in rows if row is not None]
    if present and len(present) != len(rows):
        raise ValueError(f"{len(present)} of {len(rows)} items of a batch have {name}; all or none must")
    return pad_sequence(present, batch_first=True) if present else None
