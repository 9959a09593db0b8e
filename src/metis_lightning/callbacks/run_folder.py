"""A run's folder: that of the run that was started last, whose path never changes.

What an earlier run left there is moved aside, to `version_0`, `version_1`, … in the same folder, unless the run goes on
from one of its checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from metis_lightning.callbacks.checkpoints import RunCheckpoint, shown
from metis_lightning.callbacks.finite_guard import REPORT
from metis_lightning.files import check_output

_LOGGED = ("events.out.tfevents*", "hparams.yaml", "config.yaml", "metrics.csv", REPORT)


def last_checkpoint(trainer: Trainer) -> Path | None:
    """Return the newest `last.ckpt` of a trainer's folders; None if there is none."""
    found = [path for folder in _checkpoint_folders(trainer) for path in folder.glob("last*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def resumes_in(trainer: Trainer, checkpoint: str | None) -> bool:
    """Return whether a run that starts from a checkpoint goes on in the folder that is there."""
    if checkpoint is None:
        # Lightning goes on by itself after a job of SLURM's was requeued.
        return SLURMEnvironment.detect() and trainer._checkpoint_connector._hpc_resume_path is not None
    return checkpoint == "hpc" or Path(checkpoint).resolve().parent in map(Path.resolve, _checkpoint_folders(trainer))


@rank_zero_only
def set_aside(trainer: Trainer) -> None:
    """Move what an earlier run left in a trainer's folders; call it before anything is written there."""
    moves = {path: folder for folder, path in _left(trainer)}
    if not moves:
        return
    homes = set(moves.values())
    version = next(f"version_{n}" for n in count() if not any((home / f"version_{n}").exists() for home in homes))
    for path, home in moves.items():
        target = home / version / path.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for home in sorted(homes):
        rank_zero_info(f"{shown(home)}: an earlier run's files are in {shown(home / version)} now")


def _left(trainer: Trainer) -> Iterator[tuple[Path, Path]]:
    """Yield the files that a run writes and that are there, each behind the folder that its version's goes into."""
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            folder = Path(logger.log_dir).resolve()
            yield from ((folder, path) for pattern in _LOGGED for path in folder.glob(pattern))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoint):
            folder, home = callback.folder(trainer).resolve(), callback.home(trainer)
            yield from ((home, path) for pattern in _names(callback) for path in folder.glob(pattern))
            yield from ((home, path) for path in home.glob(REPORT))


def _names(callback: RunCheckpoint) -> tuple[str, ...]:
    """Return patterns of the names that a callback gives to checkpoints."""
    template = callback.filename or "{epoch}-{step}"
    shown = r"\1=*" if callback.auto_insert_metric_name else "*"
    own = re.sub(r"\{([^:}]*)[^}]*\}", shown, template)
    return f"{own}{callback.FILE_EXTENSION}", f"{own}-v*{callback.FILE_EXTENSION}", "last.ckpt", "last-v*.ckpt"


def run_folders(trainer: Trainer) -> set[Path]:
    """Return the folders that a run's files go into."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
    return {callback.home(trainer) for callback in callbacks}


@rank_zero_only
def check_folders(trainer: Trainer) -> None:
    """Refuse folders of logs and checkpoints that cannot be written.

    Raises:
        UserError: naming what is in the way.
    """
    logs = {Path(logger.log_dir) for logger in trainer.loggers if logger.log_dir and "://" not in logger.log_dir}
    for folder in sorted(run_folders(trainer) | logs):
        check_output(folder, "the run's folder", is_folder=True)


def _checkpoint_folders(trainer: Trainer) -> list[Path]:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
    return [callback.folder(trainer) for callback in callbacks]
