"""Lists LRS3 by AV-HuBERT's preparation (2201.02184): mouths as `video/<id>.mp4`, sound as `audio/<id>.wav`.

`file.list` and `label.list` hold ids and words line by line; `{433h,30h}_data/{train,valid,test}.tsv` and `.wrd` hold
them too, with counts of pictures and samples after paths that are the preparing machine's, and are not used. An id is
`<folder>/<youtube id>/<n>`, where the folder is `trainval`, `test` or, cut at pauses, `short-pretrain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan, words_of
from metis_lightning.data.manifest.scan import Fault
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

# The longer list of the two; what both have is listed once.
_TABLES = ("433h_data", "30h_data")
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


@dataclass(frozen=True)
class AvHubertScan(TalkingFaceScan):
    """Lists AV-HuBERT's preparation; entries are clips, whose split is the tables', or without them the folder's."""

    layout = "file.list and label.list, or 433h_data/train.tsv and .wrd"

    @staticmethod
    def is_at(root: Path) -> bool:
        """Tell whether a folder is laid out so."""
        return (root / "file.list").is_file() or any((root / name).is_dir() for name in _TABLES)

    def entries(self) -> Sequence[AvClip]:
        """Return the clips of the lists; a table's line goes before that of `file.list`, but for words it lacks."""
        root = Path(self.root)
        clips = {clip.where: clip for clip in _read_list(root)}
        for table in reversed(_TABLES):
            for name, split in _SPLITS.items():
                for clip in _read_table(root / table / f"{name}.tsv", split):
                    before = clips.get(clip.where)
                    text = before.text if clip.text is None and before is not None else clip.text
                    clips[clip.where] = replace(clip, text=text)
        return list(clips.values())

    def files(self, entry: AvClip) -> Sequence[Path]:
        """Return the mouth and the sound of a clip."""
        return [Path(self.root, name) for name in (entry.video, entry.audio) if name]

    def clip(self, entry: AvClip) -> AvClip | Fault:
        """Return a clip if its line is complete."""
        if entry.where.count("/") != 2:
            return Fault(entry.where, "wrong field", "an id has three parts, such as test/UmvOgW6iV2s/00001")
        if entry.text is None:
            return Fault(entry.where, "missing pair", "no line in the list of words")
        return entry


def _read_list(root: Path) -> Iterator[AvClip]:
    texts = _lines(root / "label.list")
    for number, name in enumerate(map(posix_path, _lines(root / "file.list"))):
        clip = _clip_of(name, "test" if name.startswith("test/") else "train")
        yield replace(clip, text=words_of(texts[number]) if number < len(texts) else None)


def _read_table(path: Path, split: str) -> Iterator[AvClip]:
    texts = _lines(path.with_suffix(".wrd"))
    # The first line is the preparing machine's folder.
    for number, line in enumerate(_lines(path)[1:]):
        cells = line.split("\t")
        if len(cells) != 5 or not (cells[3].isdecimal() and cells[4].isdecimal()):
            raise UserError(f"{path}:{number + 2}: expected id, two paths and two counts; the file is cut or damaged")
        text = words_of(texts[number]) if number < len(texts) else None
        clip = _clip_of(posix_path(cells[0]), split)
        yield replace(clip, text=text, frames=int(cells[3]), samples=int(cells[4]))


def _clip_of(name: str, split: str) -> AvClip:
    folder, speaker, *_ = f"{name}//".split("/")
    video, audio = f"video/{name}.mp4", f"audio/{name}.wav"
    return AvClip(name, name.replace("/", "_"), speaker, split, f"LRS3 {folder}", video, audio)


def _lines(path: Path) -> list[str]:
    return read_lines(path) if path.is_file() else []
