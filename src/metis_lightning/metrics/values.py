"""What a metric gave for one utterance: a value, or null and the reason. Never both, never neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metis_lightning.metrics.errors import MetricError


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
class WerValue(MetricValue):
    """A word error rate (`value` is edits / words, a fraction) with its counts and what was heard.

    `hypothesis` is None if nothing was transcribed; it may be given beside an error.
    """

    edits: int | None = None
    words: int | None = None
    hypothesis: str | None = None


@dataclass(frozen=True)
class CerValue(MetricValue):
    """A character error rate (edits / characters, a fraction) with its counts."""

    edits: int | None = None
    characters: int | None = None


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
    found = [value for value in values.values() if isinstance(value, WerValue)]
    return found[0] if found else WerValue(None, "word errors were not asked for")
