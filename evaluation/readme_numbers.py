"""Writes the numbers of finished runs into README, docs and nano's card: `make numbers` makes the runs and calls this.

A block `<!-- numbers of RUN -->` to `<!-- end of numbers -->` gets the table of the run in that folder, and how far
each system is from the mixture as it is. `<!-- summary of RUN beside TABLE: ROW, ROW -->` gets a small one, with rows
of the paper's under ours.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.comparison import CONTROLS, margin_column, margin_gain
from metis_lightning.evaluate.results.runs import Result, read_results
from metis_lightning.evaluate.tables.benchmarks import ResultsSpec, read_benchmarks
from metis_lightning.evaluate.tables.layout import EMPTY, Cell, NoteKeys, Section, grid, markdown_cell
from metis_lightning.evaluate.tables.our_results import group_results, result_sections

PAGES = (Path("README.md"), Path("docs/nano.md"), Path("src/metis_lightning/assets/nano/README.md"))
BENCHMARKS = Path("evaluation/benchmarks")
COLUMNS = ("DNSMOS OVRL", "STOI", "SIM target", "SIM margin", "WER % (")

_BLOCK = re.compile(r"(<!-- numbers of (\S+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
_SUMMARY = re.compile(r"(<!-- summary of (\S+) beside (\S+): (.*?) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
_LEGEND = (
    "In brackets are 95% intervals and the number of speakers that they are over; over fewer than five there is none.\n"
    "▲ ▼ are better and worse than `input` over speakers, △ ▽ over these utterances alone. Of an output in which\n"
    "nothing can be heard all words are deleted."
)


def rewritten(text: str) -> str:
    """Return a page with its blocks written anew.

    Raises:
        UserError: a run is not there or not finished.
    """
    text = _BLOCK.sub(lambda found: f"{found[1]}\n{numbers_of(Path(found[2]))}\n\n{found[3]}", text)
    return _SUMMARY.sub(
        lambda found: f"{found[1]}\n{summary_of(Path(found[2]), found[3], found[4].split(', '))}\n\n{found[5]}", text
    )


def numbers_of(run: Path) -> str:
    """Return the table of a run and what follows it.

    Raises:
        UserError: the run is not there or not finished.
    """
    results = _finished(run)
    rows = _rows(results)
    # A test set may have a column that another lacks: languages have recognisers of their own.
    found = dict.fromkeys(name for _, cells in rows for name in cells)
    chosen = [name for wanted in COLUMNS for name in found if name.startswith(wanted)]
    lines = [[*labels, *(cells.get(name, EMPTY) for name in chosen)] for labels, cells in rows]
    table = grid(["test set", "system", "n", *chosen], lines, 2)
    return "\n\n".join([table, _LEGEND, "\n".join(f"- {line}" for line in _gains(results))])


def summary_of(run: Path, table: str, systems: list[str]) -> str:
    """Return WER and DNSMOS of a run's systems, and under them those rows of a table of the paper's.

    Raises:
        UserError: the run is not there or not finished, or the table has no such row.
    """
    lines = []
    for (test_set, system, _), cells in _rows(_finished(run)):
        wer, ovrl = (
            next(cells[name] for name in cells if name.startswith(each)) for each in ("WER % (", "DNSMOS OVRL")
        )
        lines.append([system, test_set, re.sub(r" *[▲▼△▽]", "", wer), re.sub(r" *[▲▼△▽]", "", ovrl)])
    benchmark = next(each for each in read_benchmarks(BENCHMARKS) if each.name == table)
    for name in systems:
        row = next((row for row in benchmark.rows if row.system == name), None)
        if row is None:
            raise UserError(f"{table} has no row {name!r}")
        numbers = [f"{row.metrics[metric]:.{digits}f}" for metric, digits in (("WER", 1), ("OVRL", 2))]
        lines.append([f"paper: {name}", row.test_set, *numbers])
    return grid(["system", "test set", "WER % ↓", "DNSMOS OVRL ↑"], lines, 2)


def _finished(run: Path) -> list[Result]:
    if not (run / "summary.json").is_file():
        raise UserError(f"{run}: no finished run; `make numbers` makes it")
    return read_results(run)


def _rows(results: list[Result]) -> list[tuple[list[str], dict[str, str]]]:
    """Return test set, system and n of each line of a run's table, and its cells by heading."""
    ours = ResultsSpec(results[0].task, first=CONTROLS, baseline="input")
    sections = result_sections(group_results(results, ours, "input"), NoteKeys())
    test_sets = sorted({result.test_set for result in results})
    rows = []
    for test_set, section in zip(test_sets, sections, strict=True):
        headings = _headings(section)
        for line in section.lines:
            cells = {name: _cell(cell) + count for (name, count), cell in zip(headings, line.cells, strict=True)}
            rows.append(([test_set, line.labels[0].text, line.labels[2].text], cells))
    return rows


def _headings(section: Section) -> list[tuple[str, str]]:
    """Return the headings of a section's numbers; of how many utterances they are, " (7 of 8)", stands apart."""
    cells = section.header[len(section.lines[0].labels) :]
    parts = [re.fullmatch(r"(.*?)( \(\d+ of \d+\))?", markdown_cell(cell)) for cell in cells]
    return [(part[1], part[2] or "") for part in parts if part]


def _cell(cell: Cell) -> str:
    """Return a cell without references to notes, which stand under the full table."""
    return re.sub(r"\[\^\d+\]", "", markdown_cell(cell))


def _gains(results: list[Result]) -> list[str]:
    """Return how far each system is from the mixture, on each test set."""
    column = margin_column(summary.column for result in results for summary in result.metrics.values())
    if column is None:
        return []
    lines = []
    for test_set in sorted({result.test_set for result in results}):
        rows = [row for result in results if result.test_set == test_set for row in result.rows]
        systems = sorted({row.system for row in rows} - set(CONTROLS))
        lines += [margin_gain(rows, system, column)[0] for system in systems]
    return lines


def main() -> int:
    """Write all pages anew."""
    try:
        pages = {path: rewritten(path.read_text(encoding="utf-8")) for path in PAGES}
    except UserError as error:
        print(f"readme_numbers: {error}", file=sys.stderr)
        return 2
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
        print(f"numbers: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
