"""Items of like lengths cut into batches, and batches brought to a number that processes can share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from metis_lightning.errors import UserError

# Lengths within 8% share a bucket, so that padding costs 4% or so; where that makes less than two batches, as in small
# corpora, lengths within a factor of 1.2 do, so that the neighbours of an item still vary.
TIGHT, LOOSE = 1.08, 1.2


class Buckets:
    """Items grouped with others of similar length, and how many batches each group makes.

    Args:
        lengths: of the items, in seconds.
        batch_seconds: the longest item times the number of items stays within this; a longer item is alone.
    """

    def __init__(self, lengths: np.ndarray, batch_seconds: float) -> None:
        self.lengths, self.batch_seconds = lengths, batch_seconds
        # Indices by length, then by place in the corpus.
        self.order = np.argsort(lengths, kind="stable")
        self.edges = _bucket_edges(lengths[self.order], batch_seconds)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the items of each bucket, shortest first, and the number of its batches."""
        for start, stop in zip(self.edges, self.edges[1:], strict=False):
            most = _fitting(self.batch_seconds, float(self.lengths[self.order[stop - 1]]))
            yield self.order[start:stop], -(-(stop - start) // most)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return sum(count for _, count in self)

    def batches(self, shuffled: torch.Generator | None) -> list[np.ndarray]:
        """Return the batches, bucket by bucket, of equal size or one less; with `shuffled` of items in random order."""
        found = []
        for bucket, count in self:
            items = bucket if shuffled is None else bucket[permutation(len(bucket), shuffled)]
            edges = [len(items) * i // count for i in range(count + 1)]
            found += [items[first:last] for first, last in zip(edges, edges[1:], strict=False)]
        return found


def _bucket_edges(ascending: np.ndarray, batch_seconds: float) -> list[int]:
    """Return where the buckets of lengths in ascending order begin, and the end of the last."""
    edges = [0]
    while edges[-1] < len(ascending):
        start = edges[-1]
        shortest = float(ascending[start])
        stop, latest = np.searchsorted(ascending, [shortest * TIGHT, shortest * LOOSE], side="right").tolist()
        enough = start + 2 * _fitting(batch_seconds, shortest)
        edges.append(max(stop, min(enough, latest)))
    return edges


def _fitting(batch_seconds: float, longest: float) -> int:
    return max(1, int(batch_seconds / longest + 1e-6))


def divisible_count(batches: int, items: int, world_size: int) -> int:
    """Return how many batches there are once their number is a multiple of `world_size`.

    Raises:
        UserError: if there are fewer items than processes.
    """
    if items < world_size:
        raise UserError(f"{items} utterances cannot be shared by {world_size} processes; use fewer devices")
    rounded_up = -(-batches // world_size) * world_size
    return rounded_up if rounded_up <= items else min(batches, items) // world_size * world_size


def brought_to(count: int, batches: list[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
    """Split the largest batches or join the shortest until there are `count`."""
    batches = list(batches)
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = len(batches[largest]) // 2
        batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
    while len(batches) > count:
        batches.sort(key=lambda batch: len(batch) * float(lengths[batch].max()))
        batches[:2] = [np.concatenate(batches[:2])]
    return batches


def permutation(count: int, generator: torch.Generator) -> np.ndarray:
    """Return the numbers below `count` in random order."""
    return torch.randperm(count, generator=generator).numpy()
