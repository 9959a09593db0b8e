"""LRS3 and LRS2 by Auto-AVSR's preparation (2303.14307), the one that Metis's lip to speech follows.

`labels/<set>_<subset>_transcript_lengths_seg16s.csv`, without a header, has lines `set,path,pictures,token ids`. The
path is below the folder `<set>`: `<set>_video_seg16s/<folder>/<speaker>/<n>.mp4`, with a .wav of the same name beside
it (or its sound inside), and the words in `<set>_text_seg16s/…/<n>.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from metis_lightning.data.corpora.av_corpus import AvClip, PreparedScan, read_words
from metis_lightning.data.manifest.scan import Fault, Shard, chunks
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import files_stamp
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

_LIST = re.compile(r"(\w+?)_(train|val|test)_transcript_lengths_seg\d+s(\.\d+)*\.csv")
_SPLITS = {"train": "train", "val": "dev", "test": "test"}
_SHARD_CLIPS = 250


@dataclass(frozen=True)
class AutoAvsrScan(PreparedScan):
    """Lists Auto-AVSR's preparation of any of its corpora."""

    layout = "labels/lrs3_train_transcript_lengths_seg16s.csv and the like"

    @staticmethod
    def is_at(root: Path) -> bool:
        """Tell whether a folder is laid out so."""
        return any(_LIST.fullmatch(path.name) for path in (root / "labels").glob("*.csv"))

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 clips."""
        return [
            Shard(f"clips:{number}", files_stamp(*(path for clip in clips for path in self._files(clip))))
            for number, clips in enumerate(chunks(self._clips, _SHARD_CLIPS))
        ]

    def clips(self, shard: Shard) -> Iterator[AvClip | Fault]:
        """Yield the clips of a piece, with their words."""
        start = int(shard.name.partition(":")[2]) * _SHARD_CLIPS
        for clip in self._clips[start : start + _SHARD_CLIPS]:
            yield self._worded(clip)

    @cached_property
    def _clips(self) -> list[AvClip]:
        lists = sorted(path for path in (Path(self.root) / "labels").glob("*.csv") if _LIST.fullmatch(path.name))
        return [clip for path in lists for clip in _read(path)]

    def _worded(self, clip: AvClip) -> AvClip | Fault:
        _, text, audio = self._files(clip)
        if not text.is_file():
            return Fault(clip.where, "missing pair", f"no {text.relative_to(self.root)}")
        words = read_words(text, clip.where)
        if isinstance(words, Fault):
            return words
        # Some preparations put the sound into the video instead.
        heard = audio.relative_to(self.root).as_posix() if audio.is_file() else None
        return replace(clip, text=words, audio=heard)

    def _files(self, clip: AvClip) -> tuple[Path, Path, Path]:
        """Return the video, the text and the sound of a clip."""
        video = PurePosixPath(clip.video or "")
        folder = re.sub(r"_video_", "_text_", video.parts[1], count=1)
        text = PurePosixPath(video.parts[0], folder, *video.parts[2:]).with_suffix(".txt")
        return Path(self.root) / video, Path(self.root) / text, Path(self.root) / video.with_suffix(".wav")


def _read(path: Path) -> Iterator[AvClip]:
    """Yield the clips of a list, without their words.

    Raises:
        UserError: naming the line, if one is none.
    """
    match = _LIST.fullmatch(path.name)
    split = _SPLITS[match[2]] if match else "train"
    for number, line in enumerate(read_lines(path), start=1):
        cells = posix_path(line).split(",")
        where = f"{path}:{number}"
        parts = PurePosixPath(relative_path("/".join(cells[:2]), where)).parts
        if len(cells) != 4 or len(parts) < 5 or not cells[2].isdecimal():
            raise UserError(
                f"{where}: expected set, path, pictures and tokens, as in lrs3,lrs3_video_seg16s/test/ID/1.mp4,62,7 9"
            )
        *_, folder, speaker, name = parts
        yield AvClip(
            where="/".join(parts[2:]),
            id=f"{folder}_{speaker}_{PurePosixPath(name).stem}",
            speaker=speaker,
            split=split,
            source=f"{cells[0].upper()} {folder}",
            video="/".join(parts),
            frames=int(cells[2]),
        )
