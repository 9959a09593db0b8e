"""Tables as Markdown, padded so that they read well as plain text too."""

from __future__ import annotations

from collections.abc import Sequence

EMPTY = "–"


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


def _padded(row: Sequence[str], widths: Sequence[int], text_columns: int) -> list[str]:
    """Return the cells of a row at the widths of their columns."""
    return [
        cell.ljust(width) if index < text_columns else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def estimate(mean: float | None, half_width: float | None, decimals: int) -> str:
    """Return a mean with half the width of its interval.

    >>> estimate(3.14159, 0.05, 2), estimate(2.0, None, 1), estimate(None, None, 2)
    ('3.14 ± 0.05', '2.0', '–')
    """
    if mean is None:
        return EMPTY
    # Adding zero turns a rounded -0.0 into 0.0.
    text = f"{round(mean, decimals) + 0.0:.{decimals}f}"
    return text if half_width is None else f"{text} ± {half_width:.{decimals}f}"
