"""One command at a time in a folder: refused with the pid, let go of when the holder ends or is killed."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from metis_lightning import files as locks
from metis_lightning.errors import UserError
from metis_lightning.files import LOCK, locked


def hold(folder: Path, held: Path) -> None:
    with locked(folder):
        held.touch()
        time.sleep(600)


@contextmanager
def holder(folder: Path, held: Path) -> Iterator[BaseProcess]:
    """Give another process that holds a folder's lock."""
    process = multiprocessing.get_context("fork").Process(target=hold, args=(folder, held))
    process.start()
    while not held.exists():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_another_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    with holder(folder, tmp_path / "held") as first:
        with pytest.raises(UserError) as refused, locked(folder):
            raise AssertionError("two hold one lock")
        message = str(refused.value)
        assert re.match(
            rf"{folder}: another command is writing here \(pid {first.pid} on \S+ since 20.*\); wait", message
        )
        assert "\n" not in message and "python -m metis_lightning" in message
        os.kill(first.pid or 0, signal.SIGKILL)
        first.join()
        # What it left says who it was, and locks nothing.
        assert f"pid {first.pid} " in (folder / LOCK).read_text()
        with locked(folder):
            assert f"pid {os.getpid()} " in (folder / LOCK).read_text()
    assert not (folder / LOCK).exists()


def test_a_command_whose_words_are_not_utf_8_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["metis_lightning", "prepare", "--root", "stra\udcdfe"])
    with locked(tmp_path):
        assert "stra\\udcdfe" in (tmp_path / LOCK).read_text(encoding="utf-8")


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match=f"pid {os.getpid()} "), locked(tmp_path):
        raise AssertionError
    with locked(tmp_path):
        pass


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    with locked(tmp_path / "a"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    with locked(tmp_path / "a"):
        assert child.is_alive()
    child.kill()
    child.join()


def test_what_was_made_for_the_lock_alone_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


def test_who_shares_a_lock_keeps_others_out(tmp_path: Path) -> None:
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True), pytest.raises(UserError), locked(tmp_path):
        raise AssertionError
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path, shared=True):
        raise AssertionError
    with locked(tmp_path, "one"), locked(tmp_path, "two"):
        pass


def test_a_file_that_was_removed_while_we_waited_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder ends between our opening of its file and our locking of it."""
    real, path = fcntl.flock, tmp_path / LOCK

    def late(file: object, operation: int) -> None:
        real(file, operation)  # type: ignore[arg-type]
        monkeypatch.setattr(locks.fcntl, "flock", real)
        path.unlink()

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        raise AssertionError


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", missing)
    with locked(tmp_path):
        (tmp_path / "result").touch()
    assert "no lock (Function not implemented)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: .*file is a file"), locked(tmp_path / "file" / "x"):
        raise AssertionError
