"""Checkpoint files: whole or not there, sealed when they are written and checked when they are read.

The seal is the SHA-256 of all that stands before it, as the comment of the zip archive that `torch.save` writes, so
that a checkpoint stays one file that PyTorch alone can read too. Files of other programs have none: their members' CRCs
are checked. Nothing in a checkpoint can run code, and its weights and optimizer states are finite.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.state_dicts import check_finite
from metis_lightning.weights.checkpoint_fields import check_fields

_MARK = b"sha256:"
_SEAL_LENGTH = len(_MARK) + 64

# What readers of archives and of pickles raise, beyond their own, where bytes were changed.
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint: on the disk as a whole, or not at all; one of this name stays until then.

    Raises:
        UserError: if a weight or an optimizer state is not finite, or the disk does not take the file.
    """
    check_finite(dict(_numbers(content)), f"checkpoint {path} is not written")
    try:
        with atomic_path(path) as temporary:
            # A file of Python's, whose errors say what is wrong with the disk.
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
            _seal(temporary)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise UserError(f"checkpoint {path} cannot be written ({_reason(error)}){_kept(path)}") from error
    except UserError as error:
        raise UserError(f"checkpoint {error}{_kept(path)}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, loaded as plain data: it cannot run code.

    Raises:
        UserError: if the file is missing, damaged, not a checkpoint, or has weights that are not finite.
    """
    content = read_sealed(path)
    check_fields(content, f"checkpoint {path}")
    return content


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what was saved at `path`, a checkpoint or not, after checking every byte and number of it.

    Raises:
        UserError: if the file is missing, damaged, holds more than plain data, or numbers that are not finite.
    """
    try:
        return _read(path)
    except _Damaged as error:
        raise _with_another(error) from error


def open_checkpoint(path: Path, mmap: bool = True) -> dict[str, Any]:
    """Return a checkpoint's content without checking its tensors, which with `mmap` stay on the disk.

    Raises:
        UserError: if it cannot be opened, or holds anything but tensors and plain values.
    """
    try:
        return _open(path, mmap)
    except _Damaged as error:
        raise _with_another(error) from error


def is_whole(path: Path) -> bool:
    """Return whether every byte of a checkpoint is as it was written."""
    try:
        with ZipFile(path) as archive, path.open("rb") as file:
            file.seek(-_SEAL_LENGTH, os.SEEK_END)
            seal = file.read()
            if seal.startswith(_MARK) or archive.comment:
                return seal == _seal_of(path, path.stat().st_size - _SEAL_LENGTH)
            # Of a member with the attribute of a folder PyTorch reads nothing, and gives memory as it finds it.
            folders = [member for member in archive.infolist() if member.external_attr & 0x10]
            return not folders and archive.testzip() is None
    except _UNREADABLE:
        return False


def newest_whole(folder: Path) -> tuple[Path, int] | None:
    """Return the sound checkpoint of most steps in a folder, and its steps; None if there is none."""
    found = []
    for path in folder.glob("[!.]*.ckpt"):
        with suppress(UserError):
            content = _open(path, mmap=True)
            check_fields(content, str(path))
            # Another tool's weights are no state of a run.
            if "global_step" in content:
                found.append((int(content["global_step"]), path.stat().st_mtime, path))
    for step, _, path in sorted(found, reverse=True):
        with suppress(UserError):
            _read(path)
            return path, step
    return None


class _Damaged(UserError):
    """A file that is not what a checkpoint's writer left."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"checkpoint {path} is damaged or not a checkpoint")
        self.path = path


def _with_another(error: _Damaged) -> UserError:
    """Return a damaged file's error that names the newest whole checkpoint of its folder."""
    other = newest_whole(error.path.parent)
    return (
        error if other is None else UserError(f"{error}; the newest whole one there is {other[0]}, of step {other[1]}")
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if not is_whole(path):
        raise _Damaged(path)
    content = _open(path, mmap=False)
    check_finite(dict(_numbers(content)), f"checkpoint {path}")
    return content


def _open(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        if not is_zipfile(path):
            raise _Damaged(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise UserError(f"checkpoint {path} is refused: it holds more than tensors and plain values") from error
    except _UNREADABLE as error:
        raise _Damaged(path) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path}: it holds a {type(content).__name__}, not a checkpoint")
    return content


def _numbers(content: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield by name all tensors that a run goes on with: weights, their average, and optimizer states."""
    for field in ("state_dict", "ema", "optimizer_states"):
        yield from _tensors(content.get(field), field)


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors(each, f"{name}.{index}")


def _seal(path: Path) -> None:
    """Put the seal behind an archive without a comment, and have the disk keep it."""
    with path.open("r+b") as file:
        # An archive ends with the length of its comment.
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _SEAL_LENGTH))
        file.flush()
        seal = _seal_of(path, file.tell())
        file.write(seal)
        file.flush()
        os.fsync(file.fileno())


def _seal_of(path: Path, length: int) -> bytes:
    """Return the seal of the first `length` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return _MARK + digest.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Have the disk keep the names of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _kept(path: Path) -> str:
    return "; the one that is there stays as it was" if path.exists() else ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or (str(error).splitlines() or [repr(error)])[0]
