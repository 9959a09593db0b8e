"""Lists a folder of recordings as it is: any sound below it, speakers by folders or names, texts if there are any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, inspect_file, manifest_row
from metis_lightning.data.media.storage import files_below, require_folder
from metis_lightning.texts import read_lines

_SOUND = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_TEXTS = (".txt", ".lab")
_METADATA = "metadata.csv"
SpeakerRule = Literal["folder", "name", "one"]
_PER_SHARD = 500


@dataclass(frozen=True)
class FolderScan(CorpusScan):
    """Lists every sound file below `root`.

    speakers: "folder", the first folder below the root; "name", the file's name up to its first `_` or `-`; "one" for
        all. A file beside the folders belongs to the speaker "one".
    language: of the texts. They stand beside a file under its name (`a.txt`, `a.lab`), or in a `metadata.csv` of lines
        `name|text`, as in LJSpeech.
    """

    root: str
    speakers: SpeakerRule = "folder"
    language: str = "en"
    decode: bool = True
    layout = f"sound files ({', '.join(_SOUND)})"

    @cached_property
    def files(self) -> list[Path]:
        """The sound files, in order of their names."""
        require_folder(self.root, "the recordings")
        return files_below(Path(self.root), _SOUND)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Texts of `metadata.csv` by the names of their files."""
        path = Path(self.root) / _METADATA
        lines = [line.split("|") for line in read_lines(path)] if path.is_file() else []
        # Of LJSpeech's three columns the last is the text in full words.
        return {Path(parts[0]).stem: parts[-1] for parts in lines if len(parts) > 1}

    def shards(self) -> Sequence[Shard]:
        """Return pieces of some hundred files."""
        return Shard.numbered(self.files, _PER_SHARD, lambda path: [path, *self._beside(path)])

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield the recordings of a piece."""
        for path in shard.of(self.files, _PER_SHARD):
            where = path.relative_to(self.root)
            info = inspect_file(path, where.as_posix(), self.decode)
            if isinstance(info, Fault):
                yield info
                continue
            text = next((" ".join(read_lines(each)) for each in self._beside(path)), self.texts.get(path.stem, ""))
            name, speaker = _plain(where.with_suffix("").as_posix()), _plain(self._speaker(where))
            row = manifest_row(name, where.as_posix(), info, speaker=speaker, split="train", source="own", text=text)
            yield row | {"language": self.language}

    def _beside(self, path: Path) -> list[Path]:
        return [file for file in map(path.with_suffix, _TEXTS) if file.is_file()]

    def _speaker(self, where: Path) -> str:
        if self.speakers == "name":
            return re.split(r"[_-]", where.stem)[0]
        return where.parts[0] if self.speakers == "folder" and len(where.parts) > 1 else "one"


def _plain(name: str) -> str:
    """Return a name as an id: with nothing but letters, digits, `.`, `_` and `-`, of at most 200 characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[-200:] or "_"
