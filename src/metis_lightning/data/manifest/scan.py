"""Lists a corpus piece by piece, as manifest rows and faults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import AudioInfo, inspect_audio
from metis_lightning.data.media.storage import files_stamp

# A manifest's line: the fields of `data.manifest.records.parse_row`.
Row = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """Something of a corpus that is not listed, by file, member or line.

    kind: why, worded alike for all faults that are counted together; `detail` is more about this one.
    archive: a whole archive or list is broken, so that an unknown number of utterances is missing.
    """

    where: str
    kind: str
    detail: str = ""
    archive: bool = False


@dataclass(frozen=True)
class Shard:
    """A piece of a corpus that is scanned at once: its name, and a stamp that changes when its content does."""

    name: str
    stamp: str

    @staticmethod
    def numbered(
        items: Sequence[Any], size: int, files: Callable[[Any], Iterable[Path]], name: str = "clips"
    ) -> list[Shard]:
        """Return shards of at most `size` items, `NAME:0`, `NAME:1`, …, with the stamp of the items' files."""
        pieces = [items[start : start + size] for start in range(0, len(items), size)]
        stamps = [files_stamp(*(path for item in piece for path in files(item))) for piece in pieces]
        return [Shard(f"{name}:{number}", stamp) for number, stamp in enumerate(stamps)]

    def of(self, items: Sequence[Any], size: int) -> Sequence[Any]:
        """Return those of the items that this is the shard of, one of `numbered`."""
        start = size * int(self.name.rpartition(":")[2])
        return items[start : start + size]


class CorpusScan(ABC):
    """Lists a corpus below a folder or URL, to which paths in rows are relative.

    Subclasses are dataclasses: their fields are the options that decide the rows. `layout` says what is looked for.
    """

    root: str
    layout: ClassVar[str]

    @abstractmethod
    def shards(self) -> Sequence[Shard]:
        """Return the pieces, in the order of the manifest; a UserError if the root cannot be listed."""

    @abstractmethod
    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield what a piece holds; a UserError if reading fails in a way that another attempt may cure."""


def inspect_file(path: Path, where: str, decode: bool) -> AudioInfo | Fault:
    """Inspect a local audio file; return what is wrong with it as a fault."""
    if not path.is_file():
        return Fault(where, "missing file")
    try:
        return inspect_audio(path.read_bytes(), decode)
    except AudioFault as odd:
        return Fault(where, odd.kind, odd.detail)


def manifest_row(
    utterance_id: object, path: object, info: AudioInfo, *, speaker: object, split: str, source: str, **more: object
) -> Row:
    """Return a manifest's line for audio that was inspected; `more` are its text, its language and further fields."""
    return {
        "id": utterance_id,
        "path": path,
        "speaker": speaker,
        "text": "",
        "language": "en",
        "seconds": round(info.seconds, 4),
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        "split": split,
        "source": source,
        **more,
    }
