"""Lists LRS3 by AV-HuBERT's preparation (2201.02184): mouths as `video/<id>.mp4`, sound as `audio/<id>.wav`.

`file.list` and `label.list` hold ids and words line by line; `{433h,30h}_data/{train,valid,test}.tsv` and `.wrd` hold
them too, with counts of pictures and samples after paths that are the preparing machine's, and are not used. An id is
`<folder>/<youtube id>/<n>`, where the folder is `trainval`, `test` or, cut at pauses, `short-pretrain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metis_lightning.data.corpora.av_corpus import AvClip, ListedFaceScan, words_of
from metis_lightning.data.manifest.scan import Fault
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

# The longer list of the two; what both have is listed once.
_TABLES = ("433h_data", "30h_data")
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


@dataclass(frozen=True)
class _Entry:
    """A line of the lists."""

    id: str
    text: str | None
    split: str
    frames: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class AvHubertScan(ListedFaceScan):
    """Lists AV-HuBERT's preparation; the split is the tables', or without them that of the folder."""

    layout = "file.list and label.list, or 433h_data/train.tsv and .wrd"

    @staticmethod
    def is_at(root: Path) -> bool:
        """Tell whether a folder is laid out so."""
        return (root / "file.list").is_file() or any((root / name).is_dir() for name in _TABLES)

    def entries(self) -> Sequence[_Entry]:
        """Return the lines of the lists; a table's line goes before that of `file.list`, but for words it lacks."""
        root = Path(self.root)
        entries = {entry.id: entry for entry in _read_list(root)}
        for table in reversed(_TABLES):
            for name, split in _SPLITS.items():
                for entry in _read_table(root / table / f"{name}.tsv", split):
                    before = entries.get(entry.id)
                    text = before.text if entry.text is None and before is not None else entry.text
                    entries[entry.id] = replace(entry, text=text)
        return list(entries.values())

    def files(self, entry: _Entry) -> Sequence[Path]:
        """Return the mouth and the sound of an entry."""
        return [Path(self.root) / f"video/{entry.id}.mp4", Path(self.root) / f"audio/{entry.id}.wav"]

    def clip(self, entry: _Entry) -> AvClip | Fault:
        """Return the clip of an entry."""
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


def _read_list(root: Path) -> Iterator[_Entry]:
    texts = _lines(root / "label.list")
    for number, name in enumerate(map(posix_path, _lines(root / "file.list"))):
        text = words_of(texts[number]) if number < len(texts) else None
        yield _Entry(name, text, "test" if name.startswith("test/") else "train")


def _read_table(path: Path, split: str) -> Iterator[_Entry]:
    texts = _lines(path.with_suffix(".wrd"))
    # The first line is the preparing machine's folder.
    for number, line in enumerate(_lines(path)[1:]):
        cells = line.split("\t")
        if len(cells) != 5 or not (cells[3].isdecimal() and cells[4].isdecimal()):
            raise UserError(f"{path}:{number + 2}: expected id, two paths and two counts; the file is cut or damaged")
        text = words_of(texts[number]) if number < len(texts) else None
        yield _Entry(posix_path(cells[0]), text, split, int(cells[3]), int(cells[4]))


def _lines(path: Path) -> list[str]:
    return read_lines(path) if path.is_file() else []
