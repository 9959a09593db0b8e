"""Why an utterance has no value of a metric.

What a metric gave for one utterance: a value, or null and the reason; for rates of errors maybe both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

INFINITE = "SI-SDR is infinite: the signal is the reference or a multiple of it"
"""The reason of what has no value because it is beyond all: JSON has no infinity, so rows say it in words."""


class MetricError(Exception):
    """A metric has no value for this utterance; the message is the reason that results show.

    It is raised for what is wrong with the audio or the text (silence, too short, not English), never for a missing
    package or file, which is a `UserError`.
    """


Rate = TypeVar("Rate", bound="ErrorRate")


@dataclass(frozen=True)
class MetricValue:
    """A finite `value`, or None with the reason in `error`."""

    value: float | None
    error: str | None = None

    def __post_init__(self) -> None:
        """Refuse a value beside an error, and neither of the two."""
        if (self.value is None) == (self.error is None):
            raise ValueError(f"either a value or an error is needed: {self}")


@dataclass(frozen=True)
class ErrorRate(MetricValue):
    """A rate of errors with its counts; unlike other values it may stand beside an error.

    Where nothing can be heard, the worst is known: all words are deleted, and `error` says why nothing was heard. A
    loop of the recogniser may count as no more than that: then `is_loop`, and `error` describes it. Null means that
    there is no text to compare with, or nothing that knows its language: no fault of who spoke.

    `edits` are those counted; how they divide is as heard, so a capped loop has more of them.
    """

    edits: int | None = None
    length: int | None = None
    substitutions: int | None = None
    deletions: int | None = None
    insertions: int | None = None
    is_loop: bool = False

    def __post_init__(self) -> None:
        """Refuse neither a value nor an error, and a value without its counts."""
        if self.value is None and self.error is None:
            raise ValueError(f"a value or an error is needed: {self}")
        if (self.value is None) != (self.edits is None):
            raise ValueError(f"a rate and its counts are needed together: {self}")


@dataclass(frozen=True)
class WerValue(ErrorRate):
    """A word error rate (edits / words, a fraction), what was heard, and the two texts as they were compared.

    `hypothesis` is None if nothing was transcribed. `compared` are the reference and the hypothesis after
    normalisation, words separated by blanks. `reference` is what was heard in a recording that stands in for the text.
    """

    hypothesis: str | None = None
    compared: tuple[str, str] | None = None
    reference: str | None = None

    @property
    def words(self) -> int | None:
        """Words of the reference."""
        return self.length


@dataclass(frozen=True)
class CerValue(ErrorRate):
    """A character error rate (edits / characters, a fraction)."""

    @property
    def characters(self) -> int | None:
        """Characters of the reference."""
        return self.length


def measure(columns: tuple[str, ...], score: Callable[[], tuple[float, ...]]) -> dict[str, MetricValue]:
    """Return a value per column from `score()`, or the reason of its `MetricError` in each of them."""
    try:
        return {column: MetricValue(float(value)) for column, value in zip(columns, score(), strict=True)}
    except MetricError as error:
        return {column: MetricValue(None, str(error)) for column in columns}


def word_errors_of(values: Mapping[str, MetricValue]) -> WerValue:
    """Return the word error rate of a scored utterance: its one column that is a `WerValue`.

    It is null without a hypothesis if word errors were left out.
    """
    return next(_of_kind(WerValue, values), WerValue(None, "word errors were not asked for"))


def character_errors_of(values: Mapping[str, MetricValue]) -> CerValue:
    """Return the character error rate of a scored utterance; null if word errors were left out."""
    return next(_of_kind(CerValue, values), CerValue(None, "word errors were not asked for"))


def _of_kind(kind: type[Rate], values: Mapping[str, MetricValue]) -> Iterator[Rate]:
    return (value for value in values.values() if isinstance(value, kind))
