"""LRS3 (1809.00496) as its authors gave it out, and the choice between it and its two usual preparations.

Raw: `{pretrain,trainval,test}/<youtube id>/<n>.{mp4,txt}`. A text's first line is `Text:  WORDS IN CAPITALS`; what may
follow (`Conf:`, `Ref:`, boxes of the face, times of the words) is not needed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.auto_avsr import AutoAvsrScan
from metis_lightning.data.corpora.av_corpus import AvClip, PreparedScan, TalkingFaceScan, read_words
from metis_lightning.data.corpora.av_hubert import AvHubertScan
from metis_lightning.data.manifest.scan import Fault, Shard, chunks
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import files_stamp, visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

SPLITS = {"pretrain": "train", "trainval": "train", "test": "test"}
"""Folders of the raw corpus, and the split of their clips."""

PREPARED: dict[str, type[PreparedScan]] = {"avhubert": AvHubertScan, "autoavsr": AutoAvsrScan}
"""Layouts that have lists."""


@dataclass(frozen=True)
class Lrs3Scan(TalkingFaceScan):
    """Lists raw LRS3, a speaker (a YouTube id) at a time."""

    layout = "{pretrain,trainval,test}/<youtube id>/<n>.mp4 and .txt"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each folder of clips."""
        folders = [path for split in SPLITS for path in visible_in(Path(self.root) / split) if path.is_dir()]
        return [
            Shard(path.relative_to(self.root).as_posix(), files_stamp(*files))
            for path in folders
            if (files := visible_in(path))
        ]

    def clips(self, shard: Shard) -> Iterator[AvClip | Fault]:
        """Yield the clips of a folder."""
        split, speaker = shard.name.split("/")
        yield from raw_clips(Path(self.root) / shard.name, f"{split}_{speaker}", SPLITS[split], f"LRS3 {split}")


def lrs3_scan(root: str, decode: bool = True, mouths: str | None = None, layout: str = "auto") -> TalkingFaceScan:
    """Return the scan of LRS3, raw or prepared.

    Args:
        root: folder of the corpus.
        decode: see `TalkingFaceScan`.
        mouths: see `TalkingFaceScan`.
        layout: `raw`, `avhubert`, `autoavsr`, or `auto`, which looks for the lists of the preparations.

    Raises:
        UserError: if there is no such folder or layout.
    """
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of the corpus")
    scans: dict[str, type[TalkingFaceScan]] = {"raw": Lrs3Scan, **PREPARED}
    if layout == "auto":
        layout = next((name for name, scan in PREPARED.items() if scan.is_at(Path(root))), "raw")
    if layout not in scans:
        raise UserError(f"layout {layout!r}: choose one of auto, {', '.join(scans)}")
    return scans[layout](root, decode, mouths)


def raw_clips(folder: Path, prefix: str, split: str, source: str) -> Iterator[AvClip | Fault]:
    """Yield the pairs of mp4 and txt of a folder, whose name is the speaker's."""
    stems = sorted({path.stem for path in visible_in(folder) if path.suffix in {".mp4", ".txt"}})
    for stem in stems:
        yield raw_clip(folder / stem, f"{prefix}_{stem}", split, source)


def raw_clip(base: Path, utterance_id: str, split: str, source: str) -> AvClip | Fault:
    """Return the clip of `base` with the endings .mp4 and .txt; a .wav beside them goes before its sound."""
    where = "/".join(base.parts[-3:])
    for suffix in (".mp4", ".txt"):
        if not Path(f"{base}{suffix}").is_file():
            return Fault(where, "missing pair", f"no {base.name}{suffix}")
    text = read_words(Path(f"{base}.txt"), where)
    if isinstance(text, Fault):
        return text
    audio = f"{where}.wav" if Path(f"{base}.wav").is_file() else None
    return AvClip(where, utterance_id, base.parent.name, split, source, f"{where}.mp4", audio, text)


LISTS = {
    "pretrain": ("pretrain", "train"),
    "train": ("main", "train"),
    "val": ("main", "dev"),
    "test": ("main", "test"),
}
"""Lists, the folder of their clips, and the clips' split."""

_SHARD_CLIPS = 250


@dataclass(frozen=True)
class Lrs2Scan(TalkingFaceScan):
    """Lists raw LRS2; a speaker is one of its numbered folders. `root` is `mvlrs_v1` or the folder above."""

    layout = "mvlrs_v1/main/<number>/<n>.mp4, and train.txt, val.txt, test.txt or pretrain.txt beside mvlrs_v1"

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 clips of each list."""
        found = []
        for name in LISTS:
            for number, lines in enumerate(chunks(self._listed(name), _SHARD_CLIPS)):
                bases = [self._folder(name) / line for line in lines]
                files = [Path(f"{base}{suffix}") for base in bases for suffix in (".mp4", ".txt")]
                found.append(Shard(f"{name}:{number}", files_stamp(*files)))
        return found

    def clips(self, shard: Shard) -> Iterator[AvClip | Fault]:
        """Yield the clips of a piece of a list."""
        name, _, number = shard.name.partition(":")
        start, folder = int(number) * _SHARD_CLIPS, self._folder(name)
        for line in self._listed(name)[start : start + _SHARD_CLIPS]:
            try:
                relative_path(line, name)
            except UserError as error:
                yield Fault(f"{name}.txt/{line}", "wrong field", str(error))
                continue
            clip = raw_clip(folder / line, f"{LISTS[name][0]}_{line.replace('/', '_')}", LISTS[name][1], f"LRS2 {name}")
            yield clip if isinstance(clip, Fault) else self._below_root(clip, folder)

    def _below_root(self, clip: AvClip, folder: Path) -> AvClip:
        """Return the clip with paths that start at the root, which may be above `mvlrs_v1`."""
        above = folder.parent.relative_to(self.root)
        return AvClip(**{**vars(clip), **{key: (above / path).as_posix() for key, path in _files(clip).items()}})

    def _listed(self, name: str) -> list[str]:
        """Return the clips of a list; none if there is no such list."""
        main = self._corpus()
        path = next((p for p in (main.parent / f"{name}.txt", main / f"{name}.txt") if p.is_file()), None)
        if path is None:
            return []
        return [posix_path(line.split()[0]) for line in read_lines(path) if line.strip()]

    def _folder(self, name: str) -> Path:
        return self._corpus() / LISTS[name][0]

    def _corpus(self) -> Path:
        inner = Path(self.root) / "mvlrs_v1"
        return inner if inner.is_dir() else Path(self.root)


def lrs2_scan(root: str, decode: bool = True, mouths: str | None = None) -> TalkingFaceScan:
    """Return the scan of LRS2, raw or by Auto-AVSR's preparation.

    Raises:
        UserError: if there is no such folder.
    """
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of the corpus")
    scan = AutoAvsrScan if AutoAvsrScan.is_at(Path(root)) else Lrs2Scan
    return scan(root, decode, mouths)


def _files(clip: AvClip) -> dict[str, str]:
    return {key: path for key in ("video", "audio") if (path := getattr(clip, key)) is not None}
