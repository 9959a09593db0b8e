"""Writes the numbers of finished runs into README and nano's card: `make numbers` makes the runs and calls this.

A block `<!-- numbers of RUN -->` to `<!-- end of numbers -->` gets the table of the run in that folder, and how far
each system is from the mixture as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.comparison import CONTROLS, margin_column, margin_gain
from metis_lightning.evaluate.results.runs import Result, read_results
from metis_lightning.evaluate.tables.benchmarks import ResultsSpec
from metis_lightning.evaluate.tables.layout import EMPTY, Cell, NoteKeys, Section, grid, markdown_cell
from metis_lightning.evaluate.tables.our_results import group_results, result_sections

PAGES = (Path("README.md"), Path("src/metis_lightning/assets/nano/README.md"))
COLUMNS = ("DNSMOS OVRL", "STOI", "SIM target", "SIM margin", "WER % (")

_BLOCK = re.compile(r"(<!-- numbers of (\S+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
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
    return _BLOCK.sub(lambda found: f"{found[1]}\n{numbers_of(Path(found[2]))}\n\n{found[3]}", text)


def numbers_of(run: Path) -> str:
    """Return the table of a run and what follows it.

    Raises:
        UserError: the run is not there or not finished.
    """
    if not (run / "summary.json").is_file():
        raise UserError(f"{run}: no finished run; `make numbers` makes it")
    results = read_results(run)
    ours = ResultsSpec(results[0].task, first=CONTROLS, baseline="input")
    sections = result_sections(group_results(results, ours, "input"), NoteKeys())
    # A test set may have a column that another lacks: languages have recognisers of their own.
    found = dict.fromkeys(name for section in sections for name, _ in _headings(section))
    chosen = [name for wanted in COLUMNS for name in found if name.startswith(wanted)]
    test_sets = sorted({result.test_set for result in results})
    rows = []
    for test_set, section in zip(test_sets, sections, strict=True):
        headings = _headings(section)
        for line in section.lines:
            cells = {name: _cell(cell) + count for (name, count), cell in zip(headings, line.cells, strict=True)}
            labels = [line.labels[0].text, line.labels[2].text]
            rows.append([test_set, *labels, *(cells.get(name, EMPTY) for name in chosen)])
    table = grid(["test set", "system", "n", *chosen], rows, 2)
    return "\n\n".join([table, _LEGEND, "\n".join(f"- {line}" for line in _gains(results))])


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
