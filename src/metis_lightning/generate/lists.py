"""Lists of what is to be generated: csv with a header, or jsonl, an id and named inputs in each line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metis_lightning.data.manifest.records import check_id
from metis_lightning.errors import UserError
from metis_lightning.files import is_regular
from metis_lightning.safe_parsing import load_json
from metis_lightning.texts import read_lines


def read_list(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return ("file:line", values by column) of each line; empty values are left out.

    Raises:
        UserError: naming file and line, if it is not UTF-8 of a known format, a column is unknown, a value is no text
            or number, or an id is missing, harmful as a file name, or there twice.
    """
    seen: dict[str, str] = {}
    lines = []
    for where, row in _rows(path):
        line = _checked(row, columns, where)
        if line["id"].casefold() in seen:
            raise UserError(f"{where}: id {line['id']!r} occurs already at {seen[line['id'].casefold()]}")
        seen[line["id"].casefold()] = where
        lines.append((where, line))
    if not lines:
        raise UserError(f"{path}: the list is empty; give a line for each result")
    return lines


def _rows(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield ("file:line", row) of a list."""
    if not is_regular(path):
        raise UserError(f"{path}: no such list; give a .csv or a .jsonl")
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: a list ends with .csv or .jsonl")
    yield from _csv(path) if path.suffix.lower() == ".csv" else _jsonl(path)


def _csv(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    # Spreadsheets start their files with a byte-order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error}); save the list as UTF-8") from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                row = load_json(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}; each line must be one JSON object") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
            yield f"{path}:{number}", row


def _checked(row: dict[Any, Any], columns: Sequence[str], where: str) -> dict[str, str]:
    """Return the values of a row that are given, as text."""
    if None in row:
        raise UserError(f"{where}: more values than columns; quote what has a comma")
    if unknown := sorted(set(row) - set(columns)):
        raise UserError(f"{where}: unknown column {unknown[0]!r}; the columns are {', '.join(columns)}")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
            raise UserError(f"{where}: {name} must be a text or a number, found {value!r}")
    line = {name: str(value).strip() for name, value in given.items()}
    check_id(line.get("id", ""), "id", where)
    return line
