"""Means by what the utterances are like: signal-to-noise ratio, length, sexes of the two voices, language."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import Summary, summary_of

# Widths of groups: decibels; seconds up to which a group goes.
_SNR_STEP = 5
_LENGTHS = (2.0, 5.0, 10.0, math.inf)


def _snr(value: object) -> str | None:
    if not isinstance(value, (int, float)):
        return None
    low = math.floor(value / _SNR_STEP) * _SNR_STEP
    return f"[{low}, {low + _SNR_STEP}) dB"


def _length(value: object) -> str | None:
    if not isinstance(value, (int, float)):
        return None
    high = next(end for end in _LENGTHS if value < end)
    low = max((end for end in _LENGTHS if end <= value), default=0.0)
    return f"[{low:g}, {high:g}) s"


# What rows know of their utterance (`ResultRow.facts`), and the group that it makes; None without.
GROUPS: Mapping[str, Callable[[object], str | None]] = {
    "snr_db": _snr,
    "seconds": _length,
    "sexes": lambda value: value if isinstance(value, str) else None,
    "language": lambda value: value if isinstance(value, str) else None,
}


@dataclass(frozen=True)
class Breakdown:
    """A metric of a result on the utterances of one `group` of those that a fact tells apart."""

    result: Result
    by: str
    group: str
    summary: Summary


def breakdown(result: Result) -> Iterator[Breakdown]:
    """Yield each metric of a result on each group of utterances; nothing of a fact that makes one group alone."""
    for by, name_of in GROUPS.items():
        groups: dict[str, list[ResultRow]] = defaultdict(list)
        for row in result.rows:
            if (group := name_of(row.facts.get(by))) is not None:
                groups[group].append(row)
        if len(groups) < 2:
            continue
        for group in sorted(groups, key=_order):
            for summary in result.metrics.values():
                part = summary_of(groups[group], summary.column)
                if part.n:
                    yield Breakdown(result, by, group, part)


def _order(group: str) -> tuple[float, str]:
    """Return a key by which ranges stand by their lower end, other groups by name."""
    low = re.match(r"\[(-?[\d.]+),", group)
    return (float(low[1]) if low else 0.0), group
