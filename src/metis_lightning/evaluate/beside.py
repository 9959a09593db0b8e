"""Our results beside the paper's rows: which result stands for which row, and by how much it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.benchmarks import Benchmark, OurColumn, Ours, our_names
from metis_lightning.evaluate.columns import Column
from metis_lightning.evaluate.runs import Result

# What an Omni model reached on another task's test set stands in that task's rows.
_ANY_TASK = "omni"


@dataclass(frozen=True)
class Measured:
    """One metric of a result in the unit of its table; `mean` is None if no utterance has a value."""

    column: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int

    @classmethod
    def of(cls, metrics: Mapping[str, dict[str, Any]], column: str, scale: float, word_errors: str) -> Measured:
        """Return a metric of a summary, times `scale`; `word_errors` is "corpus" or "mean"."""
        record = metrics[column]
        corpus = word_errors == "corpus" and "corpus" in record
        names = ("corpus", "corpus_ci95_low", "corpus_ci95_high") if corpus else ("mean", "ci95_low", "ci95_high")
        mean, low, high = (None if record[name] is None else scale * record[name] for name in names)
        return cls(column, mean, low, high, record["n"], record["n_failed"])


@dataclass(frozen=True)
class Beside:
    """One cell of the paper's with one result of ours; `caveats` say why the two are not of one protocol."""

    metric: str
    paper: float | None
    paper_ci95: float | None
    ours: Measured | None = None
    caveats: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.paper is None or self.ours is None or self.ours.mean is None:
            return None
        return self.ours.mean - self.paper


def results_for(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> list[Result]:
    """Return the results that stand beside a row of the paper's: of its task, on its test set, by its system.

    The paper's own name of a system stands for one row only: where several rows have it, it is nobody's.
    """
    ours = benchmark.ours
    if ours is None:
        return []
    names = set(our_names(row))
    alike = [
        other for other in benchmark.rows if (other["test_set"], other["system"]) == (row["test_set"], row["system"])
    ]
    if len(alike) > 1:
        names.discard(row["system"])
    return [
        result
        for result in results
        if result.task in (row.get("task", ours.rows_task or ours.task), _ANY_TASK)
        and result.system in names
        and ours.is_test_set(row["test_set"], result.test_set)
    ]


def beside(benchmark: Benchmark, row: Mapping[str, Any], result: Result | None) -> list[Beside]:
    """Return the cells of a row with a result, one for each metric of the table."""
    return [_cell(benchmark.ours, metric, row, result) for metric in benchmark.metrics]


def _cell(ours: Ours | None, metric: str, row: Mapping[str, Any], result: Result | None) -> Beside:
    """Return one cell."""
    printed: float | dict[str, float] | None = row["metrics"].get(metric)
    paper, ci95 = (printed["mean"], printed["ci95"]) if isinstance(printed, dict) else (printed, None)
    spec = ours.columns[metric].at(row["test_set"]) if ours and metric in ours.columns else None
    column = None if spec is None or result is None else _stand_in(spec, result.metrics)
    if ours is None or spec is None or result is None or column is None:
        return Beside(metric, paper, ci95)
    scale = Column.of(column).scale if spec.scale is None else spec.scale
    measured = Measured.of(result.metrics, column, scale, ours.word_errors)
    return Beside(metric, paper, ci95, measured, _caveats(metric, spec, column))


def _stand_in(spec: OurColumn, metrics: Mapping[str, Any]) -> str | None:
    """Return the column of the paper's metric model, or else the first of the same quantity by another model."""
    if spec.column in metrics:
        return spec.column
    wanted = Column.of(spec.column)
    others = [name for name in metrics if wanted.model and Column.of(name).quantity == wanted.quantity]
    return min(others, default=None)


def _caveats(metric: str, spec: OurColumn, column: str) -> tuple[str, ...]:
    """Return why our column is not what the paper has in this place."""
    found = [f"{metric}: {spec.differs}."] if spec.differs else []
    if column != spec.column:
        found.append(
            f"{metric}: another protocol than the paper's, made by {Column.of(column).model} and not by "
            f"{Column.of(spec.column).model}; the numbers are not comparable."
        )
    return tuple(found)
