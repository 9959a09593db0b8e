"""A cap on the hours of a corpus, for runs that differ in how much they hear."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import accumulate

from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def within_hours(utterances: Iterable[Utterance], hours: float) -> list[Utterance]:
    """Return utterances that last at most `hours` together, in the order given; all of them if they are shorter.

    They are taken by the hashes of their ids until the next one would exceed the cap: as good as at random, alike on
    every machine and in every order of the manifest, and those of fewer hours are among those of more.

    Raises:
        UserError: if `hours` is not positive.
    """
    if not hours > 0:
        raise UserError(f"`hours` must be positive, got {hours}; leave it out to take the whole corpus")
    listed = list(utterances)
    by_hash = sorted(listed, key=lambda utterance: sha256(utterance.id.encode()).digest())
    totals = accumulate(utterance.seconds for utterance in by_hash)
    taken = {u.id for u, total in zip(by_hash, totals, strict=True) if total <= hours * 3600}
    return [utterance for utterance in listed if utterance.id in taken]
