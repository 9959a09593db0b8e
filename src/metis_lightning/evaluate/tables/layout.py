"""A table before it has a format: labels, numbers and notes, which Markdown, LaTeX and HTML write in their own ways."""

from __future__ import annotations

from dataclasses import dataclass, field

EMPTY = "–"
"""A cell of what has not been measured; empty in CSV."""

NOT_APPLICABLE = "n/a"
"""A cell of what cannot be measured here, which is nobody's fault; a remark says why."""

INFINITE = "∞"


MARKS = {("speakers", 1): "▲", ("speakers", -1): "▼", ("utterances", 1): "△", ("utterances", -1): "▽"}
"""How a result that is better (1) or worse (-1) than the baseline is marked, by what was tested over."""


@dataclass(frozen=True)
class Cell:
    """A number as text, and what stands around it.

    Args:
        text: the number in its unit, or `EMPTY`, `NOT_APPLICABLE` or `INFINITE`.
        interval: "[low, high; clusters]" or "± half", or nothing.
        n_failed: utterances on which the system failed.
        mark: one of `MARKS`, or nothing.
        notes: keys of the table's notes.
    """

    text: str = EMPTY
    interval: str = ""
    n_failed: int = 0
    mark: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row: its labels, its cells, and of which kind it is ("paper", "ours" or "difference")."""

    labels: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    kind: str


@dataclass(frozen=True)
class Section:
    """One grid of a table with its heading, what is to be known beforehand, and what follows as a list.

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

    def key(self, text: str) -> str:
        """Return the key of a note: its number, from 1."""
        return self._keys.setdefault(text, str(len(self._keys) + 1))

    def by_key(self) -> dict[str, str]:
        """Return all notes by key."""
        return {key: text for text, key in self._keys.items()}


def plain(text: str) -> str:
    r"""Return what may come from a stranger on one line, without characters that cannot be seen or written.

    >>> plain("a\n b\x00\u202e\ud800")
    'a b'
    """
    return " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())


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


def interval(low: float | None, high: float | None, decimals: int, clusters: int) -> str:
    """Return an interval in square brackets with how many clusters it is over; nothing if there is none.

    >>> interval(1, 2.55, 1, 6), interval(None, None, 1, 4)
    ('[1.0, 2.5; 6]', '')
    """
    return "" if low is None or high is None else f"[{number(low, decimals)}, {number(high, decimals)}; {clusters}]"
