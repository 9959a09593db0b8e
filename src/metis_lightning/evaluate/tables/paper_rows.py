"""The paper's rows as a section of a table, with our results and the differences under them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.results.intervals import few_notes
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import Summary, column_by_name, word_error_rule
from metis_lightning.evaluate.tables.benchmarks import Benchmark, ColumnSpec, PaperRow
from metis_lightning.evaluate.tables.layout import Cell, Line, NoteKeys, Section, TableValue, format_number, render_text

# The columns before the paper's numbers, in their order.
LABELS = ("task", "test_set", "system", "train_data")
# Of the paper's numbers, as printed.
_DECIMALS = 2


@dataclass(frozen=True)
class PaperCell:
    """One number of the paper's with one of ours; `caveats` say why not to compare them, `gaps` what ours lacks."""

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


def results_for(benchmark: Benchmark, row: PaperRow, results: Sequence[Result]) -> list[Result]:
    """Return the results that stand beside a row of the paper's: of its task, test set, system and settings, if any."""
    return [result for result, unmet in _candidates(benchmark, row, results) if not unmet]


def _candidates(benchmark: Benchmark, row: PaperRow, results: Sequence[Result]) -> Iterator[tuple[Result, list[str]]]:
    """Yield the results by a row's task, test set and system, with which of its settings each was not made with."""
    if benchmark.ours is None:
        return
    names, task = set(row.result_names), benchmark.task_of(row)
    # The paper's name of a system stands for one row only: of two settings of a system, results are named after one.
    if sum((other.test_set, other.system) == (row.test_set, row.system) for other in benchmark.rows) > 1:
        names.discard(row.system)
    for result in results:
        # An Omni model's results on another task's test set stand in that task's rows.
        is_named = result.task in (task, "omni") and result.system in names
        if not is_named or not benchmark.ours.is_test_set(row.test_set, result.test_set):
            continue
        settings = result.identity.get("settings")
        if not row.settings:
            yield result, []
        elif not isinstance(settings, Mapping):
            yield result, ["its settings are not known"]
        else:
            # Of a model that serves several tasks the settings are by task.
            yield result, list(_setting_differences(row.settings, settings.get(task, settings), ""))


