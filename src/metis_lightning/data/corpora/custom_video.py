"""Lists users' own talking faces by a list of theirs: jsonl, or csv with a header, a clip a line.

Of the columns, `video` or `lips` must be filled: `video` (a face, or a mouth in 96 x 96), `lips` (features (T, 768) at
25 Hz, .npy or .safetensors), `audio` (else the video's own sound is taken; with `lips` alone it must be there), `text`,
`speaker` (else each clip is its own), `id` (else the video's path), `split` (else train), `language` (else en). Paths
are relative to the root.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan
from metis_lightning.data.manifest.scan import Fault
from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.texts import on_disk, read_lines

LIST_COLUMNS = ("video", "lips", "audio", "text", "speaker", "id", "split", "language")

_FILES = LIST_COLUMNS[:3]


@dataclass(frozen=True)
class CustomVideoScan(TalkingFaceScan):
    """Lists the clips of a user's list; entries are its lines, with their numbers.

    list: the list, `.jsonl` or `.csv`.
    """

    list: Path = Path("clips.csv")

    layout = "a list of clips that has a line"

    def entries(self) -> Sequence[tuple[int, dict[str, Any]]]:
        """Return the lines, with paths as the disk has them, whatever system wrote the list."""
        root, entries = Path(self.root), []
        for number, line in enumerate(read_list(self.list), start=1):
            paths = {key: on_disk(root / line[key]) for key in _FILES if line.get(key) and isinstance(line[key], str)}
            below = {key: path for key, path in paths.items() if path.is_relative_to(root) and ".." not in path.parts}
            entries.append((number, line | {key: path.relative_to(root).as_posix() for key, path in below.items()}))
        return entries

    def files(self, entry: tuple[int, dict[str, Any]]) -> Sequence[Path]:
        """Return the files of a line, and the list: texts and speakers stand in it."""
        line = entry[1]
        return [self.list, *(Path(self.root) / str(line[key]) for key in _FILES if line.get(key))]

    def clip(self, entry: tuple[int, dict[str, Any]]) -> AvClip | Fault:
        """Return the clip of a line."""
        where = f"{self.list.name} clip {entry[0]}"
        filled = {key: value for key, value in entry[1].items() if value not in (None, "")}
        if wrong := [key for key, value in filled.items() if not isinstance(value, str)]:
            return Fault(where, "wrong field", f"{', '.join(wrong)} must be text")
        picture = filled.get("video") or filled.get("lips")
        if picture is None:
            return Fault(where, "missing pair", "neither video nor lips")
        # Macs write letters and their accents as two signs; an id is the same on every system.
        stem = unicodedata.normalize("NFC", PurePosixPath(picture).with_suffix("").as_posix())
        utterance_id = filled.get("id", re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("."))
        defaults = {"id": utterance_id, "speaker": utterance_id, "split": "train"}
        return AvClip(where=where, source="own video", **{**defaults, **filled})


def read_list(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a user's list; a UserError if there is none, it is not UTF-8, or has unknown columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such list; --list takes .jsonl or .csv with the columns {', '.join(LIST_COLUMNS)}")
    try:
        if path.suffix == ".jsonl":
            lines = [load_json(line) for line in read_lines(path) if line.strip()]
        elif path.suffix == ".csv":
            # Spreadsheets start their files with a byte-order mark, and quote texts with line breaks.
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = list(csv.DictReader(file))
        else:
            raise UserError(f"{path}: a list ends with .jsonl or .csv")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not UTF-8 {path.suffix.lstrip('.')} ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or (unknown := sorted(set(map(str, line)) - set(LIST_COLUMNS))):
            what = "no object" if not isinstance(line, dict) else f"unknown columns {', '.join(unknown)}"
            raise UserError(f"{path}: clip {number} has {what}; the columns are {', '.join(LIST_COLUMNS)}")
    return lines
