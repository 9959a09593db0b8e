"""LRS2 as given out: `mvlrs_v1/{main,pretrain}/<number>/<n>.{mp4,txt}`, and lists beside or above that folder.

The lists `train.txt`, `val.txt`, `test.txt` and `pretrain.txt` hold a clip a line, `<number>/<n>`, perhaps with a tag
after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.auto_avsr import AutoAvsrScan
from metis_lightning.data.corpora.av_corpus import Clip, TalkingFaceScan
from metis_lightning.data.corpora.lrs3 import raw_clip
from metis_lightning.data.manifest.scan import Fault, Shard, chunks
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import stamp_of
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

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
                found.append(Shard(f"{name}:{number}", stamp_of(*files)))
        return found

    def clips(self, shard: Shard) -> Iterator[Clip | Fault]:
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

    def _below_root(self, clip: Clip, folder: Path) -> Clip:
        """Return the clip with paths that start at the root, which may be above `mvlrs_v1`."""
        above = folder.parent.relative_to(self.root)
        return Clip(**{**vars(clip), **{key: (above / path).as_posix() for key, path in _files(clip).items()}})

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


def _files(clip: Clip) -> dict[str, str]:
    return {key: path for key in ("video", "audio") if (path := getattr(clip, key)) is not None}