def _setting_differences(wanted: Mapping[str, Any], actual: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in wanted.items():
        own = actual.get(name)
        if isinstance(value, Mapping):
            yield from _setting_differences(value, own if isinstance(own, Mapping) else {}, f"{where}{name}.")
        elif own != value:
            yield f"{where}{name} is {own}, the row's is {value}"


def paper_cells(benchmark: Benchmark, row: PaperRow, result: Result | None) -> list[PaperCell]:
    """Return the cells of a row with a result, one for each metric of the table."""
    cells = []
    for metric in benchmark.metrics:
        printed = row.metrics.get(metric)
        paper, ci95 = (printed["mean"], printed["ci95"]) if isinstance(printed, Mapping) else (printed, None)
        cell = PaperCell(metric, paper, ci95)
        if benchmark.ours and result and metric in benchmark.ours.columns:
            cell = _with_ours(cell, benchmark.ours.columns[metric].at(row.test_set), result)
        cells.append(cell)
    return cells


def _with_ours(cell: PaperCell, spec: ColumnSpec, result: Result) -> PaperCell:
    """Return a cell with our number; without, if the result has no such column."""
    wanted = column_by_name(spec.column)
    # Another model's column of the same quantity stands in, with a caveat: of several that which has most values.
    others = [name for name, each in result.metrics.items() if wanted.model and each.column.quantity == wanted.quantity]
    most = max(others, key=lambda name: result.metrics[name].n, default="")
    summary = result.metrics.get(spec.column) or result.metrics.get(most)
    if summary is None:
        return cell
    ours = TableValue.of(summary, word_error_rule(result.test_set), spec.scale)
    caveats = [f"{cell.metric}: {spec.differs}."] if spec.differs else []
    if summary.column.name != spec.column:
        models = f"made by {summary.column.model} and not by {wanted.model}"
        caveats.append(f"{cell.metric}: another protocol than the paper's, {models}; the numbers are not comparable.")
    if result.is_limited:
        limit = f"Run {result.run} is limited to {result.count_text} utterances"
        caveats.append(f"{limit}: not comparable with the paper's.")
    gaps = []
    if summary.n_failed and 0 < summary.n < result.count - summary.n_not_applicable:
        gaps.append(f"{cell.metric}: a mean of the {summary.n} of {result.count} utterances that have a value.")
    if summary.not_applicable:
        listed = ", ".join(f"{count} × {reason}" for reason, count in summary.not_applicable.items())
        gaps.append(f"{cell.metric}: n/a for {listed}.")
    return PaperCell(cell.metric, cell.paper, cell.paper_ci95, ours, tuple(caveats), (*gaps, *ours.doubts))


def paper_section(benchmark: Benchmark, results: Sequence[Result], keys: NoteKeys) -> Section:
    """Return the section; footnotes go to `keys`."""
    label_names = [key for key in LABELS if any(getattr(row, key) is not None for row in benchmark.rows)]
    header = [Cell(name.replace("_", " ")) for name in (*label_names, "", "n")]
    for metric in benchmark.metrics:
        arrow = "↑" if column_by_name(metric).higher_is_better else "↓"
        heading = f"{metric} {'% ' if metric == 'WER' else ''}{arrow}"
        header.append(Cell(heading, notes=keys.of(*benchmark.remarks_on(None, metric))))
    matches = [results_for(benchmark, row, results) for row in benchmark.rows]
    # Rows of one test set are read against one another, so all of them must be of one protocol.
    marks = defaultdict(set)
    for result in (result for part in matches for result in part):
        marks[result.test_set].add(result.protocol.mark)
    lines: list[Line] = []
    summaries: list[Summary] = []
    for row, part in zip(benchmark.rows, matches, strict=True):
        labels = tuple(Cell(getattr(row, name)) if getattr(row, name) else Cell() for name in label_names)
        lines.append(_paper_line(benchmark, row, labels, keys))
        for result in part:
            cells = paper_cells(benchmark, row, result)
            summaries += [cell.ours.summary for cell in cells if cell.ours]
            notes = keys.of(protocol_note(result), *mixed_notes(sorted(marks[result.test_set])))
            lines += _our_lines((*labels, Cell("ours", notes=notes), Cell(result.count_text)), cells, keys)
        if not part and row.ours:
            unmet = {result.run: why for result, why in _candidates(benchmark, row, results) if why}
            notes = keys.of(*(f"Run {run} does not stand here: {'; '.join(why)}." for run, why in unmet.items()))
            lines.append(Line((*labels, Cell("ours", notes=notes), Cell()), (Cell(),) * len(benchmark.metrics), "ours"))
    rules = sorted({word_error_rule(row.test_set) for row in benchmark.rows})
    intro = render_text("paper_intro.txt", benchmark=benchmark, rules=rules)
    remarks = (*benchmark.remarks_on(None, None), *few_notes(summaries))
    return Section("The paper's rows", intro, tuple(header), len(label_names) + 1, tuple(lines), remarks, True)


def protocol_note(result: Result) -> str:
    """Return which run a result is of, and under which protocol."""
    protocol = result.protocol
    settings = ", ".join(f"{key} {value}" for key, value in protocol.settings.items())
    return (
        f"Run {result.run} on {result.test_set}: protocol {protocol.mark} ({settings}); "
        f"fingerprint of the run's protocol.json: {protocol.run_fingerprint}."
    )


def mixed_notes(marks: Sequence[str]) -> list[str]:
    """Return the warning for results of several protocols on one test set, if there are several."""
    text = f"Results of several protocols ({', '.join(marks)}) on one test set: not comparable with one another."
    return [text] if len(marks) > 1 else []


def _paper_line(benchmark: Benchmark, row: PaperRow, labels: tuple[Cell, ...], keys: NoteKeys) -> Line:
    cells = []
    for cell in paper_cells(benchmark, row, None):
        spread = "" if cell.paper_ci95 is None else f"± {format_number(cell.paper_ci95, _DECIMALS)}"
        notes = keys.of(*benchmark.remarks_on(row, cell.metric))
        cells.append(Cell(format_number(cell.paper, _DECIMALS), spread, notes=notes))
    notes = keys.of(*benchmark.remarks_on(row, None))
    return Line((*labels, Cell("paper", notes=notes), Cell()), tuple(cells), "paper")


def _our_lines(labels: tuple[Cell, ...], cells: Sequence[PaperCell], keys: NoteKeys) -> list[Line]:
    """Return a result under its labels, and its difference from the paper's row."""
    ours, differences = [], []
    for cell in cells:
        caveats, gaps = keys.of(*cell.caveats), keys.of(*cell.gaps)
        ours.append(Cell() if cell.ours is None else cell.ours.cell(_DECIMALS, (*caveats, *gaps)))
        # What makes ours incomparable is said at the difference, too; what it lacks, at ours alone.
        difference = format_number(cell.difference, _DECIMALS, signed=True)
        differences.append(Cell(difference, notes=() if cell.difference is None else caveats))
    below = (*labels[:-2], Cell("difference"), Cell())
    return [Line(labels, tuple(ours), "ours"), Line(below, tuple(differences), "difference")]
