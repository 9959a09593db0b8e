"""A cap on the hours of a corpus, for runs that differ in how much they hear."""

from __future__ import annotations

import numpy as np

from metis_lightning.data.table import UtteranceTable
from metis_lightning.errors import UserError


def within_hours(utterances: UtteranceTable, hours: float) -> UtteranceTable:
    """Return utterances that last at most `hours` together, in the order given; all of them if they are shorter.

    Speakers are taken by hashes of their names and the utterances of each by hashes of their ids, until the next one
    would exceed the cap: as good as at random, alike on every machine and in every order of the manifest. So a speaker
    is in as a whole, save the last, and has prompts; and what fewer hours hold is part of what more hours do.

    Raises:
        UserError: if `hours` is not positive.
    """
    if not hours > 0:
        raise UserError(f"`hours` must be positive, got {hours}; leave it out to take the whole corpus")
    order = np.lexsort((utterances.names(), utterances.speaker_order()))
    taken = np.cumsum(utterances.seconds[order]) <= hours * 3600
    return utterances.where(np.sort(order[taken]))
