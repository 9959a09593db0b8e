"""A metric: the columns that it declares, the values that it gives, and the reasons where it gives none.

Imports neither numpy nor torch, since tables and pages read the reasons, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from metis_lightning.metrics.column import Column

if TYPE_CHECKING:
    from metis_lightning.metrics.protocols import SuiteOptions
    from metis_lightning.metrics.signal import ScoringItem
    from metis_lightning.task_table import Task

INFINITE = "SI-SDR is infinite: the signal is the reference or a multiple of it"
"""The reason of what has no value because it is beyond all: JSON has no infinity, so rows say it in words."""


class MetricError(Exception):
    """A metric has no value for an utterance, by its audio or text; the message is the reason that results show."""


@dataclass(frozen=True)
class MetricValue:
    """A finite `value`, or None with the reason in `error`."""

    value: float | None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError(f"either a value or an error is needed: {self}")


@dataclass(frozen=True)
class ErrorRate(MetricValue):
    """A rate of errors with its counts; unlike other values it may stand beside an error.

    Where nothing can be transcribed, all words are deleted, and `error` says why. A loop of the recogniser may count as
    no more than that: then `is_loop`, and `error` describes it. Null means that there is no text to compare with, or
    nothing that knows its language: no fault of who spoke.

    `edits` are those counted; how they divide is as transcribed, so a capped loop has more of them. `length` is that of
    the reference, in words or characters.
    """

    edits: int | None = None
    length: int | None = None
    substitutions: int | None = None
    deletions: int | None = None
    insertions: int | None = None
    is_loop: bool = False

    def __post_init__(self) -> None:
        if self.value is None and self.error is None:
            raise ValueError(f"a value or an error is needed: {self}")
        if (self.value is None) != (self.edits is None):
            raise ValueError(f"a rate and its counts are needed together: {self}")


@dataclass(frozen=True)
class WerValue(ErrorRate):
    """A word error rate (edits / words, a fraction), and the texts that were compared.

    hypothesis: the transcript, None if nothing was transcribed.
    compared: the reference and the hypothesis after normalisation, words separated by blanks.
    reference: the transcript of a recording that stands in for the text.
    """

    hypothesis: str | None = None
    compared: tuple[str, str] | None = None
    reference: str | None = None


@dataclass(frozen=True)
class CerValue(ErrorRate):
    """A character error rate (edits / characters, a fraction)."""


class UtteranceMetric(ABC):
    """One measure of utterances. Those that a module of this package defines are part of every `Suite`.

    columns: those that its values may have.
    order: where they stand in results rows.
    packages: distributions whose versions are recorded.
    keeps_timing: whether it is for tasks alone whose results keep the reference's timing.
    models: files with their hashes, by what they are for.
    definition: what decides its numbers beside models, as plain JSON values.
    """

    columns: tuple[Column, ...] = ()
    order: ClassVar[int] = 100
    packages: ClassVar[tuple[str, ...]] = ()
    keeps_timing: ClassVar[bool] = False
    models: Mapping[str, Any] = {}
    definition: Mapping[str, Any] = {}

    def __init__(self, options: SuiteOptions, task: Task) -> None:
        """Load the models, by options in which the protocol is filled in; here, look for the packages."""
        from metis_lightning.metrics.model_files import require

        # A missing package ends a run before hours are spent.
        for package in self.packages:
            require(package, "eval")

    def applies_to(self, task: Task) -> bool:
        """Return whether it means something for a task."""
        return task.is_aligned or not self.keeps_timing

    @abstractmethod
    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return values by the names of columns, null with a reason where the item has none."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the numbers, as plain JSON values: the models and the definition."""
        return {"models": self.models, **self.definition}


def measure(
    columns: Sequence[Column], score: Callable[..., float | Sequence[float]], *arguments: object
) -> dict[str, MetricValue]:
    """Return a value per column from `score(*arguments)`, or the reason of its `MetricError` in each of them."""
    try:
        scores = score(*arguments)
    except MetricError as error:
        return {column.name: MetricValue(None, str(error)) for column in columns}
    values = [scores] if isinstance(scores, float) else scores
    return {column.name: MetricValue(float(value)) for column, value in zip(columns, values, strict=True)}


def error_rates_of(values: Mapping[str, MetricValue]) -> tuple[WerValue, CerValue]:
    """Return the word and the character error rate of a scored utterance; null if word errors were left out."""
    left_out = "word errors were not asked for"
    wer = next((value for value in values.values() if isinstance(value, WerValue)), WerValue(None, left_out))
    cer = next((value for value in values.values() if isinstance(value, CerValue)), CerValue(None, left_out))
    return wer, cer
