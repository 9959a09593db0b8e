"""The paper's rows as a section of a table, with our results and the differences under them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.results.columns import Column, word_errors_of
from metis_lightning.evaluate.results.intervals import few_notes
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.tables.benchmarks import Benchmark, origin_of
from metis_lightning.evaluate.tables.layout import EMPTY, NOT_APPLICABLE, Cell, Line, Notes, Section, number
from metis_lightning.evaluate.tables.matching import Beside, beside, results_for, set_otherwise

_DECIMALS = 2  # as the paper prints


def paper_section(benchmark: Benchmark, results: Sequence[Result], notes: Notes) -> Section:
    """Return the section; what is remarked on goes to `notes`."""
    headings = tuple(_heading(benchmark, metric, notes) for metric in benchmark.metrics)
    beside_rows = [results_for(benchmark, row, results) for row in benchmark.rows]
    marks = defaultdict(set)
    for result in itertools.chain(*beside_rows):
        marks[result.test_set].add(result.protocol.mark)
    lines: list[Line] = []
    for row, found in zip(benchmark.rows, beside_rows, strict=True):
        lines.append(_paper_line(benchmark, row, notes))
        for result in found:
            lines += _our_lines(benchmark, row, result, sorted(marks[result.test_set]), notes)
        if not found and "ours" in row:
            lines.append(_empty_line(benchmark, row, results, notes))
    labels = [label.replace("_", " ") for label in benchmark.labels]
    return Section(
        title="The paper's rows",
        intro=_intro(benchmark),
        label_names=(*labels, "", "n"),
        column_names=headings,
        lines=tuple(lines),
        remarks=(*(note.text for note in benchmark.notes if not note.where), *_few(benchmark, beside_rows)),
    )


def _empty_line(benchmark: Benchmark, row: Mapping[str, Any], results: Sequence[Result], notes: Notes) -> Line:
    """Return the line of a row that no result stands beside, with why those of its system do not."""
    unlike = set_otherwise(benchmark, row, results)
    keys = tuple(notes.key(f"Run {run} does not stand here: {'; '.join(why)}.") for run, why in unlike.items())
    return _line(benchmark, row, "ours", Cell(), [Cell() for _ in benchmark.metrics], keys)


def _few(benchmark: Benchmark, found: Sequence[Sequence[Result]]) -> list[str]:
    """Return how far the intervals can be trusted, if any is over few speakers."""
    cells = (
        (result, cell.ours.column)
        for row, results in zip(benchmark.rows, found, strict=True)
        for result in results
        for cell in beside(benchmark, row, result)
        if cell.ours is not None
    )
    return few_notes(result.metrics[column] for result, column in cells)


def protocol_note(result: Result) -> str:
    """Return which run a result is of, and under which protocol."""
    protocol = result.protocol
    settings = ", ".join(f"{key} {value}" for key, value in protocol.settings.items())
    return (
        f"Run {result.run} on {result.test_set}: protocol {protocol.mark} ({settings}); "
        f"fingerprint of the run's protocol.json: {protocol.run_fingerprint}."
    )


def mixed_note(marks: Sequence[str]) -> str:
    """Return the warning for results of several protocols in one place."""
    return f"Results of several protocols ({', '.join(marks)}) on one test set: not comparable with one another."


def _intro(benchmark: Benchmark) -> str:
    """Return what the numbers of this section are."""
    copied = ", but for rows with a note on their origin" if any("origin" in row for row in benchmark.rows) else ""
    text = f"As printed in {benchmark.source}, measured by its authors ({benchmark.measured_with}){copied}."
    if benchmark.ours is None:
        return f"{text} Data only: listening tests are not repeated here."
    rules = {word_errors_of(row["test_set"]) for row in benchmark.rows}
    counted = {"corpus": "all edits over all words", "mean": "the mean over utterances, as Seed-TTS-eval counts"}
    counted_so = "; on Seed-TTS's lists ".join(counted[rule] for rule in sorted(rules))
    word_errors = f"our WER is {counted_so}, with all words deleted where nothing can be heard; "
    return (
        f"{text} Under them ours with the 95% interval and the number of speakers that it is over (utterances where "
        "speakers are not known), and ours minus the paper's: "
        f"{word_errors if 'WER' in benchmark.metrics else ''}n is the number of utterances, {EMPTY} has not been "
        f"measured, {NOT_APPLICABLE} cannot be. "
        "Numbers with a note on another protocol are not comparable with the paper's."
    )


def _heading(benchmark: Benchmark, metric: str, notes: Notes) -> Cell:
    """Return the name of a metric with its remarks."""
    keys = tuple(notes.key(note.text) for note in benchmark.notes if note.is_on_column(metric))
    unit = "% " if metric == "WER" else ""
    return Cell(f"{metric} {unit}{'↑' if Column.of(metric).higher_is_better else '↓'}", notes=keys)


def _paper_line(benchmark: Benchmark, row: Mapping[str, Any], notes: Notes) -> Line:
    """Return a row as printed, with its remarks."""

    def keys(metric: str | None) -> tuple[str, ...]:
        found = [note.text for note in benchmark.notes if note.is_on(row, metric)]
        return tuple(map(notes.key, [*found, *(origin_of(row) if metric is None else ())]))

    cells = [
        Cell(number(cell.paper, _DECIMALS), _spread(cell), notes=keys(cell.metric))
        for cell in beside(benchmark, row, None)
    ]
    return _line(benchmark, row, "paper", Cell(), cells, keys(None))


def _spread(cell: Beside) -> str:
    """Return the interval that the paper prints."""
    return "" if cell.paper_ci95 is None else f"± {number(cell.paper_ci95, _DECIMALS)}"


def _our_lines(
    benchmark: Benchmark, row: Mapping[str, Any], result: Result, marks: Sequence[str], notes: Notes
) -> list[Line]:
    """Return a result, and its difference from the row; `marks` are the protocols of all results on its test set."""
    keys = [notes.key(protocol_note(result))]
    if len(marks) > 1:
        keys.append(notes.key(mixed_note(marks)))
    ours, differences = [], []
    for cell in beside(benchmark, row, result):
        caveats = tuple(notes.key(text) for text in cell.caveats)
        ours.append(Cell() if cell.ours is None else cell.ours.cell(_DECIMALS, (*caveats, *map(notes.key, cell.gaps))))
        difference = number(cell.difference, _DECIMALS, signed=True)
        differences.append(Cell(difference, notes=() if difference == EMPTY else caveats))
    return [
        _line(benchmark, row, "ours", Cell(result.count_text), ours, tuple(keys)),
        _line(benchmark, row, "difference", Cell(), differences),
    ]


def _line(
    benchmark: Benchmark,
    row: Mapping[str, Any],
    kind: str,
    count: Cell,
    cells: Sequence[Cell],
    notes: tuple[str, ...] = (),
) -> Line:
    """Return a line: the row's labels, whose numbers they are, and n. Notes stand at whose numbers they are on."""
    labels = [Cell(row.get(label, EMPTY)) for label in benchmark.labels]
    return Line((*labels, Cell(kind, notes=notes), count), tuple(cells), kind)
