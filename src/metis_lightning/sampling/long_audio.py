"""Cuts what is too long for one piece, and joins the results: a source into chunks that overlap, a text by sentences.

The model invents the waveform anew for each chunk, so that two neighbours say the same in their overlap with other
samples. They are joined where they differ least: in a pause, or where the periods of a voice can be laid on each other.
The later one is moved by up to 10 ms for that, and moves back at its other end.
Shape letters: S samples at 24 kHz, V samples of an overlap, F samples of a fade.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import pad

from metis_lightning.data.media.decoding import SILENT_PEAK
from metis_lightning.sampling.settings import LONGEST, SHORTEST_CHUNK
from metis_lightning.types import WAVE_RATE

# Seconds that two chunks have in common.
OVERLAP = 2.0
# Samples of a fade.
FADE = WAVE_RATE * 40 // 1000
# Samples at both ends of an overlap that are not used: a model knows least about its chunk's ends.
MARGIN = WAVE_RATE // 4
# Samples by which a chunk may be moved: the longest period of a voice of 100 Hz.
LARGEST_SHIFT = WAVE_RATE * 10 // 1000
# Every third shift is tried, and then all around the best of them.
_COARSE, _REFINED = 3, 8
# Samples over which the speech of a sentence rises and falls, so that it meets its neighbours in silence.
_EDGE = WAVE_RATE * 10 // 1000
# Text up to the end of a sentence with what closes it, of a clause, a word, a letter; each with the space behind it.
_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’)\]]*(?:\s+|$)|[。！？]+[”’）」』]*|$)", re.DOTALL)
_FINER = tuple(re.compile(text, re.DOTALL) for text in (r".+?(?:[,;:—]+\s+|[，、；：]+|$)", r"\S+\s*", "."))
# Bytes of a sentence that is too short to be spoken alone.
_SCRAP = 12


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


def longest_chunk(prompt_seconds: float, wanted: float | None) -> float:
    """Return how many seconds of a source or a text are worked on at once: as wanted, or what a prompt leaves."""
    return wanted or max(SHORTEST_CHUNK, LONGEST - prompt_seconds)


def chunk_seed(seed: int, number: int) -> int:
    """Return the seed of a chunk: the first has that of all, so that a source of one chunk is as if there were none.

    >>> chunk_seed(7, 0), chunk_seed(7, 1) == chunk_seed(7, 2)
    (7, False)
    """
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")


def is_silent(wave: Tensor) -> bool:
    """Tell whether nothing is heard in a wave (S,), direct current left out.

    >>> is_silent(torch.full((9,), 0.2)), is_silent(torch.tensor([0.0, 0.01]))
    (True, False)
    """
    return bool((wave - wave.mean()).abs().max() <= SILENT_PEAK) if len(wave) else True


def joined_chunks(
    blocks: Iterable[Tensor],
    longest: int,
    size: int,
    answer: Callable[[Sequence[tuple[int, Tensor]]], Sequence[Tensor]],
) -> Iterator[Tensor]:
    """Yield the result of a source that comes in blocks (S,), in pieces that are as long together.

    It is cut into chunks of at most `longest` samples. `answer` makes the results of up to `size` numbered ones,
    each as long as its chunk; a chunk of silence stays as it is, since a model would make sounds of it.
    """
    joiner, samples = Joiner(round(OVERLAP * WAVE_RATE)), 0
    for number, group in enumerate(grouped(overlapping(blocks, longest, joiner.overlap), size)):
        samples += sum(map(len, group)) - joiner.overlap * (len(group) - (number == 0))
        results = [torch.zeros_like(chunk) for chunk in group]
        audible = [index for index, chunk in enumerate(group) if not is_silent(chunk)]
        answers = answer([(number * size + index, group[index]) for index in audible])
        for index, result in zip(audible, answers, strict=True):
            results[index] = result
        yield from map(joiner.add, results)
    yield joiner.finish(samples)


def sentences(text: str, longest: int) -> list[str]:
    """Return a text sentence by sentence; one of over `longest` bytes of UTF-8 is cut at clauses, words, or letters.

    >>> sentences("Yes. Call me at noon, or at six. Bye now, all of you!", 24)
    ['Yes. Call me at noon,', 'or at six.', 'Bye now, all of you!']
    """
    parts = [""]
    for sentence in _SENTENCE.findall(text.strip()):
        # What is too short to be spoken alone goes with what follows.
        if len(parts[-1].encode()) >= _SCRAP:
            parts.append("")
        parts[-1] += sentence
    if len(parts) > 1 and len(parts[-1].encode()) < _SCRAP:
        parts[-2:] = [parts[-2] + parts[-1]]
    return [piece for part in parts for piece in _fitting(part.strip(), longest, _FINER)]


def _fitting(text: str, longest: int, finer: Sequence[re.Pattern[str]]) -> list[str]:
    """Return parts of at most `longest` bytes, cut as coarsely as can be."""
    if len(text.encode()) <= longest or not finer:
        return [text]
    parts = [""]
    for unit in finer[0].findall(text):
        for piece in _fitting(unit, longest, finer[1:]):
            if parts[-1] and len((parts[-1] + piece).strip().encode()) > longest:
                parts.append("")
            parts[-1] += piece
    return [part.strip() for part in parts]


def with_quiet_ends(wave: Tensor) -> Tensor:
    """Return a wave (S,) that rises from silence and falls to it, so that another may follow without a click."""
    gain = (torch.arange(len(wave)) + 0.5).div(_EDGE).clamp(max=1)
    return wave * gain * gain.flip(0)


def made_ahead(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield pieces, the next of which is being made meanwhile, in a thread."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, pieces, None)
        while (piece := following.result()) is not None:
            following = thread.submit(next, pieces, None)
            yield piece
