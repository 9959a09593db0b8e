"""Lists LRS3 and LRS2 by Auto-AVSR's preparation (2303.14307), the one that Metis's lip to speech follows.

`labels/<set>_<subset>_transcript_lengths_seg16s.csv`, without a header, has lines `set,path,pictures,token ids`. The
path is below the folder `<set>`: `<set>_video_seg16s/<folder>/<speaker>/<n>.mp4`, with a .wav of the same name beside
it (or its sound inside), and the words in `<set>_text_seg16s/…/<n>.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan, read_words
from metis_lightning.data.manifest.scan import Fault
from metis_lightning.data.media.locations import relative_path
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

_LIST = re.compile(r"(\w+?)_(train|val|test)_transcript_lengths_seg\d+s(\.\d+)*\.csv")
_SPLITS = {"train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class AutoAvsrScan(TalkingFaceScan):
    """Lists Auto-AVSR's preparation of any of its corpora; entries are clips without their words."""

    layout = "labels/lrs3_train_transcript_lengths_seg16s.csv and the like"

    @staticmethod
    def is_at(root: Path) -> bool:
        """Tell whether a folder is laid out so."""
        return any(_LIST.fullmatch(path.name) for path in (root / "labels").glob("*.csv"))

    def entries(self) -> Sequence[AvClip]:
        """Return the clips of all lists."""
        lists = sorted((Path(self.root) / "labels").glob("*.csv"))
        matches = ((path, _LIST.fullmatch(path.name)) for path in lists)
        return [clip for path, match in matches if match for clip in _read_list(path, _SPLITS[match[2]])]

    def files(self, entry: AvClip) -> Sequence[Path]:
        """Return the video, the text and the sound of a clip."""
        # lrs3/lrs3_video_seg16s/test/ID/1.mp4 has its words in lrs3/lrs3_text_seg16s/test/ID/1.txt.
        video = PurePosixPath(entry.video or "")
        folder = re.sub(r"_video_", "_text_", video.parts[1], count=1)
        text = PurePosixPath(video.parts[0], folder, *video.parts[2:]).with_suffix(".txt")
        return [Path(self.root) / path for path in (video, text, video.with_suffix(".wav"))]

    def clip(self, entry: AvClip) -> AvClip | Fault:
        """Return a clip with its words, and its sound if that is a file."""
        _, text, audio = self.files(entry)
        if not text.is_file():
            return Fault(entry.where, "missing pair", f"no {text.relative_to(self.root)}")
        words = read_words(text, entry.where)
        if isinstance(words, Fault):
            return words
        # Some preparations put the sound into the video instead.
        return replace(entry, text=words, audio=audio.relative_to(self.root).as_posix() if audio.is_file() else None)


def _read_list(path: Path, split: str) -> Iterator[AvClip]:
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
