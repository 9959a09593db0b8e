"""A run whose disk fills up ends with one line; what is on the disk is whole, and it goes on once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from metis_lightning.weights.checkpoint import is_whole
from tiny_run import Run, same_state

SIZE = 4 << 20
STEPS = "--trainer.max_steps=16"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, as the folder `runs` of a run."""
    folder = tmp_path / "run/runs"
    folder.mkdir(parents=True)
    try:
        mounting = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no command to mount a disk")
    if mounting.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes free, in whole pages."""
    status = os.statvfs(disk)
    path = disk / "filler"
    path.write_bytes(bytes(status.f_bavail * status.f_frsize - free))
    assert os.statvfs(disk).f_bavail * status.f_frsize == free
    return path


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["nothing free", "room for logs, not for a checkpoint"])
def test_a_full_disk_ends_a_run_and_leaves_it_whole(
    share: float, disk: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    run, undisturbed = Run(disk.parent, tiny_bundle), Run(tmp_path / "undisturbed", tiny_bundle)
    assert run() == 0 and undisturbed(STEPS) == 0
    before = {path.name: path.read_bytes() for path in run.checkpoints.iterdir()}
    filler = fill(disk, round(share * len(before["last.ckpt"])) // 4096 * 4096)
    assert run(STEPS, "--ckpt_path=last") == 2
    assert "cannot be written" in run.last_line and "No space left on device" in run.last_line, run.said
    assert run.said.count("No space left") == 1, run.said
    # Nothing that was there changed, and no half file stands beside it, under whatever name.
    assert {path.name: path.read_bytes() for path in run.checkpoints.iterdir()} == before
    assert all(is_whole(path) for path in run.checkpoints.iterdir())
    filler.unlink()
    assert run(STEPS, "--resume=auto") == 0
    assert same_state(run.content(), undisturbed.content())
