"""What results rows are found by.

One run's results on disk: rows as they come, then the summary and the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.protocol import differences, fingerprint, said
from metis_lightning.files import atomic_path
from metis_lightning.safe_parsing import load_json

Key = tuple[str, str, int | None, str]
"""Test set, system, seed (None where nothing is drawn), id: one row each."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what a row is found by."""
    return row["test_set"], row["system"], row.get("seed"), row["id"]


ROWS, SUMMARY, PROTOCOL = "utterances.jsonl", "summary.json", "protocol.json"

_TIMES = ("seconds",)
"""Fields of a row that are another each time the same is made."""


class RowFile:
    """A file that rows are appended to as they are made, so that a run that was cut off goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def row_file(folder: Path, rank: int | None = None) -> RowFile:
    """Return the file that a run's rows go to; with a rank, that of one of several processes."""
    return RowFile(folder / (ROWS if rank is None else f"{ROWS}.{rank}"))


class Results:
    """The folder of a run. Several processes write their rows to files of their own, which are gathered in the end.

    Raises:
        UserError: if the folder holds rows of another protocol, or `gathered` refuses them.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], keys: Sequence[Key], is_owner: bool = True) -> None:
        """Check what the folder holds already.

        Args:
            folder: of the run.
            protocol: all that decides the numbers.
            keys: what every row of the run is found by, in order.
            is_owner: whether to write: the protocol, and the rows that another call left in several files.
        """
        self.folder, self.keys = folder, keys
        self.protocol = {**protocol, "fingerprint": fingerprint(protocol)}
        path = folder / PROTOCOL
        if path.is_file():
            self._check(_protocol_of(path))
        if is_owner:
            write_json(path, self.protocol)
            self.gather()

    def done(self) -> set[Key]:
        """Return what the rows of the run's file are found by."""
        return {key_of(row) for row in read_rows(self.folder)}

    def gather(self, whole: bool = False) -> list[dict[str, Any]]:
        """Put the rows of all processes into the run's file, in the order of the run, and return them.

        Args:
            whole: whether every row must be there.

        Raises:
            UserError: a row is not of this run, two of one id differ, or one is missing.
        """
        parts = sorted(self.folder.glob(f"{ROWS}.*"))
        rows = gathered({path: read_rows_of(path) for path in (self.folder / ROWS, *parts)}, self.keys)
        if whole and len(rows) < len(self.keys):
            missing = sorted(set(self.keys) - {key_of(row) for row in rows}, key=self.keys.index)
            raise UserError(f"{self.folder}: {len(missing)} rows are missing, first {_named(missing[0])}; run it again")
        with atomic_path(self.folder / ROWS) as temporary:
            temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        for part in parts:
            part.unlink()
        return rows

    def write_summary(self, summary: list[dict[str, Any]]) -> None:
        """Write `summary.json`."""
        write_json(self.folder / SUMMARY, summary)

    def _check(self, found: Mapping[str, Any]) -> None:
        if fingerprint(found) == self.protocol["fingerprint"]:
            return
        different = said(differences(found, self.protocol))
        raise UserError(
            f"{self.folder}: it holds results of another protocol (different: {different}); give another --out, or "
            "remove the folder"
        )


def _protocol_of(path: Path) -> Mapping[str, Any]:
    try:
        found = load_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: {error}; give another --out, or remove the folder") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not the protocol of a run; give another --out, or remove the folder")
    return found


def gathered(files: Mapping[Path, Sequence[dict[str, Any]]], keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Return the rows of several files in the order of `keys`, each once.

    Raises:
        UserError: a row is not of this run, or `unique` refuses two.
    """
    found, order = unique(files), {key: place for place, key in enumerate(keys)}
    if strangers := [key for key in found if key not in order]:
        raise UserError(
            f"{', '.join(map(str, files))}: a row for {_named(strangers[0])}, which is not of this run; give another "
            "--out, or remove the folder"
        )
    return [found[key] for key in sorted(found, key=order.__getitem__)]


def unique(files: Mapping[Path, Sequence[dict[str, Any]]]) -> dict[Key, dict[str, Any]]:
    """Return the rows of files by what they are found by.

    Rows that only a clock tells apart are one: a call was gathering when it was cut off, or two did the same work.

    Raises:
        UserError: there are two of one key that say different things.
    """
    found: dict[Key, dict[str, Any]] = {}
    places: dict[Key, Path] = {}
    for path, rows in files.items():
        for row in rows:
            key = key_of(row)
            first, place = found.setdefault(key, row), places.setdefault(key, path)
            if _without_times(first) != _without_times(row):
                raise _two_rows(key, first, row, place, path)
    return found


def _without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row says of the utterance, without how long it took to make."""
    return {name: value for name, value in row.items() if name not in _TIMES}


def _two_rows(
    key: Key, first: Mapping[str, Any], second: Mapping[str, Any], first_path: Path, second_path: Path
) -> UserError:
    """Return what to do about rows of one utterance that say different things."""
    differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    where = f"both in {first_path}" if first_path == second_path else f"in {first_path} and {second_path}"
    return UserError(
        f"two rows for {_named(key)}, {where}, differ in {', '.join(name for name in differ if name not in _TIMES)}; "
        "remove the line that is wrong, or both to have it made again, and run the same command"
    )


def _named(key: Key) -> str:
    test_set, system, seed, item_id = key
    return f"{item_id} of {system} on {test_set}" + ("" if seed is None else f", seed {seed}")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a run; none if there is no file."""
    return read_rows_of(folder / ROWS)


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a file; none if there is no file. A last line without its end is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [load_json(line) for line in lines if line]


def write_json(path: Path, content: object) -> None:
    """Write plain data as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
