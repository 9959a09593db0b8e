"""Tables as LaTeX, in the style of booktabs.

Tables as Markdown, padded so that they read well as plain text too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from metis_lightning.evaluate.tables.layout import Cell, Line, Section, Table, plain

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "▲": r"$^{\blacktriangle}$",
    "▼": r"$^{\blacktriangledown}$",
    "△": r"$^{\vartriangle}$",
    "▽": r"$^{\triangledown}$",
}


def latex(table: Table) -> str:
    r"""Return a table as LaTeX to be read by `\input`: one `table*` for each section."""
    head = (
        f"% Table {table.number}, written by `python -m metis_lightning tables`.\n"
        "% \\usepackage[T1]{fontenc} \\usepackage{booktabs,graphicx,amssymb}\n"
    )
    return head + "\n".join(_latex_section(table, index, section) for index, section in enumerate(table.sections))


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    >>> print(escape("50% of a_b – {x}"))
    50\% of a\_b -- \{x\}
    """
    return "".join(_ESCAPES.get(character, character) for character in plain(text))


def _latex_section(table: Table, index: int, section: Section) -> str:
    """Return one section as a float, with its notes below."""
    numbers = len(section.label_names) + len(section.column_names) - section.text_columns
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_caption(table, section)}}}",
        rf"\label{{tab:metis-{table.number}-{index}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * section.text_columns}{'r' * numbers}}}",
        r"\toprule",
        _row([*(escape(name) for name in section.label_names), *map(_cell, section.column_names)]),
        r"\midrule",
        *_body(section.lines),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\raggedright\footnotesize",
        escape(section.intro) + r"\par",
        *(escape(remark) + r"\par" for remark in section.remarks),
        *(rf"$^{{{key}}}$ {escape(table.notes[key])}\par" for key in _used(section)),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _caption(table: Table, section: Section) -> str:
    """Return whose numbers a section has, and on what."""
    if section.is_papers:
        return f"Table {table.number} of the Metis paper, {escape(table.title)}. {escape(section.title)}."
    return f"{escape(section.title)}: results of this project, none of the Metis paper."


def _body(lines: Iterable[Line]) -> list[str]:
    """Return the rows, with a rule where the first label changes."""
    body: list[str] = []
    before = None
    for line in lines:
        first = line.labels[0].text
        if line.kind != "ours" and before not in (None, first):
            body.append(r"\midrule")
        before = first
        body.append(_row([_cell(cell) for cell in (*line.labels, *line.cells)]))
    return body


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    """Return a cell's number, interval, significance, failures and notes."""
    spread = rf" {{\scriptsize {_minus(escape(cell.interval))}}}" if cell.interval else ""
    failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
    notes = rf"$^{{{','.join(cell.notes)}}}$" if cell.notes else ""
    return _minus(escape(cell.text)) + spread + escape(cell.mark) + failed + notes


def _minus(text: str) -> str:
    """Return text in which the hyphen before a number is a minus."""
    return re.sub(r"(?<![^\s\[])-(?=\d)", "$-$", text)


def _used(section: Section) -> list[str]:
    """Return the keys of the notes that a section refers to, in order."""
    cells = [*section.column_names, *(cell for line in section.lines for cell in (*line.labels, *line.cells))]
    return sorted({key for cell in cells for key in cell.notes}, key=int)


# A link, an image or a footnote; a tag; code; mathematics. Addresses become links without any of these.
_MARKUP = re.compile(r"[\\`<\[\]$@]|(?<=[a-z]):(?=/)|(?<=www)\.", re.IGNORECASE)


def markdown(table: Table) -> str:
    """Return a table as a page of Markdown, with GitHub's footnotes."""
    parts = [
        f"# Table {table.number}: {_text(table.title)}",
        "Written by `python -m metis_lightning tables`.",
        *(_markdown_section(section) for section in table.sections),
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


def _markdown_section(section: Section) -> str:
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
