"""A metric: the columns that it declares, the values that it gives, and the reasons where it gives none.

Imports neither numpy nor torch: tables and pages read columns and reasons, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from metis_lightning.metrics.protocols import SuiteOptions
    from metis_lightning.metrics.signal import ScoringItem
    from metis_lightning.task_table import Task

INFINITE = "SI-SDR is infinite: the signal is the reference or a multiple of it"
"""The reason of what has no value because it is beyond all: JSON has no infinity, so rows say it in words."""


@dataclass(frozen=True)
class Column:
    """One column of results rows.

    name: as in rows and summaries, e.g. "SIM_target_ge2e".
    quantity: what is measured, e.g. "SIM_target".
    unit: in which it is shown: "%" (its values are fractions), "dB", or empty for a score.
    model: the recogniser or speaker encoder whose measure it is, e.g. "ge2e"; None where the quantity says all.

    >>> Column.by_model("WER", "tiny.en", unit="%", higher_is_better=False).title
    'WER % (tiny.en) ↓'
    >>> Column("DNSMOS_SIG", "DNSMOS_SIG").title
    'DNSMOS SIG ↑'
    """

    name: str
    quantity: str
    unit: str = ""
    higher_is_better: bool = True
    model: str | None = None

    @classmethod
    def by_model(cls, quantity: str, model: str, unit: str = "", higher_is_better: bool = True) -> Column:
        """Return the column of a quantity that a model measures; its name ends in the model's."""
        return cls(f"{quantity}_{model}", quantity, unit, higher_is_better, model)

    @property
    def scale(self) -> float:
        """Factor from a value to a number in `unit`."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def is_word_errors(self) -> bool:
        """Whether it is a word error rate, beside which rows have edits and words."""
        return self.quantity in ("WER", "WER_asr")

    @property
    def label(self) -> str:
        """The quantity with its model in brackets."""
        words = self.quantity.replace("_", " ")
        return f"{words} ({self.model})" if self.model else words

    @property
    def title(self) -> str:
        """The label with the unit and the direction that is better."""
        words = [self.quantity.replace("_", " "), self.unit, f"({self.model})" if self.model else ""]
        return " ".join([*filter(None, words), "↑" if self.higher_is_better else "↓"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields but the name, under which files keep them."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_json(cls, name: str, fields: Mapping[str, Any]) -> Column:
        """Return the column that `to_json` described."""
        return cls(name, fields["quantity"], fields["unit"], fields["higher_is_better"], fields["model"])


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

    Where nothing can be transcribed, all words are deleted, and `error` says why; if `is_loop`, it describes the loop.
    Null means that there is no text to compare with, or nothing that knows its language: no fault of who spoke.
    `edits` are as counted, their parts as transcribed; `length` is that of the reference, in words or characters.
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
    """A word error rate (edits / words, a fraction), and the transcript, None if nothing was transcribed."""

    hypothesis: str | None = None
    # The reference and the hypothesis after normalisation, words separated by blanks.
    compared: tuple[str, str] | None = None
    # The transcript of a recording that stands in for the text.
    reference: str | None = None


@dataclass(frozen=True)
class CerValue(ErrorRate):
    """A character error rate (edits / characters, a fraction)."""


class UtteranceMetric(ABC):
    """One measure of utterances. Those that a module of this package defines are part of every `Suite`.

    columns: those that its values may have.
    order: where they stand in results rows.
    packages: distributions whose versions are recorded; `extra` are the optional dependencies that bring them.
    keeps_timing: whether it is for tasks alone whose results keep the reference's timing.
    is_of_absent: whether it is for mixtures that do not hold the wanted voice, of which no other metric says anything.
    models: files with their hashes, by what they are for.
    definition: what decides its numbers beside models, as plain JSON values.
    """

    columns: tuple[Column, ...] = ()
    order: ClassVar[int] = 100
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "eval"
    keeps_timing: ClassVar[bool] = False
    is_of_absent: ClassVar[bool] = False
    models: Mapping[str, Any] = {}
    definition: Mapping[str, Any] = {}

    def __init__(self, options: SuiteOptions, task: Task) -> None:
        """Load the models, by options in which the protocol is filled in; here, look for the packages."""
        from metis_lightning.metrics.model_files import require

        # A missing package ends a run before hours are spent.
        for package in self.packages:
            require(package, self.extra)

    def applies_to(self, task: Task) -> bool:
        """Return whether it means something for a task."""
        return task.is_aligned or not self.keeps_timing

    @abstractmethod
    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return values by the names of columns, null with a reason where the item has none."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the numbers, as plain JSON values: the models and the definition."""
        return {"models": self.models, **self.definition}


class OptionalMetric(UtteranceMetric):
    """A metric that a suite has if it is asked for, as KIND or KIND:SOURCE (see `requested`).

    kind: its name there.
    takes: what the source is; empty if it takes none. In brackets if it may be left out.
    """

    kind: ClassVar[str]
    takes: ClassVar[str] = ""

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        """Load the models; a `UserError` if one is missing."""
        super().__init__(options, task)

    def value(self, item: ScoringItem) -> float | Sequence[float]:
        """Return the number of each column. A `MetricError` where the item has none."""
        raise NotImplementedError

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the values, or the reason why there are none."""
        return measure(self.columns, self.value, item)


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
