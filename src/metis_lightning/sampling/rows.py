"""One value or a list of them, one a row: how a batch is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from metis_lightning.errors import UserError

Value = TypeVar("Value")
Each: TypeAlias = Value | Sequence[Value]
"""One value for all rows, or one a row."""


def each(build: Callable[..., Value], *columns: Any) -> Each[Value]:
    """Return what `build` makes of single columns, or, where the first is a list, what it makes of each row.

    Columns that are no list hold for every row; a text and a tensor are no lists.

    >>> each(lambda a, b: a * b, [1, 2], 3)
    [3, 6]

    Raises:
        UserError: if a list is not as long as the first column, or is given where that is a single value.
    """
    if not _is_list(columns[0]):
        if any(map(_is_list, columns)):
            raise UserError(
                "a list is given beside a single input; give lists of one length, the first input among them"
            )
        return build(*columns)
    rows = len(columns[0])
    return [build(*row) for row in zip(*(each_row(column, rows) for column in columns), strict=True)]


def each_row(column: Each[Value], rows: int) -> Sequence[Value]:
    """Return a list of `rows` values: `column` itself, or as many times the single value that it is.

    Raises:
        UserError: if it is a list of another length.
    """
    if not _is_list(column):
        return [column] * rows  # type: ignore[list-item]
    if len(column) != rows:  # type: ignore[arg-type]
        raise UserError(f"{len(column)} values for {rows} rows; give one for all, or one a row")  # type: ignore[arg-type]
    return column  # type: ignore[return-value]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | Tensor)
