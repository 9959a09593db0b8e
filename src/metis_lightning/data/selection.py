"""Which utterances of a large corpus are trained on: filters, and a cap in hours that keeps speakers together.

The order in which a cap takes utterances is that of a hash of (seed, speaker), then of (seed, id): a speaker is in as a
whole, save the last, so that prompts can be found; the choice depends on no file order; and a smaller cap's choice is
part of a larger one's. The manifest is read several times and never kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from metis_lightning.errors import UserError
from metis_lightning.types import Utterance

Read = Callable[[], Iterable[Utterance]]
"""Reads a manifest from its start."""

_BUCKET_BITS = 16
_KEY_BITS = 64
# Validation never takes more than this share of a corpus.
_DEV_SHARE = 0.1


@dataclass(frozen=True)
class Selection:
    """What is kept of a corpus.

    languages: ISO 639-1; none means all.
    seconds: shortest and longest utterance.
    min_dnsmos: least DNSMOS that the corpus lists (Emilia); None takes all.
    min_per_speaker: speakers with fewer utterances, after the other filters, are left out; 2 gives everyone a prompt.
    hours: of training, at most; None takes all. The paper's rows have 580, 1000 and 10000.
    dev_hours: of validation, taken from training speakers where the corpus has no split of its own for it.
    seed: of the choice.
    """

    languages: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, float("inf"))
    min_dnsmos: float | None = None
    min_per_speaker: int = 1
    hours: float | None = None
    dev_hours: float = 0.5
    seed: int = 0

    def passes(self, utterance: Utterance) -> bool:
        """Tell whether an utterance passes the filters that look at it alone.

        Raises:
            UserError: if DNSMOS is asked for and not listed.
        """
        if self.min_dnsmos is not None and utterance.dnsmos is None:
            raise UserError(f"utterance {utterance.id!r} has no dnsmos in the manifest; leave min_dnsmos out")
        return (
            (not self.languages or utterance.language in self.languages)
            and self.seconds[0] <= utterance.seconds <= self.seconds[1]
            and (self.min_dnsmos is None or utterance.dnsmos is None or utterance.dnsmos >= self.min_dnsmos)
        )


def select(read: Read, selection: Selection, train_split: str = "train") -> Iterator[Utterance]:
    """Yield what is kept, in the manifest's order; `hours` counts utterances of `train_split` alone.

    Raises:
        UserError: as for `Selection.passes`.
    """
    few = _few_speakers(read, selection)

    def filtered() -> Iterator[Utterance]:
        return (u for u in read() if selection.passes(u) and u.speaker not in few)

    if selection.hours is None:
        yield from filtered()
        return

    def training() -> Iterator[Utterance]:
        return (u for u in filtered() if u.split == train_split)

    end = cap(training, selection.hours, selection.seed)
    yield from (u for u in filtered() if u.split != train_split or order_key(u, selection.seed) < end)


def order_key(utterance: Utterance, seed: int) -> int:
    """Return an utterance's place in the order of the choice: 32 bits for its speaker, then 32 for itself."""
    return _hash32(f"{seed} {utterance.speaker}") << 32 | _hash32(f"{seed} {utterance.id}")


def cap(read: Read, hours: float, seed: int) -> int:
    """Return the first `order_key` that no longer fits into so many hours; reads twice."""
    seconds = array("d", bytes(8 << _BUCKET_BITS))
    shift = _KEY_BITS - _BUCKET_BITS
    for utterance in read():
        seconds[order_key(utterance, seed) >> shift] += utterance.seconds
    left = hours * 3600
    for bucket, amount in enumerate(seconds):
        if amount > left:
            return _cap_in_bucket(read, left, seed, bucket)
        left -= amount
    return 1 << _KEY_BITS


def _cap_in_bucket(read: Read, seconds: float, seed: int, bucket: int) -> int:
    keyed = ((order_key(utterance, seed), utterance.seconds) for utterance in read())
    for key, amount in sorted(pair for pair in keyed if pair[0] >> (_KEY_BITS - _BUCKET_BITS) == bucket):
        if amount > seconds:
            return key
        seconds -= amount
    return (bucket + 1) << (_KEY_BITS - _BUCKET_BITS)


def hold_out(utterances: Sequence[Utterance], selection: Selection, val_split: str) -> list[Utterance]:
    """Give whole speakers to `val_split` until it has `dev_hours`, or a tenth of all.

    It gets at least two, who can be mixed, where as many are left to train on; else one; and of a single speaker one
    utterance. Utterances that already are of that split mean that nothing is to do.
    """
    listed = list(utterances)
    speakers = {u.speaker for u in listed}
    if any(u.split == val_split for u in listed) or len(listed) < 2:
        return listed
    if len(speakers) == 1:
        alone = min(listed, key=lambda u: order_key(u, selection.seed))
        return [replace(u, split=val_split) if u is alone else u for u in listed]
    least = 2 if len(speakers) >= 4 else 1
    wanted = min(selection.dev_hours * 3600, _DEV_SHARE * sum(u.seconds for u in listed))
    held: set[str] = set()
    taken = 0.0
    for utterance in sorted(listed, key=lambda u: order_key(u, selection.seed)):
        if utterance.speaker not in held and taken >= wanted and len(held) >= least:
            break
        held.add(utterance.speaker)
        taken += utterance.seconds
    return [replace(u, split=val_split) if u.speaker in held else u for u in listed]


def _few_speakers(read: Read, selection: Selection) -> set[str]:
    if selection.min_per_speaker <= 1:
        return set()
    counts = Counter(u.speaker for u in read() if selection.passes(u))
    return {speaker for speaker, count in counts.items() if count < selection.min_per_speaker}


def _hash32(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
