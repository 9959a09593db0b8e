"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it to `path` if the block ends without an error.

    The parent folder is made. The temporary name keeps the suffix, since some writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; the result gets the usual permissions.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest64(text: str) -> int:
    """Return 64 bits of a hash of a text as a signed integer, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def printable(text: str) -> str:
    r"""Return a text as UTF-8 can hold it: bytes of a file's name that are none, and halves of signs, are escaped.

    >>> printable("stra\udcdfe")
    'stra\\udcdfe'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_regular(path: Path) -> bool:
    """Tell whether a path names a regular file: no folder, and no pipe or device, on which a reader would wait."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        # ValueError: a name with a zero byte; OSError also for one that is too long.
        return False
