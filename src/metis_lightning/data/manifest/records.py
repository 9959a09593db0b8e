"""Manifests and trial lists: JSON lines to records, with every mistake named by file and line.

Others made them, so a path may not leave the corpus's root, and an id, which names files, holds harmless characters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from metis_lightning.data.media.decoding import SAMPLE_RATES
from metis_lightning.data.media.locations import parse_file, parse_location
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.safe_parsing import finite, load_json
from metis_lightning.texts import clean_text
from metis_lightning.types import Trial, Utterance

# Version of a manifest's lines; pieces of another are built anew.
SCHEMA = 1
# Suffixes, in place of `.jsonl`, of what lies beside a manifest: its summary, what it leaves out, finished pieces.
SUMMARY, FAULTS, PARTS = ".summary.json", ".faults.jsonl", ".parts"
# Ids become names of files, which must lead nowhere else and have room for 255 bytes.
SAFE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
LONGEST_ID = 200

_Record = TypeVar("_Record", Utterance, Trial)
_LONGEST_SHOWN = 100
_Parser = Callable[[Any, str, str], Any]
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._-][A-Za-z0-9._/-]*")


def read_manifest(path: Path | str, root: str | None = None) -> list[Utterance]:
    """Read the utterances of a corpus below `root`, a folder or URL; None is the manifest's folder.

    A `UserError` names file and line if a line is not as of `parse_row`, or an id occurs twice.
    """
    path = Path(path)
    folder = str(path.resolve().parent) if root is None else root
    return _read_records(path, lambda row, where: parse_row(row, folder, where))


def read_trials(path: Path | str) -> list[Trial]:
    """Read a test list: the fields of `Trial`, some of which may be missing; a UserError as for `read_manifest`."""
    return _read_records(Path(path), lambda row, where: Trial(**_parse_fields(row, _TRIAL, where)))


def check_manifest(path: Path) -> None:
    """Compare a manifest with the checksum that `prepare` left beside it, if any; a UserError if they differ."""
    summary = path.with_suffix(SUMMARY)
    if not summary.is_file() or not path.is_file():
        return
    try:
        expected = load_json(summary.read_bytes())
        is_whole = path.stat().st_size == expected["bytes"] and sha256_of(path) == expected["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{summary}: not a summary of `prepare` ({error!r}); prepare anew") from error
    if not is_whole:
        raise UserError(
            f"{path}: not the manifest that {summary.name} is of (checksum); copy both again or prepare anew"
        )


def check_utterance(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a manifest's line, whose locations are only checked; errors as of `parse_row`."""
    fields = _utterance_fields(row, where)
    for _, parse, value in _listed_locations(row):
        # Nearly every line has a path of the simplest kind, and that is quickly told.
        is_plain = isinstance(value, str) and _PLAIN_PATH.fullmatch(value) and "/../" not in f"/{value}/"
        if not is_plain:
            parse(value, "", where)
    return fields


def parse_row(row: dict[str, Any], root: str, where: str) -> Utterance:
    """Return the utterance of a manifest's line; a UserError naming `where`, if a field is missing or wrong.

    The line has `id, path, speaker, text, language, seconds, sample_rate, split` and optionally `source, license,
    channels, dnsmos, heard, video, lips, is_whole`; other keys are ignored. `path` and `heard`, the utterance's
    `mixture`, are locations (`data.media.locations`), `video` and `lips` files, all below `root` without `..`;
    `language` may carry a region ("en-US"), which is dropped.
    """
    fields = _utterance_fields(row, where)
    locations = {name: parse(value, root, where) for name, parse, value in _listed_locations(row)}
    return Utterance(**fields, **locations)


def _read_records(path: Path, parse: Callable[[dict[str, Any], str], _Record]) -> list[_Record]:
    records: list[_Record] = []
    seen: dict[str, str] = {}
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such manifest; check the data root")
    for row, _, where in read_rows(path):
        record = parse(row, where)
        if record.id in seen:
            raise UserError(f"{where}: id {record.id!r} occurs already at {seen[record.id]}; ids must be unique")
        seen[record.id] = where
        records.append(record)
    return records


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield the object of each line that is not blank, the byte at which the line begins, and its file and number."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if line.strip():
                yield parse_object(line, where), offset, where
            offset += len(line)


