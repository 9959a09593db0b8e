"""The paper's tables as data: `evaluation/benchmarks/*.yaml`, one file a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import read_yaml

# What names a row of the paper's, in the order of columns.
LABELS = ("task", "test_set", "system", "train_data")


@dataclass(frozen=True)
class ColumnSpec:
    """Which column of our results stands beside one of the paper's: that of the paper's own metric model.

    `differs` says why even that is not what the paper has. The paper's numbers are ours times `scale`, or the column's
    own. `by_test_set` has the columns of test sets that the paper measures with another model.
    """

    column: str
    differs: str | None = None
    scale: float | None = None
    by_test_set: Mapping[str, str] = field(default_factory=dict)

    def at(self, test_set: str) -> ColumnSpec:
        """Return the specification for a test set of the paper's."""
        return replace(self, column=self.by_test_set.get(test_set, self.column))


@dataclass(frozen=True)
class ResultsSpec:
    """Which of our results belong to a table, and how they are shown.

    Args:
        task: whose results are listed under the paper's rows, unless another table `lists_all` of them.
        first: the systems that come first there, in this order; the others follow by name.
        baseline: the system that the others are tested against.
        test_sets: other names that a test set of the paper's may have in our results.
        columns: by the paper's metrics.
        rows_task: of which task the paper's rows are, where they do not say it; None for `task`.
    """

    task: str
    first: tuple[str, ...] = ()
    baseline: str | None = None
    test_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
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

    def is_on(self, row: Mapping[str, Any], metric: str | None) -> bool:
        """Return whether the remark is on a row's metric; on the row's name if `metric` is None."""
        labels = {key: value for key, value in self.where.items() if key != "metric"}
        is_row = bool(labels) and all(row.get(key) == value for key, value in labels.items())
        return is_row and self.where.get("metric") == metric

    def is_on_column(self, metric: str) -> bool:
        """Return whether the remark is on a metric, in all rows."""
        return dict(self.where) == {"metric": metric}


@dataclass(frozen=True)
class Benchmark:
    """One table of the paper.

    `rows` are as printed: `test_set, system, metrics`, where given `task` and `train_data`; `ours`, the name (or names)
    of the system in our results that stands for it; `settings`, which those results must have been made with; and
    `origin`, whose numbers the paper repeats. A metric is a number, null, or `{mean, ci95}`. `name` is the file's stem.
    """

    name: str
    table: int
    title: str
    source: str
    measured_with: str
    rows: tuple[dict[str, Any], ...]
    ours: ResultsSpec | None = None
    notes: tuple[Note, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Return which of `LABELS` the rows have."""
        return [key for key in LABELS if any(key in row for row in self.rows)]

    @property
    def metrics(self) -> list[str]:
        """Return the metrics of all rows, in the order of the table."""
        return list(dict.fromkeys(name for row in self.rows for name in row["metrics"]))

    def task_of(self, row: Mapping[str, Any]) -> str | None:
        """Return the task that a row is of; None if neither it nor the table says."""
        return row.get("task", self.ours and (self.ours.rows_task or self.ours.task))


def read_benchmarks(folder: Path) -> list[Benchmark]:
    """Read every table of a folder, in the order of their numbers.

    Raises:
        UserError: there is no such folder, no table in it, or a file that is not of this form.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            f"no *.yaml with the paper's rows in {folder}; give --benchmarks, or run from the project's folder"
        )
    return sorted((_read(path) for path in paths), key=lambda benchmark: benchmark.table)


def result_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that a row's system may have in our results; the paper's own name is always one."""
    named = row.get("ours", ())
    return (*((named,) if isinstance(named, str) else named), row["system"])


def origin_notes(row: Mapping[str, Any]) -> list[str]:
    """Return the remark that a row's numbers are repeated from elsewhere; none if they are not."""
    named = f"Not measured by the paper's authors: the numbers are those of {row.get('origin')}."
    return [named] if "origin" in row else []


def _read(path: Path) -> Benchmark:
    fields = read_yaml(path)
    try:
        ours = fields.pop("ours", None)
        benchmark = Benchmark(
            name=path.stem,
            rows=tuple(fields.pop("rows")),
            ours=None if ours is None else _results_spec(ours),
            notes=tuple(Note(note.pop("text"), note) for note in fields.pop("notes", ())),
            **fields,
        )
        _check(benchmark)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of the paper: {error}") from error
    return benchmark


def _results_spec(fields: dict[str, Any]) -> ResultsSpec:
    columns = {
        metric: ColumnSpec(spec) if isinstance(spec, str) else ColumnSpec(**spec)
        for metric, spec in fields.pop("columns", {}).items()
    }
    test_sets = {name: tuple(others) for name, others in fields.pop("test_sets", {}).items()}
    return ResultsSpec(**{**fields, "first": tuple(fields.get("first", ()))}, columns=columns, test_sets=test_sets)


def _check(benchmark: Benchmark) -> None:
    """Refuse rows without their fields, and a remark that is on nothing."""
    for row in benchmark.rows:
        if not {"test_set", "system", "metrics"} <= set(row):
            raise ValueError(f"a row needs test_set, system and metrics: {row}")
    # A misspelt name would otherwise drop the remark from the table in silence.
    metrics = benchmark.metrics
    for note in benchmark.notes:
        on_row = any(note.is_on(row, metric) for row in benchmark.rows for metric in (None, *metrics))
        if note.where and not on_row and not any(note.is_on_column(metric) for metric in metrics):
            raise ValueError(f"a note is on nothing in the table: {dict(note.where)}")
