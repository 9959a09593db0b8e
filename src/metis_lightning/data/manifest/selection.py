"""Filters of a large corpus, voices held out for validation, and a cap on the hours, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metis_lightning.data.manifest.table import UtteranceTable
from metis_lightning.errors import UserError

# Validation never takes more than this share of a corpus.
_DEV_SHARE = 0.1


@dataclass(frozen=True)
class Selection:
    """Filters of a corpus.

    languages: ISO 639-1; none means all.
    seconds: shortest and longest utterance.
    min_dnsmos: least DNSMOS that the corpus lists (Emilia); None takes all.
    min_per_speaker: speakers with fewer utterances, after the other filters, are left out; 2 gives everyone a prompt.
    dev_hours: of validation, taken from the corpus's speakers where it has no split of its own for it.
    """

    languages: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, float("inf"))
    min_dnsmos: float | None = None
    min_per_speaker: int = 1
    dev_hours: float = 0.5


def select(utterances: UtteranceTable, selection: Selection) -> UtteranceTable:
    """Return the utterances that pass all filters, in order; a UserError if DNSMOS is asked for and not listed."""
    shortest, longest = selection.seconds
    passes = (utterances.seconds >= shortest) & (utterances.seconds <= longest)
    if selection.languages:
        passes &= utterances.is_in("language", selection.languages)
    if selection.min_dnsmos is not None:
        dnsmos = utterances.columns["dnsmos"]
        if (missing := np.flatnonzero(passes & np.isnan(dnsmos))).size:
            name = utterances[int(missing[0])].id
            raise UserError(f"utterance {name!r} has no dnsmos in the manifest; leave min_dnsmos out")
        # Listed as decimals, held as float32: the least itself is to pass.
        passes &= dnsmos >= np.float32(selection.min_dnsmos)
    chosen = utterances.where(passes)
    _, places, counts = np.unique(chosen.columns["speaker"], return_inverse=True, return_counts=True)
    return chosen.where(counts[places] >= selection.min_per_speaker)


def hold_out(utterances: UtteranceTable, val_split: str, dev_hours: float) -> UtteranceTable:
    """Give whole speakers to `val_split`, by hashes of their names, until it has `dev_hours`, or a tenth of all.

    It gets at least two, who can be mixed, where as many are left; else one, of a single speaker one utterance; and
    nothing if some utterance already is of that split.
    """
    if len(utterances) < 2 or utterances.is_in("split", (val_split,)).any():
        return utterances
    voices, first, places = np.unique(utterances.speaker_order(), return_index=True, return_inverse=True)
    if len(voices) == 1:
        alone = np.arange(len(utterances)) == int(np.argmin(utterances.names()))
        return utterances.with_split(alone, val_split)
    seconds = np.bincount(places, weights=utterances.seconds, minlength=len(first))
    wanted = min(dev_hours * 3600, _DEV_SHARE * float(seconds.sum()))
    # A voice is held out while those before it last less than is wanted.
    held = np.cumsum(seconds) - seconds < wanted
    held[: 2 if len(voices) >= 4 else 1] = True
    return utterances.with_split(held[places], val_split)


def within_hours(utterances: UtteranceTable, hours: float) -> UtteranceTable:
    """Return utterances that last at most `hours` together, in the order given; all of them if they are shorter.

    Speakers are taken as a whole, save the last, by hashes of their names, and utterances by hashes of their ids: alike
    in every order of the manifest, and fewer hours are part of more. A UserError if `hours` is not positive.
    """
    if not hours > 0:
        raise UserError(f"`hours` must be positive, got {hours}; leave it out to take the whole corpus")
    # Speakers first: of an order by utterances alone few speakers would have a second one for a prompt.
    order = np.lexsort((utterances.names(), utterances.speaker_order()))
    taken = np.cumsum(utterances.seconds[order]) <= hours * 3600
    return utterances.where(np.sort(order[taken]))
