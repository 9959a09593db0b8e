"""Results rows: what is known and measured of one output, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import INFINITE, Column
from metis_lightning.safe_parsing import load_json

ROWS = "utterances.jsonl"

# How reasons begin that are of what the test set has or lacks: no failure of a system.
OF_THE_TEST_SET = tuple(
    f"{start} {name}" for name in ("reference", "interferer", "prompt", "source") for start in ("no", "the")
)

EDITS = ("substitutions", "deletions", "insertions")
# Quantities that are edits over a length, and what that is counted in.
ERROR_RATES = {"WER": "words", "WER_asr": "words", "CER": "characters", "CER_asr": "characters"}


class RowKey(NamedTuple):
    """Identifies a row within a run; `seed` is None where nothing is drawn."""

    test_set: str
    system: str
    seed: int | None
    id: str

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.id} of {self.system} on {self.test_set}{seed}"


@dataclass(frozen=True)
class ErrorCounts:
    """Edits behind an error rate, and the `length` of the reference in words or characters."""

    edits: int
    length: int
    # The rest is not in rows of earlier versions.
    substitutions: int | None = None
    deletions: int | None = None
    insertions: int | None = None
    # The reference and the hypothesis after normalisation.
    compared: tuple[str, str] | None = None

    def to_json(self, unit: str) -> dict[str, Any]:
        """Return a row's record, in which `unit` ("words" or "characters") names the length."""
        counts = {name: value for name, value in vars(self).items() if name != "compared" and value is not None}
        texts = {} if self.compared is None else dict(zip(("text", "hypothesis"), self.compared, strict=True))
        return {unit if name == "length" else name: count for name, count in counts.items()} | texts

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None, unit: str) -> ErrorCounts | None:
        """Return the counts that `to_json` wrote; None of a row without any."""
        if record is None:
            return None
        compared = (record["text"], record["hypothesis"]) if "hypothesis" in record else None
        return cls(record["edits"], record[unit], **{name: record.get(name) for name in EDITS}, compared=compared)


@dataclass(frozen=True)
class ResultRow:
    """One output of a system: what it was made of and how, its scores, and why it lacks some.

    The output has `n_samples` at its own `sample_rate` in Hz, took `seconds` to make, and `steps` of the samplers of
    both stages. `hypothesis` is what was heard of `text`. `facts` are what tells utterances apart: `language`,
    `seconds` of what was given, `snr_db`, `sexes` of target and interferer, `mixture` that several utterances are of.
    """

    id: str
    task: str
    test_set: str
    system: str
    seed: int | None = None
    speaker: str | None = None
    n_samples: int = 0
    seconds: float | None = None
    steps: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    text: str | None = None
    facts: Mapping[str, str | float] = field(default_factory=dict)
    # By column, as is why it has no value, or of word errors why nothing was heard or that the recogniser loops.
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    error: Mapping[str, str] = field(default_factory=dict)
    # The columns that the system is to blame for.
    failed: Sequence[str] = ()
    wer: ErrorCounts | None = None
    cer: ErrorCounts | None = None
    hypothesis: str | None = None
    # Fields that the row's file, of an earlier version, does not have.
    absent: frozenset[str] = frozenset()

    @property
    def key(self) -> RowKey:
        """What identifies the row in its run."""
        return RowKey(self.test_set, self.system, self.seed, self.id)

    @property
    def item(self) -> tuple[str, str]:
        """Test set and id: of an item there is one row a system and seed."""
        return self.test_set, self.id

    @property
    def cluster(self) -> Hashable:
        """Speaker within the test set, or the item where the speaker is unknown."""
        return self.test_set, self.speaker or self.id

    def value(self, name: str) -> float | None:
        """Return a metric; None if it has no value. A ValueError if it is not finite, which no metric may give."""
        value = self.metrics.get(name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} of {self.id} ({self.system}) is {value}")
        return value

    def counts(self, column: Column) -> ErrorCounts | None:
        """Return what an error rate was counted from; None for other metrics and without a value."""
        unit = ERROR_RATES.get(column.quantity)
        if unit is None or self.value(column.name) is None:
            return None
        return self.wer if unit == "words" else self.cer

    def to_json(self) -> dict[str, Any]:
        """Return the row as its file has it."""
        content = {name: value for name, value in vars(self).items() if name not in self.absent | {"absent"}}
        counts = {"wer": self.wer and self.wer.to_json("words"), "cer": self.cer and self.cer.to_json("characters")}
        return content | {name: record for name, record in counts.items() if name in content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ResultRow:
        """Return the row of a line of its file, whichever version wrote it; a TypeError if none did."""
        names = {each.name for each in fields(cls)} - {"absent"}
        own: dict[str, Any] = {name: value for name, value in content.items() if name in names}
        own["wer"] = ErrorCounts.from_json(content.get("wer"), "words")
        own["cer"] = ErrorCounts.from_json(content.get("cer"), "characters")
        # Earlier versions do not say whose fault an error is: what no test set is to blame for was the system's.
        innocent = (*OF_THE_TEST_SET, INFINITE)
        failed = [name for name, why in content.get("error", {}).items() if not why.startswith(innocent)]
        return cls(**{"failed": failed, **own}, absent=frozenset(names - content.keys()))


def append_rows(path: Path, *rows: ResultRow) -> None:
    """Append rows to a file, so that a run that is cut off goes on after them."""
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[ResultRow]:
    """Return the complete rows of a run's folder or of one file; none if there is no file."""
    file = path / ROWS if path.is_dir() else path
    if not file.is_file():
        return []
    # A last line without its end was cut off.
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [ResultRow.from_json(load_json(line)) for line in lines if line]


def merge_rows(files: Mapping[Path, Sequence[ResultRow]]) -> dict[RowKey, ResultRow]:
    """Return the rows of files by their keys. A `UserError` if two of one key differ in more than their `seconds`."""
    merged: dict[RowKey, tuple[Path, ResultRow]] = {}
    for path, rows in files.items():
        for row in rows:
            place, first = merged.setdefault(row.key, (path, row))
            # Alike but for the clock: a call was cut off while it merged, or two did the same work.
            if replace(first, seconds=None) != replace(row, seconds=None):
                a, b = first.to_json(), row.to_json()
                differ = sorted(key for key in a.keys() | b.keys() if key != "seconds" and a.get(key) != b.get(key))
                where = f"both in {place}" if place == path else f"in {place} and {path}"
                raise UserError(
                    f"two rows for {row.key}, {where}, differ in {', '.join(differ)}; remove the line that is wrong, "
                    "or both to have it made again, and run the same command"
                )
    return {key: row for key, (_, row) in merged.items()}
