"""Manifests and trial lists: JSON lines to records, with every mistake named by file and line.

Manifests come with corpora that others made, so a path may not leave the corpus's root and an id, which later becomes a
file name, may hold only harmless characters. Beside a manifest that `prepare` wrote stands its summary with a checksum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from metis_lightning.data.media.decoding import SAMPLE_RATES
from metis_lightning.data.media.locations import is_plain_path, parse_file, parse_location
from metis_lightning.errors import UserError
from metis_lightning.files import is_regular, sha256_of
from metis_lightning.safe_parsing import finite, load_json
from metis_lightning.texts import clean_text
from metis_lightning.types import Trial, Utterance

SCHEMA = 1
"""Version of a manifest's lines; pieces of another are built anew."""

_Record = TypeVar("_Record", Utterance, Trial)
LONGEST_ID = 200
"""Characters; file names have room for 255 bytes."""

_LONGEST_SHOWN = 100
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

_LOCATED = {"path": parse_location, "mixture": parse_location, "video": parse_file, "lips": parse_file}
"""What reads each of a line's locations, by the field of `Utterance`."""

# A line calls its mixture `heard`.
_KEYS = {"mixture": "heard"}


def read_manifest(path: Path | str, root: str | None = None) -> list[Utterance]:
    """Read the utterances of a corpus.

    Each line is an object with the fields of `parse_row`.

    Args:
        path: the manifest.
        root: folder or URL that its paths are relative to; None is the manifest's folder.

    Raises:
        UserError: naming file and line, if a line is no such object or an id occurs twice.
    """
    path = Path(path)
    root = manifest_root(path, root)
    return _read_records(path, lambda row, where: parse_row(row, root, where))


def parse_utterance(line: bytes, root: str, where: str) -> Utterance:
    """Return the utterance of one line of a manifest whose paths are relative to `root`.

    Raises:
        UserError: naming `where`, as for `read_manifest`.
    """
    return parse_row(_object(_decoded(line, where), where), root, where)


def check_utterance(line: bytes, where: str) -> dict[str, Any]:
    """Return the fields of the utterance that `parse_utterance` makes of a line, its locations as they are written.

    Half of its work: for reading a large manifest through.

    Raises:
        UserError: naming `where`, as for `read_manifest`.
    """
    fields = _fields(_object(_decoded(line, where), where), where)
    for name, value in _listed_locations(fields):
        if not is_plain_path(value):
            _LOCATED[name](value, "", where)
    return fields


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from error


def check_manifest(path: Path) -> None:
    """Compare a manifest with the checksum beside it, if `prepare` left one.

    Raises:
        UserError: if the manifest is another, or incomplete.
    """
    summary = summary_path(path)
    if not summary.is_file() or not path.is_file():
        return
    try:
        expected = load_json(summary.read_bytes())
        whole = path.stat().st_size == expected["bytes"] and sha256_of(path) == expected["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{summary}: not a summary of `prepare` ({error!r}); prepare anew") from error
    if not whole:
        raise UserError(
            f"{path}: not the manifest that {summary.name} is of (checksum); copy both again or prepare anew"
        )


def summary_path(path: Path) -> Path:
    """Return where a manifest's summary is."""
    return path.with_suffix(".summary.json")


def faults_path(path: Path) -> Path:
    """Return where it is listed what a manifest leaves out."""
    return path.with_suffix(".faults.jsonl")


def parts_folder(path: Path) -> Path:
    """Return where the finished pieces of a manifest are."""
    return path.with_suffix(".parts")


