"""Lists and reads corpora where they lie: a local folder, or any URL that fsspec opens (s3://, hf://, memory://, …).

Local folders have a walk of their own: fsspec's follows no links, takes in pipes and what Macs leave behind, and reads
"~" and "::" in names as signs of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from metis_lightning.errors import UserError


def is_url(root: str) -> bool:
    """Tell a URL from a local path.

    >>> is_url("s3://bucket/Emilia"), is_url("/data/Emilia")
    (True, False)
    """
    return "://" in root


@dataclass(frozen=True)
class Storage:
    """The files below a root, which is a folder or a URL. Links to folders are followed."""

    root: str

    def path(self, name: str) -> str:
        """Return the path or URL of a file below the root; of the root itself for an empty name."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def files(self, suffixes: Sequence[str]) -> dict[str, str]:
        """Map files at any depth that end with `suffixes` to stamps, by name; a UserError if they cannot be listed."""
        if is_url(self.root):
            filesystem, base = _filesystem(self.root)
            try:
                infos: dict[str, dict[str, Any]] = filesystem.find(base, detail=True)
            except (OSError, NotImplementedError) as error:
                raise UserError(f"{self.root}: cannot be listed ({error}); check its URL and credentials") from error
            start = len(base.rstrip("/")) + 1
            stamps = {}
            for path, info in infos.items():
                keys = ("ETag", "etag", "LastModified", "mtime", "created")
                changed = next((info[key] for key in keys if info.get(key)), "")
                stamps[path[start:]] = f"{info.get('size')}-{changed}"
        else:
            require_folder(self.root)
            paths = files_below(Path(self.root))
            stamps = {path.relative_to(self.root).as_posix(): files_stamp(path) for path in paths}
        return {name: stamps[name] for name in sorted(stamps) if name.endswith(tuple(suffixes))}

    def open(self, name: str) -> IO[bytes]:
        """Open a file below the root for reading bytes; a UserError if it cannot be opened."""
        try:
            if not is_url(self.root):
                return Path(self.path(name)).open("rb")
            filesystem, path = _filesystem(self.path(name))
            return filesystem.open(path, "rb")
        except OSError as error:
            raise UserError(f"{self.path(name)}: cannot be read ({error}); check path and permissions") from error

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name below the root."""
        if not is_url(self.root):
            return Path(self.path(name)).is_file()
        filesystem, path = _filesystem(self.path(name))
        return bool(filesystem.exists(path))


def read_bytes(location: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return `size` bytes of a file or URL from `offset` on, or all that follow; a UserError if it ends early."""
    try:
        if is_url(location):
            filesystem, path = _filesystem(location)
            data = filesystem.cat_file(path, start=offset, end=None if size is None else offset + size)
        else:
            # A reader would wait on a pipe or a device.
            if not os.path.isfile(location):
                raise FileNotFoundError(f"no such file, or not a plain one: {location}")
            with open(location, "rb") as file:
                # Not more than there is: memory for what is read is allocated at once.
                left = max(0, os.fstat(file.fileno()).st_size - offset)
                file.seek(offset)
                data = file.read(left if size is None else min(size, left))
    except OSError as error:
        raise UserError(f"{location}: cannot be read ({error}); check the data root") from error
    if size is not None and len(data) < size:
        raise UserError(f"{location}: ends before byte {offset + size}; it changed since it was prepared: prepare anew")
    return data


def location_stamp(location: str | Path) -> str:
    """Return size and time of change of a local file, which must be there, or the URL: they tell it from another."""
    if is_url(str(location)):
        return str(location)
    status = os.stat(location)
    return f"{status.st_size}|{status.st_mtime_ns}"


def files_stamp(*paths: Path) -> str:
    """Return a stamp of local files that changes when one of them does, comes or goes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        if path.exists():
            stat = path.stat()
            digest.update(os.fsencode(path.name) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: fsspec cannot open this kind of URL ({error})") from error


def require_folder(root: str | Path, corpus: str = "the corpus") -> None:
    """Refuse a corpus whose local folder is not there, by a UserError."""
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of {corpus}")


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is no data by its name: Macs leave `._name` and `.DS_Store` on foreign disks."""
    return name.startswith(".")


def visible_in(folder: Path) -> list[Path]:
    """Return what a folder holds in order of the names, without what is hidden; nothing if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder and those below it, each with its regular files, in order of their names, without what is hidden.

    Links to folders are followed, but not back to one that they lie in. A UserError if a folder cannot be read.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status, paths = os.stat(folder), visible_in(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
        if (here := (status.st_dev, status.st_ino)) not in above:
            yield folder, [path for path in paths if os.path.isfile(path)]
            waiting += [(path, above | {here}) for path in reversed(paths) if path.is_dir()]


def files_below(root: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Return the files below a folder in order of their names; with `suffixes`, those that end so in either case."""
    paths = [path for _, files in walk(root) for path in files]
    if suffixes is not None:
        paths = [path for path in paths if path.suffix.lower() in suffixes]
    return sorted(paths)


def skipped_note(root: Path, files: Sequence[Path], suffixes: Collection[str]) -> str:
    """Return a line on the files of a folder that end otherwise, as some may be meant; nothing if there are none.

    >>> skipped_note(Path("noise"), [Path("a.wav"), Path("b.mp3"), Path("c.mp3")], {".wav"})
    'left out of noise: 2 .mp3, the first b.mp3; what is read ends with .wav'
    """
    others = [path for path in files if path.suffix.lower() not in suffixes]
    if not others:
        return ""
    counts = Counter(path.suffix.lower() or "without suffix" for path in others)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"left out of {root}: {kinds}, the first {others[0]}; what is read ends with {', '.join(sorted(suffixes))}"
