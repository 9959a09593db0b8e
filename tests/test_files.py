"""Outputs that cannot be written: one line that says what is in the way, before any work and after."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, check_output


def below_a_file(folder: Path) -> tuple[Path, bool, str]:
    (folder / "file").touch()
    return folder / "file" / "sub" / "x.md", False, "file is a file"


def a_folder_as_file(folder: Path) -> tuple[Path, bool, str]:
    (folder / "x.md").mkdir()
    return folder / "x.md", False, "it is a folder"


def a_file_as_folder(folder: Path) -> tuple[Path, bool, str]:
    (folder / "x").touch()
    return folder / "x", True, "x is a file"


def a_link_to_nowhere(folder: Path) -> tuple[Path, bool, str]:
    (folder / "x").symlink_to("gone")
    return folder / "x" / "y.md", False, "x is a link to nowhere"


def a_name_too_long(folder: Path) -> tuple[Path, bool, str]:
    return folder / ("x" * 300), False, "File name too long"


def no_place_of_files(folder: Path) -> tuple[Path, bool, str]:
    """A folder that not even root can write into."""
    return Path("/proc/here/x.md"), False, "in /proc"


CASES = [below_a_file, a_folder_as_file, a_file_as_folder, a_link_to_nowhere, a_name_too_long, no_place_of_files]


@pytest.mark.parametrize("case", CASES)
def test_an_output_that_cannot_be_written_is_one_line(
    case: Callable[[Path], tuple[Path, bool, str]], tmp_path: Path
) -> None:
    path, is_folder, reason = case(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        check_output(path, "--table", is_folder=is_folder)
    assert str(refused.value).startswith(f"--table {path} cannot be written: ")
    assert reason in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    if not is_folder:
        with pytest.raises(UserError, match="cannot be written: "), atomic_path(path) as temporary:
            temporary.write_text("x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"Permission denied in {tmp_path}"):
        check_output(tmp_path / "new" / "x.md")


def test_what_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("old")
    check_output(tmp_path / "there.md")
    check_output(tmp_path / "a" / "b" / "c.md")
    check_output(tmp_path / "a" / "b", is_folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "old"


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, UserError), (errno.ENOENT, FileNotFoundError)])
def test_a_full_disk_is_one_line_and_the_old_file_stays(number: int, expected: type[Exception], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(expected, match=os.strerror(number)), atomic_path(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"
