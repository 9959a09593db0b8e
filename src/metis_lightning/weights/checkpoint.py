"""Checkpoint files: whole or not there, sealed when they are written and checked when they are read.

The seal is the SHA-256 of all that stands before it, as the comment of the zip archive that `torch.save` writes. Files
of other programs have none: their members' CRCs are checked. Nothing in a checkpoint can run code.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.state_dicts import check_finite
from metis_lightning.weights.bundle import Part
from metis_lightning.weights.checks import check_fields, check_sizes

_MARK = b"sha256:"
_SEAL_LENGTH = len(_MARK) + 64

# What readers of archives and of pickles raise, beyond their own, where bytes were changed.
_UNREADABLE: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError, BadZipFile, EOFError)
_UNREADABLE += (ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError, struct.error)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint: on the disk as a whole, or not at all; one of this name stays until then.

    A `UserError` if a weight or an optimizer state is not finite, or the disk does not take the file.
    """
    check_finite(_numbers(content), f"checkpoint {path} is not written")
    try:
        with atomic_path(path) as temporary:
            # A file of Python's, whose errors say what is wrong with the disk.
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
            _seal(temporary)
        # The disk is to keep the folder's names, too.
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except (OSError, RuntimeError, UserError) as error:
        stays = "; the one that is there stays as it was" if path.exists() else ""
        if isinstance(error, UserError):
            raise UserError(f"checkpoint {error}{stays}") from error
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [repr(error)])[0]
        raise UserError(f"checkpoint {path} cannot be written ({reason}){stays}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, plain data alone. A `UserError` if it is missing, damaged, or has odd fields."""
    content = read_sealed(path)
    check_fields(content, f"checkpoint {path}")
    return content


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what was saved at `path`. A `UserError` if it is missing, damaged, not finite, or not plain data."""
    with _naming_another(path):
        return _read(path)


def open_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, its tensors unchecked on the disk. A `UserError` if it is not plain data."""
    with _naming_another(path):
        return _open(path, mmap=True)


def is_whole(path: Path) -> bool:
    """Return whether every byte of a checkpoint is as it was written."""
    try:
        with ZipFile(path) as archive, path.open("rb") as file:
            file.seek(-_SEAL_LENGTH, os.SEEK_END)
            seal = file.read()
            # A comment that is no seal was changed, or is another program's: either is no state to go on from.
            if seal.startswith(_MARK) or archive.comment:
                return seal == _seal_of(path, path.stat().st_size - _SEAL_LENGTH)
            # Of a member with the attribute of a folder PyTorch reads nothing, and gives memory as it finds it.
            folders = [member for member in archive.infolist() if member.external_attr & 0x10]
            return not folders and archive.testzip() is None
    except _UNREADABLE:
        return False


def newest_whole(folder: Path, passed_over: dict[Path, str] | None = None) -> tuple[Path, int] | None:
    """Return the sound checkpoint of most steps in a folder, and its steps, if there is one.

    Files that are not sound are added to `passed_over`, each with the reason.
    """
    reasons = {} if passed_over is None else passed_over
    candidates = []
    for path in sorted(folder.glob("[!.]*.ckpt")):
        try:
            content = _open(path, mmap=True)
            check_fields(content, str(path))
        except UserError as error:
            reasons[path] = str(error) or "damaged or not a checkpoint"
            continue
        # Another tool's weights are no state of a run.
        if "global_step" in content:
            candidates.append((int(content["global_step"]), path.stat().st_mtime, path))
    for step, _, path in sorted(candidates, reverse=True):
        try:
            _read(path)
            return path, step
        except UserError as error:
            reasons[path] = str(error) or "damaged"
    return None


def checkpoint_parts(path: Path | str, weights: str | None = None) -> Mapping[str, Part]:
    """Return the parts of a bundle that a checkpoint holds. A `UserError` if it has none, or no average where it is to.

    `weights` are `raw`, as the optimizer left them, or `ema`, their moving average; None takes those it validates with.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    described = checkpoint.get("bundle_parts")
    if not described:
        raise UserError(f"checkpoint {path}: it names no parts of a bundle; it was not made by this package")
    state, ema = checkpoint["state_dict"], checkpoint.get("ema")
    if (weights or (ema or {}).get("validate_with", "raw")) == "ema":
        if not ema:
            callback = "metis_lightning.callbacks.ema.EMA"
            raise UserError(f"the checkpoint holds no EMA weights; train with the callback {callback}")
        state = {**state, **ema["weights"]}
    parts = {}
    for name, part in described.items():
        prefix = part["prefix"]
        tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        check_sizes(part["config"], len(tensors), f"checkpoint {path}: part {name!r}")
        parts[name] = Part(config=part["config"], tensors=tensors, origin=part.get("origin", {}))
    return parts


class _DamagedFileError(UserError):
    """A file is no whole checkpoint."""


@contextmanager
def _naming_another(path: Path) -> Iterator[None]:
    """Within the block, the error of a damaged file names the newest whole checkpoint of its folder."""
    try:
        yield
    except _DamagedFileError as error:
        other = newest_whole(path.parent)
        newest = f"; the newest whole one there is {other[0]}, of step {other[1]}" if other else ""
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint{newest}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if not is_whole(path):
        raise _DamagedFileError
    content = _open(path, mmap=False)
    check_finite(_numbers(content), f"checkpoint {path}")
    return content


def _open(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        if not is_zipfile(path):
            raise _DamagedFileError
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise UserError(f"checkpoint {path} is refused: it holds more than tensors and plain values") from error
    except _UNREADABLE as error:
        raise _DamagedFileError from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path}: it holds a {type(content).__name__}, not a checkpoint")
    return content


def _numbers(content: Mapping[str, Any]) -> dict[str, Tensor]:
    # All that a run goes on with: weights, their average, and optimizer states.
    fields = ("state_dict", "ema", "optimizer_states")
    return {name: tensor for field in fields for name, tensor in _tensors(content.get(field), field)}


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(each, f"{name}.{key}")


def _seal(path: Path) -> None:
    """Seal an archive without a comment, and have the disk keep it."""
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