def read_trials(path: Path | str) -> list[Trial]:
    """Read a test list, with the fields of `Trial`; those that it does without may be missing.

    Raises:
        UserError: as for `read_manifest`.
    """
    path = Path(path)
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
    if not is_regular(path):
        raise UserError(f"{path}: no such manifest; check the data root")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _object(_decoded(line, where), where)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = load_json(line)
    except ValueError as error:
        raise UserError(f"{where}: {error}; each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def parse_row(row: dict[str, Any], root: str, where: str) -> Utterance:
    """Return the utterance of a manifest's line.

    The line has `id, path, speaker, text, language, seconds, sample_rate, split` and optionally `source, license,
    channels, dnsmos, heard, video, lips, is_whole`; other keys are ignored. `path` and `heard` are locations
    (`data.locations`), `video` and `lips` files below `root`; `language` may carry a region ("en-US"), which is
    dropped.

    Raises:
        UserError: naming `where`, if a field is missing or wrong, a path is absolute or contains `..`, or an id has a
            character outside [A-Za-z0-9._-] or starts with a dot.
    """
    fields = _fields(row, where)
    located = {name: _LOCATED[name](value, root, where) for name, value in _listed_locations(fields)}
    return Utterance(**(fields | located))


def _listed_locations(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the locations of a line as they are written; the audio's own even if it is missing."""
    return ((name, fields[name]) for name in _LOCATED if name == "path" or fields[name] is not None)


def _fields(row: dict[str, Any], where: str) -> dict[str, Any]:
    return {
        "id": _id(row, "id", where),
        "speaker": _id(row, "speaker", where),
        "text": clean_text(_text(row, "text", where)),
        "language": _text(row, "language", where).split("-")[0].lower(),
        "seconds": _positive(row, "seconds", where),
        "sample_rate": _whole(row, "sample_rate", where, *SAMPLE_RATES),
        "split": _text(row, "split", where),
        "source": str(row.get("source", "")),
        "license": str(row.get("license", "")),
        **{name: row.get(_KEYS.get(name, name)) for name in _LOCATED},
        "channels": _whole(row, "channels", where, 1, 1024) if "channels" in row else 1,
        "is_whole": _truth(row, "is_whole", where),
        "dnsmos": _number(row, "dnsmos", where) if row.get("dnsmos") is not None else None,
    }


def manifest_root(path: Path, root: str | None) -> str:
    """Return what a manifest's paths are relative to: `root`, or else the manifest's folder."""
    return str(path.resolve().parent) if root is None else root


def _trial(row: dict[str, Any], where: str) -> Trial:
    names = {key: _id(row, key, where) for key in ("target", "interferer", "enrollment") if key in row}
    return Trial(
        id=_id(row, "id", where),
        test_set=_id(row, "test_set", where),
        **names,
        snr_db=_number(row, "snr_db", where) if "snr_db" in row else None,
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where}: field {key!r} must be a string, found {_shown(value)}")
    return value


def _id(row: dict[str, Any], key: str, where: str) -> str:
    return check_id(_text(row, key, where), key, where)


def check_id(value: str, key: str, where: str) -> str:
    """Return an id that is harmless as a file's name.

    Raises:
        UserError: naming `where` and `key`, if it is not.
    """
    if not _ID.fullmatch(value):
        raise UserError(f"{where}: {key} {_shown(value)} may hold only A-Z a-z 0-9 . _ - and may not start with a dot")
    if len(value) > LONGEST_ID:
        raise UserError(f"{where}: the {key} is longer than {LONGEST_ID} characters")
    return value


def _truth(row: dict[str, Any], key: str, where: str) -> bool | None:
    value = row.get(key)
    if not (value is None or isinstance(value, bool)):
        raise UserError(f"{where}: field {key!r} must be true or false, found {_shown(value)}")
    return value


def _number(row: dict[str, Any], key: str, where: str) -> float:
    number = finite(row.get(key))
    if number is None:
        raise UserError(f"{where}: field {key!r} must be a finite number, found {_shown(row.get(key))}")
    return number


def _positive(row: dict[str, Any], key: str, where: str) -> float:
    value = _number(row, key, where)
    if value <= 0:
        raise UserError(f"{where}: field {key!r} must be positive, found {value!r}")
    return value


def _whole(row: dict[str, Any], key: str, where: str, least: int, most: int) -> int:
    value = _positive(row, key, where)
    if not least <= value <= most:
        raise UserError(f"{where}: field {key!r} must lie between {least} and {most}, found {value:g}")
    return int(value)


def _shown(value: object) -> str:
    """Return a value as a message has it: not all of a number of a thousand digits."""
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write integers of more digits than it reads.
        text = "a very long number"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
