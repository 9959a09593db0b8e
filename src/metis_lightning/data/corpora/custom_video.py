"""Users' own talking faces, by a list: jsonl, or csv with a header, a clip a line.

Of the columns, `video` or `lips` must be filled: `video` (a face, or a mouth in 96 x 96), `lips` (features (T, 768) at
25 Hz, .npy or .safetensors), `audio` (else the video's own sound is taken; with `lips` alone it must be there), `text`,
`speaker` (else each clip is its own), `id` (else the video's path), `split` (else train), `language` (else en). Paths
are relative to the root.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan
from metis_lightning.data.manifest.scan import Fault, Shard, chunks
from metis_lightning.data.media.storage import files_stamp
from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.texts import on_disk, read_lines

COLUMNS = ("video", "lips", "audio", "text", "speaker", "id", "split", "language")

_SHARD_CLIPS = 100


@dataclass(frozen=True)
class CustomVideoScan(TalkingFaceScan):
    """Lists what a user's list names.

    list: the list, `.jsonl` or `.csv`.
    """

    list: Path = Path("clips.csv")

    layout = "a list of clips that has a line"

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 100 clips."""
        found = []
        for number, lines in enumerate(chunks(self._lines, _SHARD_CLIPS)):
            files = [Path(self.root) / str(line[key]) for line in map(self._placed, lines) for key in _files(line)]
            # The list's own stamp: texts and speakers stand in it.
            found.append(Shard(f"clips:{number}", files_stamp(self.list, *files)))
        return found

    def clips(self, shard: Shard) -> Iterator[AvClip | Fault]:
        """Yield the clips of a piece."""
        start = int(shard.name.partition(":")[2]) * _SHARD_CLIPS
        for number, line in enumerate(self._lines[start : start + _SHARD_CLIPS], start=start):
            yield _clip(self._placed(line), f"{self.list.name} clip {number + 1}")

    def _placed(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line with its paths as the disk has them, whatever system wrote the list."""
        root = Path(self.root)
        found = {key: on_disk(root / line[key]) for key in _files(line) if isinstance(line[key], str)}
        return line | {key: path.relative_to(root).as_posix() for key, path in found.items() if _is_below(path, root)}

    @cached_property
    def _lines(self) -> Sequence[dict[str, Any]]:
        return read_list(self.list)


def _files(line: dict[str, Any]) -> list[str]:
    return [key for key in COLUMNS[:3] if line.get(key)]


def _is_below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and ".." not in path.parts


def read_list(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a user's list.

    Raises:
        UserError: if it is missing, not UTF-8, of another format, or has unknown columns.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such list; give --list a .jsonl or .csv with the columns {', '.join(COLUMNS)}")
    try:
        lines = _parsed(path)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not UTF-8 {path.suffix.lstrip('.')} ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or (unknown := sorted(set(map(str, line)) - set(COLUMNS))):
            what = "no object" if not isinstance(line, dict) else f"unknown columns {', '.join(unknown)}"
            raise UserError(f"{path}: clip {number} has {what}; the columns are {', '.join(COLUMNS)}")
    return lines


def _parsed(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        return [load_json(line) for line in read_lines(path) if line.strip()]
    if path.suffix == ".csv":
        # Spreadsheets start their files with a byte-order mark, and quote texts with line breaks.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    raise UserError(f"{path}: a list ends with .jsonl or .csv")


def _clip(line: dict[str, Any], where: str) -> AvClip | Fault:
    given = {key: value for key, value in line.items() if value not in (None, "")}
    if wrong := [key for key, value in given.items() if not isinstance(value, str)]:
        return Fault(where, "wrong field", f"{', '.join(wrong)} must be text")
    named = given.get("video") or given.get("lips")
    if named is None:
        return Fault(where, "missing pair", "neither video nor lips")
    stem = unicodedata.normalize("NFC", PurePosixPath(named).with_suffix("").as_posix())
    utterance_id = given.get("id", re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("."))
    return AvClip(
        where=where,
        id=utterance_id,
        speaker=given.get("speaker", utterance_id),
        split=given.get("split", "train"),
        source="own video",
        video=given.get("video"),
        audio=given.get("audio"),
        text=given.get("text"),
        language=given.get("language", "en"),
        lips=given.get("lips"),
    )
