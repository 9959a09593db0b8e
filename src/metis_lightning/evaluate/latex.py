"""Tables as LaTeX, in the style of booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from metis_lightning.evaluate.layout import Cell, Line, Section, Table, plain

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
    return head + "\n".join(_section(table, index, section) for index, section in enumerate(table.sections))


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    >>> print(escape("50% of a_b – {x}"))
    50\% of a\_b -- \{x\}
    """
    return "".join(_ESCAPES.get(character, character) for character in plain(text))


def _section(table: Table, index: int, section: Section) -> str:
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
