"""One command at a time writes into a folder: the system locks a file in it until the command ends, or is killed.

What the file says is for people: which command holds it. One that a killed command left behind locks nothing.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from metis_lightning.errors import UserError
from metis_lightning.files import check_output, printable

LOCK = ".lock"


@contextmanager
def locked(folder: Path, name: str = LOCK, shared: bool = False, what: Path | None = None) -> Iterator[None]:
    """Keep other commands from writing into a folder while the block runs.

    The folder is made; if it is empty in the end, what was made of it is removed again.

    Args:
        folder: where it is written.
        name: of the file that is locked; commands that lock different ones do not mind each other.
        shared: whether others may hold the same lock that share it, too.
        what: is kept for this command, for the message; None for the folder.

    Raises:
        UserError: another command holds it, or nothing can be written there.
    """
    check_output(folder, "the folder", is_folder=True)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _held(folder / name, shared, what or folder)
    # A fork has the lock, too: it must not keep it when this process is gone.
    os.register_at_fork(after_in_child=file.close)
    try:
        yield
    finally:
        if not shared or _is_last(file):
            (folder / name).unlink(missing_ok=True)
        file.close()
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def locked_beside(folder: Path) -> AbstractContextManager[None]:
    """Do so by a file beside a folder that must hold nothing but its own; see `locked`."""
    return locked(folder.parent, f".{folder.name}{LOCK}", what=folder)


def _held(path: Path, shared: bool, what: Path) -> TextIO:
    """Return the file at `path`, locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refusal(what, file) from error
        except OSError as error:
            # Some network file systems have no locks. To refuse all work there would help nobody.
            print(
                f"metis-lightning: {what}: no lock ({error.strerror}); let no other command write there",
                file=sys.stderr,
            )
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(_this_command())
            file.flush()
            return file
        # Whoever held it has just ended and removed the file: what is locked is no longer there.
        file.close()


def _is_last(file: TextIO) -> bool:
    """Tell whether nobody else shares the lock that we hold."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _this_command() -> str:
    """Return who locks, as a line."""
    command = "python -m metis_lightning " + printable(shlex.join(sys.argv[1:]))
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}: {command}\n"


def _refusal(what: Path, file: TextIO) -> UserError:
    """Return the refusal, with what the file says of who holds it."""
    file.seek(0)
    holder = file.read().strip() or "it does not say which"
    file.close()
    return UserError(
        f"{what}: another command is writing here ({holder}); wait until it has ended, end it, or give another folder"
    )
