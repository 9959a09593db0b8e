"""Files that are complete when they appear, checks that outputs can be written, and locks on folders.

A lock is the system's, on a file that tells people which command holds it, until that ends or is killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from metis_lightning.errors import UserError

LOCK = ".lock"
# Of a disk that takes no more, or a quota.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside `path`, renamed to it after a block without error. A `UserError` if it cannot be written."""
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
            if error.errno in (*NO_ROOM, errno.EFBIG, errno.EROFS):
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
    """Refuse an output that cannot be written, `named` by its option, before any work; nothing is left behind."""
    if reason := _obstacle(path, is_folder):
        raise _unwritable(f"{named} {path}", reason)


def _obstacle(path: Path, is_folder: bool) -> str | None:
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


@contextmanager
def locked(folder: Path, name: str = LOCK, shared: bool = False, what: Path | None = None) -> Iterator[None]:
    """Keep other commands from writing into a folder while the block runs; if it is empty in the end, it is removed.

    Commands that lock files of different `name`s, or share a lock, do not mind each other. A `UserError` if another
    holds it, which says `what` is kept if not the folder, or nothing can be written there.
    """
    check_output(folder, "the folder", is_folder=True)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _held(folder / name, shared, what or folder)
    # A fork has the lock, too: it must not keep it when this process is gone.
    os.register_at_fork(after_in_child=file.close)
    try:
        yield
    finally:
        try:
            if shared:
                # The last of several removes it.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass
        else:
            (folder / name).unlink(missing_ok=True)
        file.close()
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _held(path: Path, shared: bool, what: Path) -> TextIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "it does not say which"
            file.close()
            raise UserError(
                f"{what}: another command is writing here ({holder}); wait until it has ended, end it, or give another "
                "folder"
            ) from error
        except OSError as error:
            # Some network file systems have no locks. To refuse all work there would help nobody.
            warning = f"{what}: no lock ({error.strerror}); let no other command write there"
            print(f"metis-lightning: {warning}", file=sys.stderr)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            command = "python -m metis_lightning " + printable(shlex.join(sys.argv[1:]))
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            text = f"pid {os.getpid()} on {socket.gethostname()} since {started}: {command}\n"
            # A full disk takes no text, and the lock holds without it.
            with suppress(OSError):
                os.write(file.fileno(), text.encode())
            return file
        # Whoever held it has just ended and removed the file: what is locked is no longer there.
        file.close()
