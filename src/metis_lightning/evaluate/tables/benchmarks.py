"""The paper's tables as data: `evaluation/benchmarks/*.yaml`, one file a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import read_yaml


@dataclass(frozen=True)
class PaperRow:
    """A row as printed; a metric is a number, None, or `{mean, ci95}`."""

    test_set: str
    system: str
    metrics: Mapping[str, float | Mapping[str, float] | None]
    task: str | None = None
    train_data: str | None = None
    # The name (or names) of the system in our results that stands for it, and what these must have been made with.
    ours: str | Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Whose numbers the paper repeats.
    origin: str | None = None

    @property
    def result_names(self) -> tuple[str, ...]:
        """The names that its system may have in our results; the paper's own name is always one."""
        return (*((self.ours,) if isinstance(self.ours, str) else self.ours), self.system)


@dataclass(frozen=True)
class ColumnSpec:
    """Which column of our results stands beside one of the paper's: that of the paper's own metric model."""

    column: str
    # Why even that is not what the paper has.
    differs: str | None = None
    # From ours to the paper's numbers; None for the column's own.
    scale: float | None = None
    # The columns of test sets that the paper measures with another model.
    by_test_set: Mapping[str, str] = field(default_factory=dict)

    def at(self, test_set: str) -> ColumnSpec:
        """Return the specification for a test set of the paper's."""
        return replace(self, column=self.by_test_set.get(test_set, self.column))


@dataclass(frozen=True)
class ResultsSpec:
    """Which of our results belong to a table, and how they are shown.

    The results of `task` are listed under the paper's rows, unless another table `lists_all` of them: the `first`
    systems in this order, then the others by name, all tested against `baseline`. `test_sets` are other names of the
    paper's, `columns` are by the paper's metrics. `rows_task` is that of the paper's rows; None for `task`.
    """

    task: str
    first: Sequence[str] = ()
    baseline: str | None = None
    test_sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Mapping[str, ColumnSpec] = field(default_factory=dict)
    lists_all: bool = True
    rows_task: str | None = None

    def is_test_set(self, theirs: str, ours: str) -> bool:
        """Return whether a test set of our results is one of the paper's, whatever its case and punctuation."""
        names = (theirs, *self.test_sets.get(theirs, ()), ours)
        *plain, own = (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names)
        return own in plain


@dataclass(frozen=True)
class Note:
    """A remark on the paper's table: on all of it, or on the rows and the metric that `where` names."""

    text: str
    where: Mapping[str, str] = field(default_factory=dict)

    def is_on(self, row: PaperRow | None, metric: str | None) -> bool:
        """Return whether it is on a row's metric; on the row's name if `metric` is None, on all rows if `row` is."""
        labels = {key: value for key, value in self.where.items() if key != "metric"}
        is_row = all(row is not None and getattr(row, key, None) == value for key, value in labels.items())
        return is_row and bool(labels) == (row is not None) and self.where.get("metric") == metric


@dataclass(frozen=True)
class Benchmark:
    """One table of the paper; `name` is the file's stem."""

    name: str
    table: int
    title: str
    source: str
    measured_with: str
    rows: Sequence[PaperRow]
    ours: ResultsSpec | None = None
    notes: Sequence[Note] = ()

    def __post_init__(self) -> None:
        places = [(row, metric) for row in (None, *self.rows) for metric in (None, *self.metrics)]
        for note in self.notes:
            # A misspelt name would otherwise drop the remark from the table in silence.
            if not any(note.is_on(row, metric) for row, metric in places):
                raise ValueError(f"a note is on nothing in the table: {dict(note.where)}")

    @property
    def metrics(self) -> list[str]:
        """The metrics of all rows, in the order of the table."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def task_of(self, row: PaperRow) -> str | None:
        """Return the task of a row; None if neither it nor the table says."""
        of_table = None if self.ours is None else self.ours.rows_task or self.ours.task
        return row.task or of_table

    def remarks_on(self, row: PaperRow | None, metric: str | None) -> list[str]:
        """Return the texts of the notes on a row's metric; see `Note.is_on`."""
        return [note.text for note in self.notes if note.is_on(row, metric)]


def benchmark_folder(folder: Path) -> Path:
    """Return a folder if it is there, else that of the package, which a wheel holds and a checkout has beside `src`."""
    package = Path(__file__).resolve().parents[2]
    places = (folder, package / "benchmarks", package.parents[1] / "evaluation/benchmarks")
    return next((place for place in places if place.is_dir()), folder)


def read_benchmarks(folder: Path) -> list[Benchmark]:
    """Read every table of a folder, by number. A `UserError` if it has none, or a file that is not of this form."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            f"no *.yaml with the paper's rows in {folder}; give --benchmarks, or run from the project's folder"
        )
    return sorted((_read(path) for path in paths), key=lambda benchmark: benchmark.table)


def _read(path: Path) -> Benchmark:
    fields = read_yaml(path)
    try:
        rows, ours = fields.pop("rows"), fields.pop("ours", None)
        for row in rows:
            if not {"test_set", "system", "metrics"} <= set(row):
                raise ValueError(f"a row needs test_set, system and metrics: {row}")
        if ours is not None:
            specs = ours.pop("columns", {}).items()
            columns = {name: ColumnSpec(spec) if isinstance(spec, str) else ColumnSpec(**spec) for name, spec in specs}
            ours = ResultsSpec(**ours, columns=columns)
        rows = [PaperRow(**row) for row in rows]
        notes = [Note(note.pop("text"), note) for note in fields.pop("notes", ())]
        for origin in dict.fromkeys(row.origin for row in rows if row.origin is not None):
            text = f"Not measured by the paper's authors: the numbers are those of {origin}."
            notes.append(Note(text, {"origin": origin}))
        return Benchmark(path.stem, rows=rows, ours=ours, notes=notes, **fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of the paper: {error}") from error
