"""Parses the locations of audio in a manifest's lines.

A location is a path relative to the corpus's root, which it may not leave, as manifests travel; or an object:
`{"path", "offset", "size"}`, bytes inside a file such as a tar; `{"video": …}`, its sound; `{"mix": …}`, a `Mixdown`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from metis_lightning.data.media.audio import decode
from metis_lightning.data.media.mixdown import Mixdown, MixPart
from metis_lightning.data.media.storage import Storage, is_url, location_stamp, read_bytes
from metis_lightning.data.media.video import VideoSound
from metis_lightning.errors import UserError
from metis_lightning.types import AudioLocation, AudioSource


@dataclass(frozen=True)
class FileSpan(AudioSource):
    """An audio file that is `size` bytes of a local file or a URL, from `offset` on; None is all that follow."""

    url: str
    offset: int = 0
    size: int | None = None

    def frames(self) -> tuple[np.ndarray, int]:
        """Return (S, channels) float32 and the sample rate."""
        return decode(read_bytes(self.url, self.offset, self.size), str(self))

    def digest(self) -> str:
        """Return the SHA-256 of the bytes."""
        return hashlib.sha256(read_bytes(self.url, self.offset, self.size)).hexdigest()

    def stamp(self) -> str:
        """Return the stamp of the file, and which bytes of it these are."""
        return f"{location_stamp(self.url)}|{self.offset}|{self.size}"

    def __str__(self) -> str:
        return self.url if self.size is None else f"{self.url}[{self.offset}:{self.offset + self.size}]"


def parse_location(value: object, root: str, where: str) -> AudioLocation:
    """Return the location that a manifest's value describes, below `root`; a UserError names `where` if it is none."""
    if isinstance(value, dict) and "mix" in value:
        try:
            noises = [] if value.get("noise") is None else [value["noise"]]
            return Mixdown(
                parts=tuple(MixPart(_below(path, root, where), float(gain)) for path, gain in [*value["mix"], *noises]),
                voices=len(value["mix"]),
                sample_rate=_whole_number(value, "rate", where),
                mode=value["mode"],
                take=tuple(int(number) for number in value["take"]),
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UserError(f"{where}: not a mixture that can be made ({error!r}); prepare anew") from error
    if isinstance(value, dict) and "video" in value:
        return VideoSound(_below(value["video"], root, where))
    if isinstance(value, dict):
        offset, size = (_whole_number(value, key, where) for key in ("offset", "size"))
        return FileSpan(_below(value.get("path"), root, where), offset, size)
    path = _below(value, root, where)
    return FileSpan(path) if is_url(root) else Path(path)


def parse_file(value: object, root: str, where: str) -> Path:
    """Return the local file that a manifest's value names; a UserError names `where` if it is none, or `root` a URL."""
    if is_url(root):
        raise UserError(f"{where}: videos and features are read from local folders, not from {root}; copy the corpus")
    return Path(_below(value, root, where))


def relative_path(value: object, where: str) -> str:
    """Return a path that stays in its folder; a UserError that names `where` if `value` is none."""
    if not isinstance(value, str):
        raise UserError(f"{where}: a path must be a string, found {value!r}")
    path, windows = PurePosixPath(value), PureWindowsPath(value)
    if not value or "\0" in value or path.is_absolute() or windows.anchor or ".." in windows.parts:
        raise UserError(f"{where}: path {value!r} must be relative to the manifest's folder or the root, without '..'")
    return str(path)


def _below(value: object, root: str, where: str) -> str:
    return Storage(root).path(relative_path(value, where))


def _whole_number(value: dict[str, Any], key: str, where: str) -> int:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 63:
        raise UserError(f"{where}: {key!r} must be a whole number of at least 0 and below 2^63")
    return number
