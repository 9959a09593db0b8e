"""Tables of labels, numbers and notes, and their forms as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from metis_lightning.evaluate.html.document import plain

# A cell of what has not been measured; empty in CSV.
EMPTY = "–"

# A cell of what cannot be measured here, which is nobody's fault; a remark says why.
NOT_APPLICABLE = "n/a"

INFINITY_SIGN = "∞"

# How a result that is better (1) or worse (-1) than the baseline is marked, by what was tested over.
MARKS = {("speakers", 1): "▲", ("speakers", -1): "▼", ("utterances", 1): "△", ("utterances", -1): "▽"}


@dataclass(frozen=True)
class Cell:
    """A number in its unit as text, or `EMPTY`, `NOT_APPLICABLE` or `INFINITY_SIGN`, and what stands around it.

    `interval` is "[low, high; clusters]" or "± half", `mark` one of `MARKS`, `notes` are keys of the table's notes.
    """

    text: str = EMPTY
    interval: str = ""
    n_failed: int = 0
    mark: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of labels and cells; `kind` is "paper", "ours" or "difference"."""

    labels: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    kind: str


@dataclass(frozen=True)
class Section:
    """One grid of a table with its heading, an introduction, and remarks below.

    `is_papers` says whether its rows are the paper's, with ours under them, or ours alone.
    """

    title: str
    intro: str
    label_names: tuple[str, ...]
    column_names: tuple[Cell, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()
    is_papers: bool = True

    @property
    def header(self) -> tuple[Cell, ...]:
        """All cells of the first row."""
        return (*(Cell(name) for name in self.label_names), *self.column_names)

    @property
    def note_keys(self) -> list[str]:
        """The keys of the notes that its cells refer to, in order."""
        cells = [*self.column_names, *(cell for line in self.lines for cell in (*line.labels, *line.cells))]
        return sorted({key for cell in cells for key in cell.notes}, key=int)

    @property
    def text_columns(self) -> int:
        """How many columns stand before the first of numbers, which is n."""
        return self.label_names.index("n")


@dataclass(frozen=True)
class Table:
    """A numbered table; `notes` are by key, in the order of the keys' first use."""

    name: str
    number: int
    title: str
    sections: tuple[Section, ...]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def has_ours(self) -> bool:
        """Whether any number in it is ours."""
        lines = [line for section in self.sections for line in section.lines if line.kind == "ours"]
        return any(cell.text not in (EMPTY, NOT_APPLICABLE) for line in lines for cell in line.cells)


class Notes:
    """The notes of a table, numbered as they come up; the same text has one number."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def keys(self, *texts: str) -> tuple[str, ...]:
        """Return the keys of notes: their numbers, from 1."""
        return tuple(self._keys.setdefault(text, str(len(self._keys) + 1)) for text in texts)

    def by_key(self) -> dict[str, str]:
        """Return all notes by key."""
        return {key: text for text, key in self._keys.items()}


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """Return a number with some decimals; never "-0.00".

    >>> number(3.14159, 2), number(-0.001, 2), number(0.5, 1, signed=True), number(None, 2)
    ('3.14', '0.00', '+0.5', '–')
    """
    if value is None:
        return EMPTY
    # Adding zero turns a rounded -0.0 into 0.0.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


# A link, an image or a footnote; a tag; code; mathematics. Addresses become links without any of these.
_MARKUP = re.compile(r"[\\`<\[\]$@]|(?<=[a-z]):(?=/)|(?<=www)\.", re.IGNORECASE)


def markdown(table: Table) -> str:
    """Return a table as a page of Markdown, with GitHub's footnotes; its columns are padded to read as plain text."""
    parts = [f"# Table {table.number}: {_markdown_text(table.title)}", "Written by `python -m metis_lightning tables`."]
    for section in table.sections:
        header = [markdown_cell(cell) for cell in section.header]
        rows = [[markdown_cell(cell) for cell in (*line.labels, *line.cells)] for line in section.lines]
        parts += [f"## {_markdown_text(section.title)}", _markdown_text(section.intro)]
        parts.append(grid(header, rows, section.text_columns))
        if section.remarks:
            parts.append("\n".join(f"- {_markdown_text(remark)}" for remark in section.remarks))
    if table.notes:
        parts.append("\n".join(f"[^{key}]: {_markdown_text(text)}" for key, text in table.notes.items()))
    return "\n\n".join(parts) + "\n"


def markdown_cell(cell: Cell) -> str:
    """Return a cell's number, interval, significance, failures and notes."""
    failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
    notes = "".join(f"[^{key}]" for key in cell.notes)
    return " ".join(filter(None, [_markdown_text(cell.text), cell.interval, cell.mark])) + failed + notes


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    r"""Return a Markdown table; columns after the first `text_columns` are aligned to the right.

    >>> print(grid(["system", "n"], [["nano", "60"], ["a|b", "1"]]))
    | system |  n |
    | :----- | -: |
    | nano   | 60 |
    | a\|b   |  1 |
    """
    columns = []
    for index, column in enumerate(zip(header, *rows, strict=True)):
        cells = [cell.replace("|", "\\|") for cell in column]
        width = max(2, *map(len, cells))
        is_text = index < text_columns
        rule = ":" + "-" * (width - 1) if is_text else "-" * (width - 1) + ":"
        head, *body = [cell.ljust(width) if is_text else cell.rjust(width) for cell in cells]
        columns.append([head, rule, *body])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def _markdown_text(text: str) -> str:
    """Return text on one line in which nothing is taken for markup of a page, nor an address for a link."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", plain(text))


_LATEX_ESCAPES = {
    **{character: f"\\{character}" for character in "{}#$%&_"},
    "\\": r"\textbackslash{}",
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
    r"""Return a table as LaTeX to be read by `\input`, in the style of booktabs: one `table*` for each section."""
    return _latex_environment().get_template("table.tex").render(table=table)


def escape_latex(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    >>> print(escape_latex("50% of a_b – {x}"))
    50\% of a\_b -- \{x\}
    """
    return "".join(_LATEX_ESCAPES.get(character, character) for character in plain(text))


@cache
def _latex_environment() -> Environment:
    """Return what reads the template, in which nothing of LaTeX's own is markup."""
    environment = Environment(
        loader=PackageLoader("metis_lightning.evaluate.tables", "."),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        undefined=StrictUndefined,
    )
    environment.filters["latex"] = escape_latex
    # A hyphen before a number is a minus.
    environment.filters["minus"] = partial(re.sub, r"(?<![^\s\[])-(?=\d)", "$-$")
    return environment
