"""LRS3 (1809.00496) as its authors gave it out, and the choice between it and its two usual preparations.

Raw: `{pretrain,trainval,test}/<youtube id>/<n>.{mp4,txt}`. A text's first line is `Text:  WORDS IN CAPITALS`; what may
follow (`Conf:`, `Ref:`, boxes of the face, times of the words) is not needed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.auto_avsr import AutoAvsrScan
from metis_lightning.data.corpora.av_corpus import Clip, PreparedScan, TalkingFaceScan, read_words
from metis_lightning.data.corpora.av_hubert import AvHubertScan
from metis_lightning.data.manifest.scan import Fault, Shard
from metis_lightning.data.media.storage import shown_in, stamp_of
from metis_lightning.errors import UserError

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
        folders = [path for split in SPLITS for path in shown_in(Path(self.root) / split) if path.is_dir()]
        return [
            Shard(path.relative_to(self.root).as_posix(), stamp_of(*files))
            for path in folders
            if (files := shown_in(path))
        ]

    def clips(self, shard: Shard) -> Iterator[Clip | Fault]:
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


def raw_clips(folder: Path, prefix: str, split: str, source: str) -> Iterator[Clip | Fault]:
    """Yield the pairs of mp4 and txt of a folder, whose name is the speaker's."""
    stems = sorted({path.stem for path in shown_in(folder) if path.suffix in {".mp4", ".txt"}})
    for stem in stems:
        yield raw_clip(folder / stem, f"{prefix}_{stem}", split, source)


def raw_clip(base: Path, utterance_id: str, split: str, source: str) -> Clip | Fault:
    """Return the clip of `base` with the endings .mp4 and .txt; a .wav beside them goes before its sound."""
    where = "/".join(base.parts[-3:])
    for suffix in (".mp4", ".txt"):
        if not Path(f"{base}{suffix}").is_file():
            return Fault(where, "missing pair", f"no {base.name}{suffix}")
    text = read_words(Path(f"{base}.txt"), where)
    if isinstance(text, Fault):
        return text
    audio = f"{where}.wav" if Path(f"{base}.wav").is_file() else None
    return Clip(where, utterance_id, base.parent.name, split, source, f"{where}.mp4", audio, text)