def parse_object(line: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object of a line; a UserError naming `where`, if it is none."""
    try:
        row = load_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}; each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _parse_fields(row: Mapping[str, Any], schema: Mapping[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    return {
        name: default[0] if default and name not in row else parse(row.get(name), name, where)
        for name, (parse, *default) in schema.items()
    }


def _utterance_fields(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = _parse_fields(row, _UTTERANCE, where)
    fields["text"] = clean_text(fields["text"])
    fields["language"] = fields["language"].split("-")[0].lower()
    fields["dnsmos"] = None if row.get("dnsmos") is None else _number(row["dnsmos"], "dnsmos", where)
    # Shown, never computed with: any value will do.
    fields["source"], fields["license"] = str(row.get("source", "")), str(row.get("license", ""))
    return fields


def _listed_locations(row: Mapping[str, Any]) -> Iterator[tuple[str, _Parser, Any]]:
    for field, (key, parse) in _LOCATIONS.items():
        # The audio's own must be there.
        if field == "path" or row.get(key) is not None:
            yield field, parse, row.get(key)


def _text(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: field {key!r} must be a string, found {_shown(value)}")
    return value


def check_id(value: object, key: str, where: str) -> str:
    """Return an id that is harmless as a file's name; a UserError naming `where` and `key`, if it is not."""
    value = _text(value, key, where)
    if not SAFE_ID.fullmatch(value):
        raise UserError(f"{where}: {key} {_shown(value)} may hold only A-Z a-z 0-9 . _ - and may not start with a dot")
    if len(value) > LONGEST_ID:
        raise UserError(f"{where}: the {key} is longer than {LONGEST_ID} characters")
    return value


def _truth(value: object, key: str, where: str) -> bool | None:
    if not (value is None or isinstance(value, bool)):
        raise UserError(f"{where}: field {key!r} must be true or false, found {_shown(value)}")
    return value


def _number(value: object, key: str, where: str) -> float:
    number = finite(value)
    if number is None:
        raise UserError(f"{where}: field {key!r} must be a finite number, found {_shown(value)}")
    return number


def _positive(value: object, key: str, where: str) -> float:
    number = _number(value, key, where)
    if number <= 0:
        raise UserError(f"{where}: field {key!r} must be positive, found {number!r}")
    return number


def _whole(least: int, most: int) -> _Parser:
    def parse(value: object, key: str, where: str) -> int:
        number = _positive(value, key, where)
        if not least <= number <= most:
            raise UserError(f"{where}: field {key!r} must lie between {least} and {most}, found {number:g}")
        return int(number)

    return parse


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write integers of more digits than it reads.
        text = "a very long number"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


# The fields of a line: what parses each, and the default of one that may be missing.
_UTTERANCE: Mapping[str, tuple[Any, ...]] = {
    "id": (check_id,),
    "speaker": (check_id,),
    "text": (_text,),
    "language": (_text,),
    "seconds": (_positive,),
    "sample_rate": (_whole(*SAMPLE_RATES),),
    "split": (_text,),
    "channels": (_whole(1, 1024), 1),
    "is_whole": (_truth, None),
}
_TRIAL: Mapping[str, tuple[Any, ...]] = {
    "id": (check_id,),
    "test_set": (check_id,),
    "target": (check_id, ""),
    "interferer": (check_id, ""),
    "enrollment": (check_id, ""),
    "snr_db": (_number, None),
}

# By the field of `Utterance`: the key of the line, and what parses the location.
_LOCATIONS: Mapping[str, tuple[str, _Parser]] = {
    "path": ("path", parse_location),
    "mixture": ("heard", parse_location),
    "video": ("video", parse_file),
    "lips": ("lips", parse_file),
}
