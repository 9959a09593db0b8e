"""Jobs of like lengths together, so that a batch is a stated number of seconds and holds little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Sequence[tuple[float, Item]], batch_seconds: float) -> Iterator[list[Item]]:
    """Yield lists of items whose number times their longest stays within `batch_seconds`; one that exceeds it is alone.

    Args:
        items: (seconds, item); they come out from the shortest to the longest, equals in their order.
        batch_seconds: of a batch, padding counted.

    >>> list(batches([(4.0, "a"), (1.0, "b"), (2.0, "c")], 5.0))
    [['b', 'c'], ['a']]
    """
    batch: list[Item] = []
    for seconds, item in sorted(items, key=lambda pair: pair[0]):
        if batch and (len(batch) + 1) * seconds > batch_seconds:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
