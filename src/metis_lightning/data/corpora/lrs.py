"""Lists LRS3 (1809.00496) and LRS2 as their authors gave them out, and chooses between these and their preparations.

LRS3: `{pretrain,trainval,test}/<youtube id>/<n>.{mp4,txt}`. A text's first line is `Text:  WORDS IN CAPITALS`; what may
follow (`Conf:`, `Ref:`, boxes of the face, times of the words) is not needed here.

LRS2: `mvlrs_v1/{main,pretrain}/<number>/<n>.{mp4,txt}`, and the lists `train.txt`, `val.txt`, `test.txt` and
`pretrain.txt` beside or in that folder, a clip a line, `<number>/<n>`, perhaps with a tag after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.auto_avsr import AutoAvsrScan
from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan, read_words
from metis_lightning.data.corpora.av_hubert import AvHubertScan
from metis_lightning.data.manifest.scan import Fault, Shard
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import files_stamp, require_folder, visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

_LRS3_SPLITS = {"pretrain": "train", "trainval": "train", "test": "test"}

# The folder of a list's clips, and their split.
_LRS2_LISTS = {
    "pretrain": ("pretrain", "train"),
    "train": ("main", "train"),
    "val": ("main", "dev"),
    "test": ("main", "test"),
}


@dataclass(frozen=True)
class RawLrsScan(TalkingFaceScan):
    """Lists pairs of mp4 and txt; entries are their path without suffix, the clip's id, its split and its source."""

    def files(self, entry: tuple[Path, str, str, str]) -> Sequence[Path]:
        """Return the video, the text, and the sound that may lie beside them."""
        return [Path(f"{entry[0]}{suffix}") for suffix in (".mp4", ".txt", ".wav")]

    def clip(self, entry: tuple[Path, str, str, str]) -> AvClip | Fault:
        """Return the clip of an entry; a .wav goes before the video's sound."""
        base, name, split, source = entry
        where = "/".join(base.parts[-3:])
        video, text, audio = self.files(entry)
        try:
            # The root may be above `mvlrs_v1`.
            below = relative_path(base.relative_to(self.root).as_posix(), where)
        except (UserError, ValueError) as error:
            return Fault(where, "wrong field", str(error))
        if missing := [path.name for path in (video, text) if not path.is_file()]:
            return Fault(where, "missing pair", f"no {missing[0]}")
        words = read_words(text, where)
        if isinstance(words, Fault):
            return words
        sound = f"{below}.wav" if audio.is_file() else None
        return AvClip(where, name, base.parent.name, split, source, f"{below}.mp4", sound, words)


@dataclass(frozen=True)
class Lrs3Scan(RawLrsScan):
    """Lists raw LRS3, a speaker (a YouTube id) at a time."""

    layout = "{pretrain,trainval,test}/<youtube id>/<n>.mp4 and .txt"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each folder of clips."""
        folders = [path for subset in _LRS3_SPLITS for path in visible_in(Path(self.root) / subset) if path.is_dir()]
        listed = [(path.relative_to(self.root).as_posix(), visible_in(path)) for path in folders]
        return [Shard(name, files_stamp(*files)) for name, files in listed if files]

    def entries_of(self, shard: Shard) -> Sequence[tuple[Path, str, str, str]]:
        """Return the clips of a folder."""
        subset, speaker = shard.name.split("/")
        folder, split = Path(self.root) / shard.name, _LRS3_SPLITS[subset]
        stems = sorted({path.stem for path in visible_in(folder) if path.suffix in {".mp4", ".txt"}})
        return [(folder / stem, f"{subset}_{speaker}_{stem}", split, f"LRS3 {subset}") for stem in stems]

    def entries(self) -> Sequence[tuple[Path, str, str, str]]:
        """Return the clips of all folders."""
        return [entry for shard in self.shards() for entry in self.entries_of(shard)]


@dataclass(frozen=True)
class Lrs2Scan(RawLrsScan):
    """Lists raw LRS2; a speaker is one of its numbered folders. `root` is `mvlrs_v1` or the folder above."""

    layout = "mvlrs_v1/main/<number>/<n>.mp4, and train.txt, val.txt, test.txt or pretrain.txt beside mvlrs_v1"

    def entries(self) -> Sequence[tuple[Path, str, str, str]]:
        """Return the clips of all lists."""
        root, inner = Path(self.root), Path(self.root) / "mvlrs_v1"
        corpus, entries = inner if inner.is_dir() else root, []
        for name, (folder, split) in _LRS2_LISTS.items():
            path = next((p for p in (corpus.parent / f"{name}.txt", corpus / f"{name}.txt") if p.is_file()), None)
            lines = [] if path is None else read_lines(path)
            for clip in (posix_path(line.split()[0]) for line in lines if line.strip()):
                entries.append((corpus / folder / clip, f"{folder}_{clip.replace('/', '_')}", split, f"LRS2 {name}"))
        return entries


def lrs3_scan(root: str, decode: bool = True, mouths: str | None = None, layout: str = "auto") -> TalkingFaceScan:
    """Return the scan of LRS3, raw or prepared; see `TalkingFaceScan`.

    `layout` is `raw`, `avhubert`, `autoavsr`, or `auto`, which looks for the lists of the preparations.

    Raises:
        UserError: if there is no such folder or layout.
    """
    require_folder(root)
    prepared: dict[str, type[AvHubertScan | AutoAvsrScan]] = {"avhubert": AvHubertScan, "autoavsr": AutoAvsrScan}
    scans: dict[str, type[TalkingFaceScan]] = {"raw": Lrs3Scan, **prepared}
    if layout == "auto":
        layout = next((name for name, scan in prepared.items() if scan.is_at(Path(root))), "raw")
    if layout not in scans:
        raise UserError(f"layout {layout!r}: choose one of auto, {', '.join(scans)}")
    return scans[layout](root, decode, mouths)


def lrs2_scan(root: str, decode: bool = True, mouths: str | None = None) -> TalkingFaceScan:
    """Return the scan of LRS2, raw or by Auto-AVSR's preparation; a UserError if there is no such folder."""
    require_folder(root)
    scan = AutoAvsrScan if AutoAvsrScan.is_at(Path(root)) else Lrs2Scan
    return scan(root, decode, mouths)
