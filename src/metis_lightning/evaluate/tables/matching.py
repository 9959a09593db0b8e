"""Our results beside the paper's rows: which result stands for which row, and by how much it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.results.estimates import too_few
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import Summary, column_by_name, word_error_rule
from metis_lightning.evaluate.tables.benchmarks import Benchmark, ColumnSpec, result_names
from metis_lightning.evaluate.tables.layout import EMPTY, INFINITY_SIGN, NOT_APPLICABLE, Cell, number

# The results of an Omni model on another task's test set stand in that task's rows.
_ANY_TASK = "omni"


@dataclass(frozen=True)
class TableValue:
    """A summary's mean and interval in the unit of a table; `mean` is None if no utterance has a finite value.

    Args:
        is_infinite: whether every value is beyond all.
        is_absent: whether nothing can have a value, which is nobody's fault.
        doubts: why there is no interval.
    """

    summary: Summary
    mean: float | None
    low: float | None
    high: float | None
    is_infinite: bool
    is_absent: bool
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, summary: Summary, word_errors: str, scale: float | None = None) -> TableValue:
        """Return a summary times `scale`, or its column's own; `word_errors` is "corpus" or "mean"."""
        factor = summary.column.scale if scale is None else scale
        values = (summary.mean, summary.ci95_low, summary.ci95_high)
        if word_errors == "corpus" and summary.corpus is not None:
            values = (summary.corpus.rate, summary.corpus.ci95_low, summary.corpus.ci95_high)
        mean, low, high = (None if value is None else factor * value for value in values)
        has_none = mean is None and not summary.n_failed
        is_infinite = has_none and summary.n_infinite > 0
        is_absent = has_none and summary.n_not_applicable > 0 and not is_infinite
        is_bare = mean is not None and low is None
        doubts = (too_few(summary.n_clusters, summary.clusters),) if is_bare else ()
        return cls(summary, mean, low, high, is_infinite, is_absent, doubts)

    def cell(self, decimals: int, notes: tuple[str, ...] = (), mark: str = "") -> Cell:
        """Return it as a cell: "∞" where all is infinite, "n/a" where nothing can have a value."""
        text = NOT_APPLICABLE if self.is_absent else EMPTY
        if self.is_infinite:
            text = INFINITY_SIGN
        elif self.mean is not None:
            # A mean is of the finite values; of how many it is not stands beside it.
            infinite = f" ({self.summary.n_infinite} {INFINITY_SIGN})" if self.summary.n_infinite else ""
            text = number(self.mean, decimals) + infinite
        interval = ""
        if self.low is not None:
            bounds = f"{number(self.low, decimals)}, {number(self.high, decimals)}"
            interval = f"[{bounds}; {self.summary.n_clusters}]"
        return Cell(text, interval, self.summary.n_failed, mark, notes)


@dataclass(frozen=True)
class PaperCell:
    """One number of the paper's with one result of ours.

    `caveats` say why the two cannot be compared, `gaps` of which utterances ours is not, or why it has no interval.
    """

    metric: str
    paper: float | None
    paper_ci95: float | None
    ours: TableValue | None = None
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
    return [result for result in _named(benchmark, row, results) if not _unmet(benchmark, row, result)]


def other_settings(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> dict[str, list[str]]:
    """Return the runs by the row's system that do not stand beside it, and which of its settings they do not have."""
    unlike = ((result, _unmet(benchmark, row, result)) for result in _named(benchmark, row, results))
    return {result.run: missing for result, missing in unlike if missing}


def _named(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result]) -> list[Result]:
    """Return the results of a row's task and test set by a system of its name."""
    ours = benchmark.ours
    if ours is None:
        return []
    place = (row["test_set"], row["system"])
    # Of two rows with one name, such as two settings of a system, results must be named after one.
    names = set(result_names(row))
    if sum((other["test_set"], other["system"]) == place for other in benchmark.rows) > 1:
        names.discard(row["system"])
    return [
        result
        for result in results
        if result.task in (benchmark.task_of(row), _ANY_TASK)
        and result.system in names
        and ours.is_test_set(row["test_set"], result.test_set)
    ]


def _unmet(benchmark: Benchmark, row: Mapping[str, Any], result: Result) -> list[str]:
    """Return which of a row's settings a result was not made with."""
    if not row.get("settings"):
        return []
    settings = result.identity.get("settings")
    if not isinstance(settings, Mapping):
        return ["its settings are not known"]
    # Of a model that serves several tasks the settings are by task.
    return list(_setting_differences(row["settings"], settings.get(benchmark.task_of(row), settings), ""))


def _setting_differences(wanted: Mapping[str, Any], actual: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in wanted.items():
        own = actual.get(name)
        if isinstance(value, Mapping):
            yield from _setting_differences(value, own if isinstance(own, Mapping) else {}, f"{where}{name}.")
        elif own != value:
            yield f"{where}{name} is {own}, the row's is {value}"


def paper_cells(benchmark: Benchmark, row: Mapping[str, Any], result: Result | None) -> list[PaperCell]:
    """Return the cells of a row with a result, one for each metric of the table."""
    cells = []
    for metric in benchmark.metrics:
        printed: float | dict[str, float] | None = row["metrics"].get(metric)
        paper, ci95 = (printed["mean"], printed["ci95"]) if isinstance(printed, dict) else (printed, None)
        cell = PaperCell(metric, paper, ci95)
        if benchmark.ours and result and metric in benchmark.ours.columns:
            cell = _with_ours(cell, benchmark.ours.columns[metric].at(row["test_set"]), result)
        cells.append(cell)
    return cells


def _with_ours(cell: PaperCell, spec: ColumnSpec, result: Result) -> PaperCell:
    """Return a cell with our number; without, if the result has no such column."""
    wanted = column_by_name(spec.column)
    # Another model's column of the same quantity stands in, with a caveat.
    others = [name for name, each in result.metrics.items() if wanted.model and each.column.quantity == wanted.quantity]
    summary = result.metrics.get(spec.column) or (result.metrics[min(others)] if others else None)
    if summary is None:
        return cell
    ours = TableValue.of(summary, word_error_rule(result.test_set), spec.scale)
    caveats = [f"{cell.metric}: {spec.differs}."] if spec.differs else []
    if summary.column.name != spec.column:
        caveats.append(
            f"{cell.metric}: another protocol than the paper's, made by {summary.column.model} and not by "
            f"{wanted.model}; the numbers are not comparable."
        )
    if result.is_limited:
        caveats.append(
            f"Run {result.run} is limited to {result.count_text} utterances: not comparable with the paper's."
        )
    gaps = []
    if summary.n_failed and 0 < summary.n < result.count - summary.n_not_applicable:
        gaps.append(f"{cell.metric}: a mean of the {summary.n} of {result.count} utterances that have a value.")
    if summary.not_applicable:
        listed = ", ".join(f"{count} × {reason}" for reason, count in summary.not_applicable.items())
        gaps.append(f"{cell.metric}: n/a for {listed}.")
    return PaperCell(cell.metric, cell.paper, cell.paper_ci95, ours, tuple(caveats), (*gaps, *ours.doubts))
