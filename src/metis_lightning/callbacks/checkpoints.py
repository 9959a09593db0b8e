"""The checkpoints of a run: `last.ckpt` is its newest state, and each file is whole or not there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import proxy

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.weights.checkpoint import read_sealed, write_checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Writes local checkpoints whole or not at all, and checks every byte that it reads; others go Lightning's way."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a file."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path)
        else:
            write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return a file's content, its tensors on the CPU; it cannot run code."""
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=True)
        return read_sealed(Path(path))


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, whose `last.ckpt` is the newest state of the run, also at its end.

    It never stands beside a `last-v1.ckpt`, is a hard link where the same state has a file of its own, and a save that
    fails on one process fails on all.
    """

    # Of the state in `last.ckpt`; that at the start if there was none since.
    newest_step = -1

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints, which is Lightning's own, so that those of before are known."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; a `UserError` if it is no such state."""
        for name, own in self.state_dict().items():
            if isinstance(own, dict | str) and not isinstance(state_dict.get(name), type(own)):
                place = f"callbacks.{self.state_key}.{name}"
                raise UserError(f"the checkpoint's field {place} is missing or of another kind")
        super().load_state_dict(state_dict)

    def folder(self, trainer: Trainer) -> Path:
        """Return where the files go, before Lightning has set it."""
        # Lightning's own rule, which it keeps to itself.
        resolve: Callable[[Trainer], str] = getattr(self, "_ModelCheckpoint__resolve_ckpt_dir")  # noqa: B009
        return Path(resolve(trainer))

    def home(self, trainer: Trainer) -> Path:
        """Return the folder of the run, in which `checkpoints` is the usual name of the files' own."""
        folder = self.folder(trainer).resolve()
        return folder.parent if folder.name == "checkpoints" else folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and remove what a killed run left half written."""
        super().setup(trainer, pl_module, stage)
        # The name says which state it is: a run that was resumed writes the same once more.
        if self.filename is None or "{step" in self.filename:
            self._enable_version_counter = False
        if stage == "fit" and trainer.is_global_zero and "://" not in str(self.dirpath):
            for left in Path(str(self.dirpath)).glob(f".*{self.FILE_EXTENSION}"):
                left.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the run starts, and that a new epoch does where the last batch of one was done."""
        super().on_train_start(trainer, pl_module)
        self.newest_step = trainer.global_step
        loop = trainer.fit_loop
        epoch = loop.epoch_progress.current
        if loop.restarted_mid_epoch and epoch.completed == epoch.ready:
            # Lightning 2.6 calls that epoch over and yet goes on as within it: the next one is not counted as begun,
            # and a second resume of the kind would hear it as another epoch.
            loop.reset_restart_stage()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Save what is due, and the last state of all."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # Lightning knows of saves by time with automatic optimization only.
        if not pl_module.automatic_optimization and self._time_is_up(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
        # Here, as at the end of training the loops have counted an epoch that is not over.
        is_last = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and trainer.max_epochs is not None:
            is_last = is_last or 0 <= trainer.max_epochs <= trainer.current_epoch + 1
        if self.save_last and is_last:
            self.save_newest(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state of a run that was ended early."""
        if self.save_last:
            self.save_newest(trainer)

    def save_newest(self, trainer: Trainer) -> Path:
        """Make `last.ckpt` the present state, if it is not; return its path."""
        path = Path(self.format_checkpoint_name(self._monitor_candidates(trainer), self.CHECKPOINT_NAME_LAST))
        if self.newest_step == trainer.global_step:
            return path
        self.last_model_path = str(path)
        written = Path(self._last_checkpoint_saved)
        # The same state was saved under a name of its own: a second name takes no room.
        if self._last_global_step_saved == trainer.global_step and written.is_file():
            on_all_processes(trainer, lambda: _link(written, path))
        else:
            self._write(trainer, str(path))
        self.newest_step = trainer.global_step
        return path

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: Mapping[str, Tensor]) -> None:
        if self.save_last:
            self.save_newest(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._write(trainer, filepath)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _write(self, trainer: Trainer, filepath: str) -> None:
        content = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        on_all_processes(trainer, lambda: trainer.strategy.checkpoint_io.save_checkpoint(content, filepath))

    def _time_is_up(self, trainer: Trainer) -> bool:
        if self._train_time_interval is None or self._should_skip_saving_checkpoint(trainer):
            return False
        now = time.monotonic()
        due = now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds()
        # Clocks differ; a process that saved alone would wait for the others forever.
        if due := bool(trainer.strategy.broadcast(due)):
            self._last_time_checked = now
        return due


def run_checkpoints(trainer: Trainer) -> list[RunCheckpoint]:
    """Return the callbacks of a trainer that save checkpoints."""
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def shown(path: Path) -> str:
    """Return a path as a user would write it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def on_all_processes(trainer: Trainer, action: Callable[[], object]) -> None:
    """Do what concerns the first process there; its `UserError` is raised on all, so that none waits for it."""
    problem = ""
    if trainer.is_global_zero:
        try:
            action()
        except UserError as error:
            problem = str(error)
    if problem := str(trainer.strategy.broadcast(problem)):
        raise UserError(problem)


def _link(written: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.unlink()
        # Not every file system has hard links.
        try:
            os.link(written, temporary)
        except OSError:
            shutil.copyfile(written, temporary)
