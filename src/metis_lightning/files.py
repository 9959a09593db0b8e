"""Files that appear under their final name only when they are complete, and whether they can be written at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metis_lightning.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it to `path` if the block ends without an error.

    The parent folder is made. The temporary name keeps the suffix, since some writers choose a format by it.

    Raises:
        UserError: if `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise _unwritable(path, _obstacle(path, is_folder=False) or error.strerror) from error
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:
            # Others are the block's own, such as an input that cannot be read.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                raise _unwritable(path, error.strerror) from error
            raise
        try:
            # mkstemp makes files private; the result gets the usual permissions.
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            raise _unwritable(path, _obstacle(path, is_folder=False) or error.strerror) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, named: str = "--out", is_folder: bool = False) -> None:
    """Refuse an output that cannot be written, before any work; nothing is left behind.

    Args:
        path: where it goes; a file that is there will be replaced.
        named: what names it, for the message.
        is_folder: whether it is a folder, which files are written into.

    Raises:
        UserError: with what is in the way.
    """
    if reason := _obstacle(path, is_folder):
        raise _unwritable(f"{named} {path}", reason)


def _obstacle(path: Path, is_folder: bool) -> str | None:
    """Return what keeps an output from being written; None if nothing does."""
    folder = path if is_folder else path.parent
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        return f"{there} is a file" if there.exists() else f"{there} is a link to nowhere"
    if os.path.isdir(path) and not is_folder:
        return "it is a folder"
    try:
        # As `atomic_path` does. To ask for permissions would not tell of all that may be in the way.
        with tempfile.NamedTemporaryFile(dir=there, prefix=f".{path.stem}.", suffix=path.suffix):
            return None
    except OSError as error:
        return f"{error.strerror} in {there}"


def _unwritable(path: Path | str, reason: str | None) -> UserError:
    return UserError(f"{path} cannot be written: {reason}; name another place, or make room there")


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
