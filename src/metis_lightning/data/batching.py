"""Batches by total seconds: which items meet, on which process, and how they are padded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from metis_lightning.data.recipe import SpeechItem, derived_generator
from metis_lightning.errors import UserError
from metis_lightning.types import SpeechBatch

ItemKey = tuple[int, int]
"""(epoch, index). The epoch travels with the index because workers hold a copy of the dataset from before it."""

# Lengths within 8% share a bucket, so that padding costs 4% or so; where that makes less than two batches, as in small
# corpora, lengths within a factor of 1.2 do, so that the neighbours of an item still vary.
_TIGHT, _LOOSE = 1.08, 1.2

# Items from which the padding without buckets is told.
_ENOUGH = 200_000


def collate(items: Sequence[SpeechItem]) -> SpeechBatch:
    """Pad items with zeros at the end and stack them.

    Items with and without a source or a prompt may meet: see `heard` and `prompt_lengths` of `SpeechBatch`.

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
        heard=_heard(items),
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


def _heard(items: Sequence[SpeechItem]) -> Tensor | None:
    """Return which items have a source; None where all have one, or none has."""
    heard = torch.tensor([item.source is not None for item in items])
    return None if heard.all() or not heard.any() else heard


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
        self, lengths: Sequence[float] | np.ndarray, batch_seconds: float, shuffle: bool, seed: int = 0
    ) -> None:
        """Plan the buckets.

        Args:
            lengths: duration of each item in seconds, at most.
            batch_seconds: the longest item times the number of items stays within this; a longer item is alone.
            shuffle: new batches each epoch. Without it, all epochs are epoch 0 and equal, also in their draws.
            seed: of the order.

        Raises:
            UserError: if there is no item.
        """
        if not len(lengths):
            raise UserError("no utterances to make batches from; check the data root, the split and max_seconds")
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.batch_seconds, self.shuffle, self.seed = batch_seconds, shuffle, seed
        self.epoch, self._begun, self._done = 0, 0, 0
        # Indices by length, then by place in the corpus.
        self._order = np.argsort(self.lengths, kind="stable")
        self._edges = _bucket_edges(self.lengths[self._order], batch_seconds)

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
        counts = [_batch_count(stop - start, self._most(stop)) for start, stop in self._buckets()]
        return _divisible_count(sum(counts), len(self.lengths), process_world_size()) // process_world_size()

    def __iter__(self) -> Iterator[list[ItemKey]]:
        """Yield this process's batches as (epoch, index) pairs."""
        epoch = self.epoch
        done = self._done if self.shuffle and epoch == self._begun else 0
        for batch in self._epoch_batches()[process_rank() :: process_world_size()][done:]:
            yield [(epoch, index) for index in batch.tolist()]

    def padding(self) -> float:
        """Return the share of an epoch's batches that is padding, over all processes, by the lengths given."""
        padded = sum(len(batch) * self.lengths[batch].max() for batch in self._epoch_batches())
        return float(1 - self.lengths.sum() / padded)

    def fingerprint(self) -> str:
        """Return a hash of everything that the batches follow from, the number of processes included."""
        settings = f"{self.batch_seconds}|{self.shuffle}|{self.seed}|{process_world_size()}|{_TIGHT}|{_LOOSE}"
        return hashlib.sha256(self.lengths.tobytes() + settings.encode()).hexdigest()[:16]

    def _buckets(self) -> Iterator[tuple[int, int]]:
        """Yield the buckets as ranges of `_order`, shortest items first."""
        return zip(self._edges, self._edges[1:], strict=False)

    def _most(self, stop: int) -> int:
        """Return how many items of a bucket that ends at `stop` fit a batch."""
        return _fitting(self.batch_seconds, float(self.lengths[self._order[stop - 1]]))

    def _epoch_batches(self) -> list[np.ndarray]:
        """Return the batches of all processes, in order, their count a multiple of the number of processes."""
        generator = derived_generator("batches", self.seed, self.epoch)
        batches = [batch for start, stop in self._buckets() for batch in self._cut(start, stop, generator)]
        batches = _divisible(batches, self.lengths, process_world_size())
        return [batches[i] for i in _permutation(len(batches), generator)] if self.shuffle else batches

    def _cut(self, start: int, stop: int, generator: torch.Generator) -> list[np.ndarray]:
        """Cut a bucket into as few batches as fit, of equal size or one less."""
        bucket = self._order[start:stop]
        if self.shuffle:
            bucket = bucket[_permutation(len(bucket), generator)]
        count = _batch_count(len(bucket), self._most(stop))
        edges = [len(bucket) * i // count for i in range(count + 1)]
        return [bucket[first:last] for first, last in zip(edges, edges[1:], strict=False)]


def padding_without_buckets(lengths: Sequence[float] | np.ndarray, batch_seconds: float, seed: int = 0) -> float:
    """Return the share of padding if batches of the same seconds were filled in random order: what buckets save."""
    order = _permutation(len(lengths), derived_generator("unbucketed", seed))[:_ENOUGH]
    drawn = np.asarray(lengths, dtype=np.float64)[order]
    padded, longest, count = 0.0, 0.0, 0
    for length in drawn.tolist():
        if count and max(longest, length) * (count + 1) > batch_seconds:
            padded, longest, count = padded + longest * count, 0.0, 0
        longest, count = max(longest, length), count + 1
    return float(1 - drawn.sum() / (padded + longest * count))


def _bucket_edges(ascending: np.ndarray, batch_seconds: float) -> list[int]:
    """Return where the buckets of lengths in ascending order begin, and the end of the last."""
    edges = [0]
    while edges[-1] < len(ascending):
        start = edges[-1]
        shortest = float(ascending[start])
        stop, latest = np.searchsorted(ascending, [shortest * _TIGHT, shortest * _LOOSE], side="right").tolist()
        enough = start + 2 * _fitting(batch_seconds, shortest)
        edges.append(max(stop, min(enough, latest)))
    return edges


def _fitting(batch_seconds: float, longest: float) -> int:
    return max(1, int(batch_seconds / longest + 1e-6))


def _batch_count(items: int, most: int) -> int:
    return -(-items // most)


def _divisible_count(batches: int, items: int, world_size: int) -> int:
    """Return how many batches there are once their number is a multiple of `world_size`.

    Raises:
        UserError: if there are fewer items than processes.
    """
    if items < world_size:
        raise UserError(f"{items} utterances cannot be shared by {world_size} processes; use fewer devices")
    rounded_up = -(-batches // world_size) * world_size
    return rounded_up if rounded_up <= items else batches - batches % world_size


def _divisible(batches: list[np.ndarray], lengths: np.ndarray, world_size: int) -> list[np.ndarray]:
    """Split or join batches until their number is a multiple of `world_size`."""
    count = _divisible_count(len(batches), sum(map(len, batches)), world_size)
    batches = list(batches)
    while len(batches) < count:
        _split_largest(batches)
    while len(batches) > count:
        _join_shortest(batches, lengths)
    return batches


def _split_largest(batches: list[np.ndarray]) -> None:
    largest = max(range(len(batches)), key=lambda i: len(batches[i]))
    half = len(batches[largest]) // 2
    batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]


def _join_shortest(batches: list[np.ndarray], lengths: np.ndarray) -> None:
    batches.sort(key=lambda batch: len(batch) * float(lengths[batch].max()))
    batches[:2] = [np.concatenate(batches[:2])]


def _permutation(count: int, generator: torch.Generator) -> np.ndarray:
    return torch.randperm(count, generator=generator).numpy()


def process_rank() -> int:
    """Return this process's rank among those that train together, 0 if it is alone."""
    return torch.distributed.get_rank() if _distributed() else 0


def process_world_size() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    # Asked at each use: the process group exists only after Lightning has started, later than this sampler.
    return torch.distributed.is_available() and torch.distributed.is_initialized()
