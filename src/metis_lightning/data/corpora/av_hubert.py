"""LRS3 by AV-HuBERT's preparation (2201.02184): mouths as `video/<id>.mp4`, sound as `audio/<id>.wav`.

`file.list` and `label.list` hold ids and words line by line; `{433h,30h}_data/{train,valid,test}.tsv` and `.wrd` hold
them too, with counts of pictures and samples after paths that are the preparing machine's, and are not used. An id is
`<folder>/<youtube id>/<n>`, where the folder is `trainval`, `test` or, cut at pauses, `short-pretrain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from metis_lightning.data.corpora.av_corpus import AvClip, PreparedScan, words_of
from metis_lightning.data.manifest.scan import Fault, Shard, chunks
from metis_lightning.data.media.storage import files_stamp
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

# The longer list of the two; what both have is listed once.
_TABLES = ("433h_data", "30h_data")
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
_SHARD_CLIPS = 250


@dataclass(frozen=True)
class _Entry:
    """A line of the lists."""

    id: str
    text: str | None
    split: str
    frames: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class AvHubertScan(PreparedScan):
    """Lists AV-HuBERT's preparation; the split is the tables', or without them that of the folder."""

    layout = "file.list and label.list, or 433h_data/train.tsv and .wrd"

    @staticmethod
    def is_at(root: Path) -> bool:
        """Tell whether a folder is laid out so."""
        return (root / "file.list").is_file() or any((root / name).is_dir() for name in _TABLES)

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 clips."""
        return [
            Shard(f"clips:{number}", files_stamp(*(path for entry in entries for path in self._files(entry))))
            for number, entries in enumerate(chunks(self._entries, _SHARD_CLIPS))
        ]

    def clips(self, shard: Shard) -> Iterator[AvClip | Fault]:
        """Yield the clips of a piece."""
        start = int(shard.name.partition(":")[2]) * _SHARD_CLIPS
        yield from map(_clip, self._entries[start : start + _SHARD_CLIPS])

    @cached_property
    def _entries(self) -> list[_Entry]:
        root = Path(self.root)
        found = {entry.id: entry for entry in _listed(root)}
        for table in reversed(_TABLES):
            for name, split in _SPLITS.items():
                for entry in _table(root / table / f"{name}.tsv", split):
                    before = found.get(entry.id)
                    worded = entry if entry.text is not None or before is None else replace(entry, text=before.text)
                    found[entry.id] = worded
        return list(found.values())

    def _files(self, entry: _Entry) -> list[Path]:
        return [Path(self.root) / f"video/{entry.id}.mp4", Path(self.root) / f"audio/{entry.id}.wav"]


def _clip(entry: _Entry) -> AvClip | Fault:
    parts = entry.id.split("/")
    if len(parts) != 3:
        return Fault(entry.id, "wrong field", "an id has three parts, such as test/UmvOgW6iV2s/00001")
    if entry.text is None:
        return Fault(entry.id, "missing pair", "no line in the list of words")
    return AvClip(
        where=entry.id,
        id="_".join(parts),
        speaker=parts[1],
        split=entry.split,
        source=f"LRS3 {parts[0]}",
        video=f"video/{entry.id}.mp4",
        audio=f"audio/{entry.id}.wav",
        text=entry.text,
        frames=entry.frames,
        samples=entry.samples,
    )


def _listed(root: Path) -> Iterator[_Entry]:
    if (root / "file.list").is_file():
        ids, texts = (_lines(root / name) for name in ("file.list", "label.list"))
        for number, name in enumerate(map(posix_path, ids)):
            text = words_of(texts[number]) if number < len(texts) else None
            yield _Entry(name, text, "test" if name.startswith("test/") else "train")


def _table(path: Path, split: str) -> Iterator[_Entry]:
    if not path.is_file():
        return
    words = _lines(path.with_suffix(".wrd"))
    for number, line in enumerate(_lines(path)[1:]):
        cells = line.split("\t")
        if len(cells) != 5 or not (cells[3].isdecimal() and cells[4].isdecimal()):
            raise UserError(f"{path}:{number + 2}: expected id, two paths and two counts; the file is cut or damaged")
        text = words_of(words[number]) if number < len(words) else None
        yield _Entry(posix_path(cells[0]), text, split, int(cells[3]), int(cells[4]))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return read_lines(path)
