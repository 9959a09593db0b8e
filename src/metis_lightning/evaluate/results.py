"""One run's results on disk: rows as they come, then the summary and the protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path

ROWS, SUMMARY, PROTOCOL = "utterances.jsonl", "summary.json", "protocol.json"


class Results:
    """The folder of a run. Rows are appended as they are made, so that an interrupted run goes on where it stopped.

    Raises:
        UserError: if the folder holds rows of another protocol.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any]) -> None:
        self.folder = folder
        self.protocol = {**protocol, "fingerprint": fingerprint(protocol)}
        path = folder / PROTOCOL
        if path.is_file():
            self._check(json.loads(path.read_text(encoding="utf-8")))
        write_json(path, self.protocol)
        self.rows = read_rows(folder)
        # A run that was cut off may have left half a row behind.
        with atomic_path(folder / ROWS) as temporary:
            temporary.write_text("".join(_line(row) for row in self.rows), encoding="utf-8")

    def done(self) -> set[tuple[str, str, str]]:
        """Return (test set, system, id) of the rows that are there."""
        return {(row["test_set"], row["system"], row["id"]) for row in self.rows}

    def append(self, row: dict[str, Any]) -> None:
        """Add a row to the list and to the file."""
        self.rows.append(row)
        with (self.folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def write_summary(self, summary: list[dict[str, Any]]) -> None:
        """Write `summary.json`."""
        write_json(self.folder / SUMMARY, summary)

    def _check(self, found: Mapping[str, Any]) -> None:
        if found.get("fingerprint") == self.protocol["fingerprint"]:
            return
        changed = sorted(key for key in self.protocol.keys() | found.keys() if self.protocol.get(key) != found.get(key))
        changed.remove("fingerprint")
        raise UserError(
            f"{self.folder}: it holds results of another protocol (different: {', '.join(changed)}); "
            "give another --out, or remove the folder"
        )


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a protocol."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a folder; none if there is no file. A last line without its end is left out."""
    path = folder / ROWS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def write_json(path: Path, content: object) -> None:
    """Write plain data as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
