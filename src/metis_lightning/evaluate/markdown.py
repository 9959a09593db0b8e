"""Tables as Markdown, padded so that they read well as plain text too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metis_lightning.evaluate.layout import Cell, Section, Table, plain

# A link, an image or a footnote; a tag; code; mathematics. Addresses become links without any of these.
_MARKUP = re.compile(r"[\\`<\[\]$@]|(?<=[a-z]):(?=/)|(?<=www)\.", re.IGNORECASE)


def markdown(table: Table) -> str:
    """Return a table as a page of Markdown, with GitHub's footnotes."""
    parts = [
        f"# Table {table.number}: {_text(table.title)}",
        "Written by `python -m metis_lightning tables`.",
        *(_section(section) for section in table.sections),
    ]
    if table.notes:
        parts.append("\n".join(f"[^{key}]: {_text(text)}" for key, text in table.notes.items()))
    return "\n\n".join(parts) + "\n"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    r"""Return a Markdown table; columns after the first `text_columns` are aligned to the right.

    >>> print(grid(["system", "n"], [["nano", "60"], ["a|b", "1"]]))
    | system |  n |
    | :----- | -: |
    | nano   | 60 |
    | a\|b   |  1 |
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        ":" + "-" * (width - 1) if index < text_columns else "-" * (width - 1) + ":"
        for index, width in enumerate(widths)
    ]
    lines = [_padded(cells[0], widths, text_columns), rule, *(_padded(row, widths, text_columns) for row in cells[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _section(section: Section) -> str:
    """Return one grid with its heading."""
    header = [*section.label_names, *map(cell_text, section.column_names)]
    rows = [[cell_text(cell) for cell in (*line.labels, *line.cells)] for line in section.lines]
    parts = [f"## {_text(section.title)}", _text(section.intro), grid(header, rows, section.text_columns)]
    if section.remarks:
        parts.append("\n".join(f"- {_text(remark)}" for remark in section.remarks))
    return "\n\n".join(parts)


def cell_text(cell: Cell) -> str:
    """Return a cell's number, interval, significance, failures and notes."""
    failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
    notes = "".join(f"[^{key}]" for key in cell.notes)
    return " ".join(filter(None, [_text(cell.text), cell.interval, cell.mark])) + failed + notes


def _text(text: str) -> str:
    """Return text on one line in which nothing is taken for markup of a page, nor an address for a link."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", plain(text))


def _padded(row: Sequence[str], widths: Sequence[int], text_columns: int) -> list[str]:
    """Return the cells of a row at the widths of their columns."""
    return [
        cell.ljust(width) if index < text_columns else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
