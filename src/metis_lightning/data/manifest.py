"""Manifests and trial lists: JSON lines to records, with every mistake named by file and line.

Manifests come with corpora that others made, so a path may not leave the manifest's folder and an id, which later
becomes a file name, may hold only harmless characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from metis_lightning.errors import UserError
from metis_lightning.types import Trial, Utterance

_Record = TypeVar("_Record", Utterance, Trial)
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def read_manifest(path: Path) -> list[Utterance]:
    """Read the utterances of a corpus.

    Each line is an object with `id, path, speaker, text, language, seconds, sample_rate, split` and optionally
    `source, license`; other keys are ignored. `path` is relative to the manifest's folder; `language` may carry a
    region ("en-US"), which is dropped.

    Raises:
        UserError: naming file and line, if a line is no such object, a path is absolute or contains `..`,
            an id has a character outside [A-Za-z0-9._-] or starts with a dot, or an id occurs twice.
    """
    return _read_records(path, lambda row, where: _utterance(row, path.resolve().parent, where))


def read_trials(path: Path) -> list[Trial]:
    """Read a target-speaker-extraction test list, with the fields of `Trial`.

    Raises:
        UserError: as for `read_manifest`.
    """
    return _read_records(path, lambda row, where: _trial(row, where))


def read_speaker_sex(path: Path) -> dict[str, str]:
    """Map each speaker of a manifest to its `sex` field, leaving out speakers that have none.

    Raises:
        UserError: if a line is no JSON object with a speaker.
    """
    return {
        _text(row, "speaker", where): _text(row, "sex", where)
        for where, row in _rows(path)
        if row.get("sex") is not None
    }


def _read_records(path: Path, parse: Callable[[dict[str, Any], str], _Record]) -> list[_Record]:
    records: list[_Record] = []
    seen: dict[str, str] = {}
    for where, row in _rows(path):
        record = parse(row, where)
        if record.id in seen:
            raise UserError(f"{where}: id {record.id!r} occurs already at {seen[record.id]}; ids must be unique")
        seen[record.id] = where
        records.append(record)
    return records


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) for each line that is not blank."""
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the data root")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _object(line, where)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _utterance(row: dict[str, Any], folder: Path, where: str) -> Utterance:
    return Utterance(
        id=_id(row, "id", where),
        path=folder / _relative_path(row, where),
        speaker=_id(row, "speaker", where),
        text=_text(row, "text", where),
        language=_text(row, "language", where).split("-")[0].lower(),
        seconds=_positive(row, "seconds", where),
        sample_rate=int(_positive(row, "sample_rate", where)),
        split=_text(row, "split", where),
        source=str(row.get("source", "")),
        license=str(row.get("license", "")),
    )


def _trial(row: dict[str, Any], where: str) -> Trial:
    return Trial(
        id=_id(row, "id", where),
        test_set=_id(row, "test_set", where),
        target=_id(row, "target", where),
        interferer=_id(row, "interferer", where),
        enrollment=_id(row, "enrollment", where),
        snr_db=_number(row, "snr_db", where),
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where}: field {key!r} must be a string, found {value!r}")
    return value


def _id(row: dict[str, Any], key: str, where: str) -> str:
    return check_id(_text(row, key, where), key, where)


def check_id(value: str, key: str, where: str) -> str:
    """Return an id that is harmless as a file's name.

    Raises:
        UserError: naming `where` and `key`, if it is not.
    """
    if not _ID.fullmatch(value):
        raise UserError(f"{where}: {key} {value!r} may hold only A-Z a-z 0-9 . _ - and may not start with a dot")
    return value


def _relative_path(row: dict[str, Any], where: str) -> PurePosixPath:
    value = _text(row, "path", where)
    path, windows = PurePosixPath(value), PureWindowsPath(value)
    absolute = path.is_absolute() or bool(windows.anchor)
    if not value or absolute or ".." in windows.parts:
        raise UserError(f"{where}: path {value!r} must be relative to the manifest's folder, without '..'")
    return path


def _number(row: dict[str, Any], key: str, where: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise UserError(f"{where}: field {key!r} must be a finite number, found {value!r}")
    return float(value)


def _positive(row: dict[str, Any], key: str, where: str) -> float:
    value = _number(row, key, where)
    if value <= 0:
        raise UserError(f"{where}: field {key!r} must be positive, found {value!r}")
    return value
