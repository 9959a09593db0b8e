"""Batches by total seconds: which items meet, on which process, and how they are padded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from metis_lightning.data.recipe import SpeechItem, derived_generator
from metis_lightning.errors import UserError
from metis_lightning.types import SpeechBatch

_T = TypeVar("_T")

ItemKey = tuple[int, int]
"""(epoch, index). The epoch travels with the index because workers hold a copy of the dataset from before it."""

# Lengths within a factor of 1.2 share a bucket: padding costs at most a sixth, and neighbours still vary.
_BUCKET_RATIO = 1.2


def collate(items: Sequence[SpeechItem]) -> SpeechBatch:
    """Pad items with zeros at the end and stack them.

    Items with and without a source or a prompt may meet: see `heard` and `prompt_lengths` of `SpeechBatch`.

    Raises:
        ValueError: if some items have features and others have none, or a source differs in length.
    """
    lengths = [item.wave.numel() for item in items]
    if any(i.source is not None and i.source.shape != i.wave.shape for i in items):
        raise ValueError("a source must have the shape of its wave")
    features = _all_or_none([item.features for item in items])
    sources = _sources(items)
    return SpeechBatch(
        ids=tuple(item.id for item in items),
        speakers=tuple(item.speaker for item in items),
        texts=tuple(item.text for item in items),
        wave=_stack([item.wave for item in items]),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        source=sources,
        prompt_lengths=_prompt_lengths(items),
        applied=() if sources is None else tuple(item.applied for item in items),
        languages=tuple(item.language for item in items),
        scripts=tuple(item.script for item in items),
        heard=_heard(items),
        features=None if features is None else _stack(features),
        feature_lengths=None if features is None else torch.tensor([len(frames) for frames in features]),
    )


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True)


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


def _all_or_none(features: Sequence[Tensor | None]) -> list[Tensor] | None:
    present = [frames for frames in features if frames is not None]
    if present and len(present) != len(features):
        raise ValueError(f"{len(present)} of {len(features)} items of a batch have features; all or none must")
    return present or None


class SecondsBatchSampler(Sampler[list[ItemKey]]):
    """Batches whose padded length stays within a number of seconds.

    Items are grouped with others of similar length. Every item occurs once an epoch, over all processes together,
    and each process gets the same number of batches: where the count does not divide, the largest batches are
    halved (or, with too few items for that, the shortest joined, which may then exceed `batch_seconds`).
    The order follows from (seed, epoch, rank) alone and `len` is the same in every epoch.
    """

    def __init__(self, lengths: Sequence[float], batch_seconds: float, shuffle: bool, seed: int = 0) -> None:
        """Plan the buckets.

        Args:
            lengths: duration of each item in seconds, at most.
            batch_seconds: the longest item times the number of items stays within this; a longer item is alone.
            shuffle: new batches each epoch. Without it, all epochs are epoch 0 and equal, also in their draws.
            seed: of the order.

        Raises:
            UserError: if there is no item.
        """
        if not lengths:
            raise UserError("no utterances to make batches from; check the data root, the split and max_seconds")
        self.lengths, self.batch_seconds, self.shuffle, self.seed = tuple(lengths), batch_seconds, shuffle, seed
        self.epoch, self._begun, self._done = 0, 0, 0
        self._buckets = self._plan()

    @property
    def sampler(self) -> SecondsBatchSampler:
        """This object: Lightning announces epochs to `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; not one before `resume`'s, and only with `shuffle`."""
        self.epoch = max(epoch, self._begun) if self.shuffle else 0

    def resume(self, epoch: int, batches: int) -> None:
        """Go on in `epoch` after its first `batches` batches on this process; `len` stays that of a whole epoch."""
        self._begun, self._done = epoch, batches
        self.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of batches on this process."""
        return len(self._epoch_batches()) // _world_size()

    def __iter__(self) -> Iterator[list[ItemKey]]:
        """Yield this process's batches as (epoch, index) pairs."""
        epoch = self.epoch
        done = self._done if self.shuffle and epoch == self._begun else 0
        for batch in self._epoch_batches()[_rank() :: _world_size()][done:]:
            yield [(epoch, index) for index in batch]

    def _plan(self) -> list[list[int]]:
        """Group indices by length, each group sorted by length, shortest group first."""
        buckets: dict[int, list[int]] = {}
        for index in sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], i)):
            buckets.setdefault(math.floor(math.log(self.lengths[index], _BUCKET_RATIO)), []).append(index)
        return list(buckets.values())

    def _epoch_batches(self) -> list[list[int]]:
        """Return the batches of all processes, in order, their count a multiple of the number of processes."""
        generator = derived_generator("batches", self.seed, self.epoch)
        batches = [batch for bucket in self._buckets for batch in self._cut(bucket, generator)]
        batches = _divisible(batches, self.lengths, _world_size())
        return _shuffled(batches, generator) if self.shuffle else batches

    def _cut(self, bucket: list[int], generator: torch.Generator) -> list[list[int]]:
        """Cut a bucket into as few batches as fit, of equal size or one less."""
        longest = self.lengths[bucket[-1]]
        most = max(1, math.floor(self.batch_seconds / longest + 1e-6))
        count = math.ceil(len(bucket) / most)
        order = _shuffled(bucket, generator) if self.shuffle else bucket
        edges = [len(order) * i // count for i in range(count + 1)]
        return [order[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]


def _divisible(batches: list[list[int]], lengths: Sequence[float], world_size: int) -> list[list[int]]:
    """Split or join batches until their number is a multiple of `world_size`."""
    items = sum(map(len, batches))
    if items < world_size:
        raise UserError(f"{items} utterances cannot be shared by {world_size} processes; use fewer devices")
    batches = list(batches)
    missing = -len(batches) % world_size
    if len(batches) + missing <= items:
        for _ in range(missing):
            _split_largest(batches)
    else:
        for _ in range(len(batches) % world_size):
            _join_shortest(batches, lengths)
    return batches


def _split_largest(batches: list[list[int]]) -> None:
    largest = max(range(len(batches)), key=lambda i: len(batches[i]))
    half = len(batches[largest]) // 2
    batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]


def _join_shortest(batches: list[list[int]], lengths: Sequence[float]) -> None:
    batches.sort(key=lambda batch: len(batch) * max(lengths[i] for i in batch))
    batches[:2] = [batches[0] + batches[1]]


def _shuffled(values: Sequence[_T], generator: torch.Generator) -> list[_T]:
    return [values[i] for i in torch.randperm(len(values), generator=generator).tolist()]


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0


def _world_size() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    # Asked at each use: the process group exists only after Lightning has started, later than this sampler.
    return torch.distributed.is_available() and torch.distributed.is_initialized()
