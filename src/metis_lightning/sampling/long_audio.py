"""Cuts a long source into chunks that overlap, and joins their results.

The model invents the waveform anew for each chunk, so that two neighbours say the same in their overlap with other
samples. They are joined where they differ least: in a pause, or where the periods of a voice can be laid on each other.
The later one is moved by up to 10 ms for that, and moves back at its other end.
Shape letters: S samples at 24 kHz, V samples of an overlap, F samples of a fade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import pad

from metis_lightning.types import WAVE_RATE

# Samples of a fade.
FADE = WAVE_RATE * 40 // 1000
# Samples at both ends of an overlap that are not used: a model knows least about its chunk's ends.
MARGIN = WAVE_RATE // 4
# Samples by which a chunk may be moved: the longest period of a voice of 100 Hz.
LARGEST_SHIFT = WAVE_RATE * 10 // 1000
# Every third shift is tried, and then all around the best of them.
_COARSE, _REFINED = 3, 8


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
    waiting = iter(chunks)
    while group := list(islice(waiting, size)):
        yield group


@dataclass(frozen=True)
class Joint:
    """A fade from the earlier's samples at `start` to those of the later at `start + shift`, within their overlap."""

    start: int
    shift: int


class Joiner:
    """Joins the results of chunks that overlap by V samples, each as long as its chunk, added in order."""

    def __init__(self, overlap: int) -> None:
        if overlap < 2 * MARGIN + FADE + LARGEST_SHIFT:
            raise ValueError(f"an overlap of {overlap} samples has no room for a joint")
        self.overlap = overlap
        # Where the middle of each fade is in the joined wave.
        self.joints: list[int] = []
        self._held_back: Tensor | None = None
        self._written = 0

    def add(self, chunk: Tensor) -> Tensor:
        """Take the result (S,) of the next chunk; return the samples that no later chunk can change."""
        shift = 0
        if self._held_back is not None:
            joint = find_joint(self._held_back, chunk[: self.overlap])
            cut, shift = joint.start + joint.shift, joint.shift
            self.joints.append(self._written + joint.start + FADE // 2)
            fade = crossfade(self._held_back[joint.start : joint.start + FADE], chunk[cut : cut + FADE])
            chunk = torch.cat([self._held_back[: joint.start], fade, chunk[cut + FADE :]])
        # The part that is held back lies where the next chunk starts, whatever this one was moved by.
        end = max(0, len(chunk) + shift - self.overlap)
        done, rest = chunk[:end], chunk[end:]
        self._held_back = pad(rest, (0, max(0, self.overlap - len(rest))))[: self.overlap]
        self._written += len(done)
        return done

    def finish(self, samples: int) -> Tensor:
        """Return the part held back, cut or padded with silence so that `samples` were returned in all."""
        rest = torch.empty(0) if self._held_back is None else self._held_back
        missing = samples - self._written
        return pad(rest, (0, max(0, missing - len(rest))))[:missing]


def find_joint(earlier: Tensor, later: Tensor) -> Joint:
    """Return where two renderings (V,) of one stretch of sound differ least over a fade, as the sum of squares."""
    shifts = range(-LARGEST_SHIFT, LARGEST_SHIFT + 1)
    likely = sorted((_difference(earlier, later, shift) for shift in shifts[::_COARSE]), key=itemgetter(0))[:_REFINED]
    near = {joint.shift + step for _, joint in likely for step in range(1 - _COARSE, _COARSE)}
    return min((_difference(earlier, later, shift) for shift in shifts if shift in near), key=itemgetter(0))[1]


def crossfade(earlier: Tensor, later: Tensor) -> Tensor:
    """Return samples (F,) that go from one wave to another and keep their power, as alike or unlike as they are."""
    rising = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(len(later)) + 0.5) / len(later))
    falling = 1 - rising
    power = earlier.square().sum().sqrt() * later.square().sum().sqrt()
    alike = ((earlier * later).sum() / power).clamp(0, 1) if power > 0 else torch.tensor(0.0)
    # Of equal waves the weights add up to 1; of unrelated ones, their squares do.
    gain = (falling.square() + rising.square() + 2 * alike * falling * rising).rsqrt()
    return gain * (falling * earlier + rising * later)


def _difference(earlier: Tensor, later: Tensor, shift: int) -> tuple[float, Joint]:
    """Return the least difference over a fade for a shift, and where it is."""
    start, stop = MARGIN, len(earlier) - MARGIN
    squares = (earlier[start:stop] - later[start + shift : stop + shift]).double().square()
    running = pad(squares.cumsum(0), (1, 0))
    best = (running[FADE:] - running[:-FADE]).min(dim=0)
    # Of moved places, those moved less are preferred a little: in a pause it makes no difference.
    cost = float(best.values) * (1 + abs(shift) / LARGEST_SHIFT)
    return cost, Joint(start + int(best.indices), shift)
