"""Our results beside the paper's rows: which result stands for which row, and by how much it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.results.columns import Column, word_errors_of
from metis_lightning.evaluate.results.intervals import too_few
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.tables.benchmarks import Benchmark, OurColumn, Ours, our_names
from metis_lightning.evaluate.tables.layout import EMPTY, INFINITE, NOT_APPLICABLE, Cell, interval, number

# What an Omni model reached on another task's test set stands in that task's rows.
_ANY_TASK = "omni"


@dataclass(frozen=True)
class Measured:
    """One metric of a result in the unit of its table; `mean` is None if no utterance has a finite value.

    `clusters` are what the interval is over, "speakers" or "utterances", and `n_clusters` how many.
    """

    column: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int
    n_infinite: int
    n_not_applicable: int
    n_clusters: int
    clusters: str

    @classmethod
    def of(cls, metrics: Mapping[str, dict[str, Any]], column: str, scale: float, word_errors: str) -> Measured:
        """Return a metric of a summary, times `scale`; `word_errors` is "corpus" or "mean"."""
        record = metrics[column]
        corpus = word_errors == "corpus" and "corpus" in record
        names = ("corpus", "corpus_ci95_low", "corpus_ci95_high") if corpus else ("mean", "ci95_low", "ci95_high")
        mean, low, high = (None if record[name] is None else scale * record[name] for name in names)
        counts = {
            f"n{name}": record[f"n{name}"] for name in ("", "_failed", "_infinite", "_not_applicable", "_clusters")
        }
        return cls(column, mean, low, high, clusters=record["clusters"], **counts)

    def cell(self, decimals: int, notes: tuple[str, ...] = (), mark: str = "") -> Cell:
        """Return it as a cell: "∞" where all is infinite, "n/a" where nothing can have a value."""
        if self.is_infinite:
            text = INFINITE
        elif self.mean is not None:
            infinite = f" ({self.n_infinite} {INFINITE})" if self.n_infinite else ""
            text = number(self.mean, decimals) + infinite
        else:
            text = NOT_APPLICABLE if self.is_absent else EMPTY
        bounds = interval(self.low, self.high, decimals, self.n_clusters)
        return Cell(text, bounds, self.n_failed, mark, notes)

    @property
    def is_infinite(self) -> bool:
        """Whether every value is beyond all."""
        return self.mean is None and self.n_infinite > 0 and not self.n_failed

    @property
    def is_absent(self) -> bool:
        """Whether nothing can have a value, which is nobody's fault."""
        return self.mean is None and self.n_not_applicable > 0 and not self.n_failed and not self.n_infinite

    @property
    def doubts(self) -> list[str]:
        """Say why there is no interval."""
        return [too_few(self.n_clusters, self.clusters)] if self.mean is not None and self.low is None else []


@dataclass(frozen=True)
class Beside:
    """One cell of the paper's with one result of ours.

    `caveats` say why the two cannot be compared, `gaps` of which utterances ours is not, or why it has no interval.
    """

    metric: str
    paper: float | None
    paper_ci95: float | None
    ours: Measured | None = None
    caveats: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.paper is None or self.ours is None or self.ours.mean is None:
            return None
        return self.ours.mean - self.paper


def results_for(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> list[Result]:
    """Return the results that stand beside a row of the paper's: of its task, on its test set, by its system.

    Where the row has settings, they were made with these. The paper's own name of a system stands for one row only:
    where several rows have it, it is nobody's.
    """
    return [result for result in _named(benchmark, row, results) if not unmet(benchmark, row, result)]


def set_otherwise(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> dict[str, list[str]]:
    """Return the runs by the row's system that do not stand beside it, and which of its settings they do not have."""
    unlike = ((result, unmet(benchmark, row, result)) for result in _named(benchmark, row, results))
    return {result.run: missing for result, missing in unlike if missing}


def unmet(benchmark: Benchmark, row: Mapping[str, Any], result: Result) -> list[str]:
    """Return what of a row's settings a result was not made with."""
    if not row.get("settings"):
        return []
    found = result.identity.get("settings")
    if not isinstance(found, Mapping):
        return ["its settings are not known"]
    task = row.get("task", benchmark.ours and (benchmark.ours.rows_task or benchmark.ours.task))
    return list(_unmet(row["settings"], found.get(task, found), ""))


def _unmet(wanted: Mapping[str, Any], found: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in wanted.items():
        own = found.get(name)
        if isinstance(value, Mapping):
            yield from _unmet(value, own if isinstance(own, Mapping) else {}, f"{where}{name}.")
        elif own != value:
            yield f"{where}{name} is {own}, the row's is {value}"


def _named(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> list[Result]:
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
    measured = Measured.of(result.metrics, column, scale, word_errors_of(result.test_set))
    caveats = _caveats(metric, spec, column, result)
    return Beside(metric, paper, ci95, measured, caveats, _gaps(metric, measured, result))


def _stand_in(spec: OurColumn, metrics: Mapping[str, Any]) -> str | None:
    """Return the column of the paper's metric model, or else the first of the same quantity by another model."""
    if spec.column in metrics:
        return spec.column
    wanted = Column.of(spec.column)
    others = [name for name in metrics if wanted.model and Column.of(name).quantity == wanted.quantity]
    return min(others, default=None)


def _gaps(metric: str, measured: Measured, result: Result) -> tuple[str, ...]:
    """Return of which utterances a mean is not, and why it has no interval."""
    found = []
    record = result.metrics[measured.column]
    if measured.n_failed and 0 < measured.n < result.count - measured.n_not_applicable:
        found.append(f"{metric}: a mean of the {measured.n} of {result.count} utterances that have a value.")
    if reasons := record["not_applicable"]:
        listed = ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
        found.append(f"{metric}: n/a for {listed}.")
    return (*found, *measured.doubts)


def _caveats(metric: str, spec: OurColumn, column: str, result: Result) -> tuple[str, ...]:
    """Return why our column is not what the paper has in this place."""
    found = [f"{metric}: {spec.differs}."] if spec.differs else []
    if column != spec.column:
        found.append(
            f"{metric}: another protocol than the paper's, made by {Column.of(column).model} and not by "
            f"{Column.of(spec.column).model}; the numbers are not comparable."
        )
    if result.is_limited:
        found.append(f"Run {result.run} is limited to {result.count_text} utterances: not comparable with the paper's.")
    return tuple(found)
