"""Tables of labels, numbers and notes, and their forms as Markdown and as LaTeX by templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from metis_lightning.evaluate.html.document import plain
from metis_lightning.evaluate.results.intervals import too_few
from metis_lightning.evaluate.results.summary import Summary

# A cell of what has not been measured; empty in CSV.
EMPTY = "–"
# A cell of what cannot be measured here, which is nobody's fault; a remark says why.
NOT_APPLICABLE = "n/a"
INFINITY_SIGN = "∞"


@dataclass(frozen=True)
class Cell:
    """A number in its unit as text, or `EMPTY`, `NOT_APPLICABLE` or `INFINITY_SIGN`, and what stands around it."""

    text: str = EMPTY
    # "[low, high; clusters]" or "± half".
    interval: str = ""
    n_failed: int = 0
    mark: str = ""
    # Keys of the table's notes.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of labels and cells; `kind` is "paper", "ours" or "difference"."""

    labels: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    kind: str


@dataclass(frozen=True)
class Section:
    """One grid of a table: the paper's rows with ours, or ours alone; the first `text_columns` are no numbers."""

    title: str
    intro: str
    header: tuple[Cell, ...]
    text_columns: int
    lines: tuple[Line, ...]
    remarks: tuple[str, ...]
    is_papers: bool

    @property
    def columns(self) -> list[tuple[Cell, ...]]:
        """Its columns from top to bottom, each with its heading first."""
        return list(zip(self.header, *((*line.labels, *line.cells) for line in self.lines), strict=True))

    @property
    def key_column(self) -> int:
        """The column that says whose row it is, which stays in sight."""
        return next((index for index, cell in enumerate(self.header) if cell.text == "system"), 0)

    @property
    def note_keys(self) -> list[str]:
        """The keys of the notes that its cells refer to, in order."""
        cells = [*self.header, *(cell for line in self.lines for cell in (*line.labels, *line.cells))]
        return sorted({key for cell in cells for key in cell.notes}, key=int)


@dataclass(frozen=True)
class Table:
    """A numbered table; `notes` are by key, in the order of the keys' first use."""

    name: str
    number: int
    title: str
    sections: tuple[Section, ...]
    notes: dict[str, str]


class NoteKeys(dict[str, str]):
    """The keys of a table's notes by their texts: numbers from 1, as they come up; the same text has one number."""

    def of(self, *texts: str) -> tuple[str, ...]:
        """Return the keys of notes."""
        return tuple(self.setdefault(text, str(len(self) + 1)) for text in texts)


@dataclass(frozen=True)
class TableValue:
    """A summary's mean and interval in a table's unit; without a mean all values may be infinite, or none possible."""

    summary: Summary
    mean: float | None
    low: float | None
    high: float | None
    is_infinite: bool
    is_absent: bool
    # Why there is no interval.
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
            text = format_number(self.mean, decimals) + infinite
        interval = ""
        if self.low is not None:
            bounds = f"{format_number(self.low, decimals)}, {format_number(self.high, decimals)}"
            interval = f"[{bounds}; {self.summary.n_clusters}]"
        return Cell(text, interval, self.summary.n_failed, mark, notes)


def format_number(value: float | None, decimals: int, signed: bool = False) -> str:
    """Return a number with some decimals; never "-0.00".

    >>> format_number(3.14159, 2), format_number(-0.001, 2), format_number(0.5, 1, signed=True), format_number(None, 2)
    ('3.14', '0.00', '+0.5', '–')
    """
    if value is None:
        return EMPTY
    # Adding zero turns a rounded -0.0 into 0.0.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


def render_text(template: str, **context: object) -> str:
    r"""Return a filled template of this folder: of `table.md` for GitHub, of `table.tex` for `\input` with booktabs."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    # Nothing of LaTeX's own is markup.
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
    environment.filters |= {"latex": escape_latex, "markdown": escape_markdown, "grid": _section_grid}
    # A hyphen before a number is a minus.
    environment.filters["minus"] = partial(re.sub, r"(?<![^\s\[])-(?=\d)", "$-$")
    return environment


def _section_grid(section: Section) -> str:
    rows = [section.header, *((*line.labels, *line.cells) for line in section.lines)]
    header, *body = [[markdown_cell(cell) for cell in cells] for cells in rows]
    return grid(header, body, section.text_columns)


def markdown_cell(cell: Cell) -> str:
    """Return a cell's number, interval, significance, failures and notes."""
    failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
    notes = "".join(f"[^{key}]" for key in cell.notes)
    return " ".join(filter(None, [escape_markdown(cell.text), cell.interval, cell.mark])) + failed + notes


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


# A link, an image or a footnote; a tag; code; mathematics. Addresses become links without any of these.
_MARKUP = re.compile(r"[\\`<\[\]$@]|(?<=[a-z]):(?=/)|(?<=www)\.", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return text on one line in which nothing is taken for markup of a page, nor an address for a link."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", plain(text))


_LATEX_ESCAPES = str.maketrans({
    **{character: f"\\{character}" for character in "{}#$%&_"},
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", '"': r"\textquotedbl{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "–": "--", "±": r"$\pm$", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$",
    "▲": r"$^{\blacktriangle}$", "▼": r"$^{\blacktriangledown}$", "△": r"$^{\vartriangle}$", "▽": r"$^{\triangledown}$",
})  # fmt: skip


def escape_latex(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    >>> print(escape_latex("50% of a_b – {x}"))
    50\% of a\_b -- \{x\}
    """
    return plain(text).translate(_LATEX_ESCAPES)
