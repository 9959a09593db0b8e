"""The paper's rows as a section of a table, with our results and the differences under them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from metis_lightning.evaluate.results.estimates import few_notes
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import column_by_name, word_error_rule
from metis_lightning.evaluate.tables.benchmarks import Benchmark, origin_notes
from metis_lightning.evaluate.tables.layout import EMPTY, NOT_APPLICABLE, Cell, Line, Notes, Section, number
from metis_lightning.evaluate.tables.matching import other_settings, paper_cells, results_for

_DECIMALS = 2  # as the paper prints


def paper_section(benchmark: Benchmark, results: Sequence[Result], notes: Notes) -> Section:
    """Return the section; footnotes go to `notes`."""
    headings = tuple(_heading(benchmark, metric, notes) for metric in benchmark.metrics)
    matched = [results_for(benchmark, row, results) for row in benchmark.rows]
    # Rows of one test set are read against one another, so all of them must be of one protocol.
    marks = defaultdict(set)
    for result in (result for part in matched for result in part):
        marks[result.test_set].add(result.protocol.mark)
    lines: list[Line] = []
    for row, part in zip(benchmark.rows, matched, strict=True):
        lines.append(_paper_line(benchmark, row, notes))
        for result in part:
            lines += _our_lines(benchmark, row, result, sorted(marks[result.test_set]), notes)
        if not part and "ours" in row:
            unlike = other_settings(benchmark, row, results)
            keys = notes.keys(*(f"Run {run} does not stand here: {'; '.join(why)}." for run, why in unlike.items()))
            lines.append(_line(benchmark, row, "ours", Cell(), [Cell() for _ in benchmark.metrics], keys))
    values = [
        cell.ours.summary
        for row, part in zip(benchmark.rows, matched, strict=True)
        for result in part
        for cell in paper_cells(benchmark, row, result)
        if cell.ours is not None
    ]
    return Section(
        title="The paper's rows",
        intro=_intro(benchmark),
        label_names=(*(label.replace("_", " ") for label in benchmark.labels), "", "n"),
        column_names=headings,
        lines=tuple(lines),
        remarks=(*(note.text for note in benchmark.notes if not note.where), *few_notes(values)),
    )


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
    rules = sorted({word_error_rule(row["test_set"]) for row in benchmark.rows})
    phrases = {"corpus": "all edits over all words", "mean": "the mean over utterances, as Seed-TTS-eval counts"}
    counted = "; on Seed-TTS's lists ".join(phrases[rule] for rule in rules)
    word_errors = f"our WER is {counted}, with all words deleted where nothing can be heard; "
    return (
        f"{text} Under them ours with the 95% interval and the number of speakers that it is over (utterances where "
        "speakers are not known), and ours minus the paper's: "
        f"{word_errors if 'WER' in benchmark.metrics else ''}n is the number of utterances, {EMPTY} has not been "
        f"measured, {NOT_APPLICABLE} cannot be. "
        "Numbers with a note on another protocol are not comparable with the paper's."
    )


def _heading(benchmark: Benchmark, metric: str, notes: Notes) -> Cell:
    """Return the name of a metric with its remarks."""
    keys = notes.keys(*(note.text for note in benchmark.notes if note.is_on_column(metric)))
    unit = "% " if metric == "WER" else ""
    return Cell(f"{metric} {unit}{'↑' if column_by_name(metric).higher_is_better else '↓'}", notes=keys)


def _paper_line(benchmark: Benchmark, row: Mapping[str, Any], notes: Notes) -> Line:
    """Return a row as printed, with its remarks."""
    cells = []
    for cell in paper_cells(benchmark, row, None):
        keys = notes.keys(*(note.text for note in benchmark.notes if note.is_on(row, cell.metric)))
        spread = "" if cell.paper_ci95 is None else f"± {number(cell.paper_ci95, _DECIMALS)}"
        cells.append(Cell(number(cell.paper, _DECIMALS), spread, notes=keys))
    on_row = [note.text for note in benchmark.notes if note.is_on(row, None)]
    return _line(benchmark, row, "paper", Cell(), cells, notes.keys(*on_row, *origin_notes(row)))


def _our_lines(
    benchmark: Benchmark, row: Mapping[str, Any], result: Result, marks: Sequence[str], notes: Notes
) -> list[Line]:
    """Return a result, and its difference from the row; `marks` are the protocols of all results on its test set."""
    keys = notes.keys(protocol_note(result), *([mixed_note(marks)] if len(marks) > 1 else []))
    ours, differences = [], []
    for cell in paper_cells(benchmark, row, result):
        caveats = notes.keys(*cell.caveats)
        gaps = notes.keys(*cell.gaps)
        ours.append(Cell() if cell.ours is None else cell.ours.cell(_DECIMALS, (*caveats, *gaps)))
        # What makes ours incomparable is said at the difference, too; what it lacks, at ours alone.
        difference = number(cell.difference, _DECIMALS, signed=True)
        differences.append(Cell(difference, notes=() if difference == EMPTY else caveats))
    return [
        _line(benchmark, row, "ours", Cell(result.count_text), ours, keys),
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
