"""A long source as chunks that overlap, without ever holding all of it.

Shape letters: S samples at 24 kHz.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def overlapping(blocks: Iterable[Tensor], longest: int, overlap: int) -> Iterator[Tensor]:
    """Yield chunks (S,) of a wave that comes in blocks; each starts `overlap` samples before its neighbour ends.

    All have `longest - overlap` samples but the last, which has from `2 * overlap` to `longest`: what is no longer
    than `longest` is one chunk, and no chunk is a scrap.

    >>> [chunk.tolist() for chunk in overlapping([torch.arange(5), torch.arange(5, 8)], longest=5, overlap=1)]
    [[0, 1, 2, 3], [3, 4, 5, 6, 7]]
    """
    waiting, samples = [], 0
    for block in blocks:
        waiting.append(block)
        samples += len(block)
        while samples > longest:
            wave = torch.cat(waiting)
            yield wave[: longest - overlap]
            # A copy, so that the block that it is cut from can go.
            waiting = [wave[longest - 2 * overlap :].clone()]
            samples = len(waiting[0])
    yield torch.cat(waiting)


def grouped(chunks: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield lists of `size` chunks, the last of what is left."""
    group: list[Tensor] = []
    for chunk in chunks:
        group.append(chunk)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
